"""Leakage: which items of a test are in a training text, by their n-grams (GPT-3's 13-gram rule; Brown et al. 2020)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import require

WORDS = re.compile(r"\w+", re.UNICODE)


def words(text: str) -> list[str]:
    """Lower-case words, punctuation aside."""
    return WORDS.findall(text.lower())


@dataclass(frozen=True)
class Overlap:
    """The n-grams of a training text. Items shorter than `n` parts are looked for whole.

    n: parts of an n-gram; 13 words for prose, 8 for short items. characters: parts are characters, for tasks that are
    not written in words.
    """

    n: int
    characters: bool
    grams: frozenset[int]
    whole: frozenset[int]

    @classmethod
    def of(cls, texts: Iterable[str], n: int = 13, characters: bool = False) -> Overlap:
        """Of training documents."""
        require(1 <= n <= 1000, "n", f"is {n}", "give 1 to 1000 parts")
        grams: set[int] = set()
        whole: set[int] = set()
        for text in texts:
            parts = list(text) if characters else words(text)
            whole.add(hash(tuple(parts)))
            grams.update(hash(tuple(parts[i : i + n])) for i in range(len(parts) - n + 1))
        return cls(n, characters, frozenset(grams), frozenset(whole))

    def share(self, text: str) -> float:
        """The share of an item's n-grams that the training text has; of a short item 1 where it is a document of it."""
        parts = list(text) if self.characters else words(text)
        if len(parts) < self.n:
            return float(hash(tuple(parts)) in self.whole)
        found = [hash(tuple(parts[i : i + self.n])) in self.grams for i in range(len(parts) - self.n + 1)]
        return float(np.mean(found))

    def flagged(self, texts: Sequence[str], least: float = 0.0) -> np.ndarray:
        """Whether each item shares more than `least` of its n-grams [items] bool; 0: any."""
        return np.array([self.share(text) > least for text in texts])


def recall_and_precision(flagged: np.ndarray, planted: np.ndarray) -> tuple[float, float]:
    """(share of the planted that are flagged, share of the flagged that were planted); NaN where there are none."""
    both = float((flagged & planted).sum())
    recall = both / planted.sum() if planted.any() else float("nan")
    return recall, both / flagged.sum() if flagged.any() else float("nan")


def planted_corpus(
    training: Sequence[str], leaked: Sequence[str], repeats: int, per_document: int = 4, seed: int = 0
) -> list[str]:
    """Documents of `per_document` solved problems each, of a training set into which each leaked item fell `repeats`
    times: the planted truth that a checker and a score are tested on. The last document may be shorter."""
    require(per_document >= 1 and repeats >= 0, "repeats", f"is {repeats}", "give 0 or more")
    lines = [*training, *(item for item in leaked for _ in range(repeats))]
    order = np.random.default_rng(seed).permutation(len(lines))
    shuffled = [lines[i] for i in order]
    return [" ".join(shuffled[i : i + per_document]) for i in range(0, len(shuffled), per_document)]
