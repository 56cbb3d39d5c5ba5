"""Biographies: people with facts that no rule foretells, and the bits that a model knows of them.

After Physics of language models, part 3.3 (Allen-Zhu & Li 2024, arXiv:2404.05405): how many bits a parameter holds.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.tasks.sequences import Labelled

BASE, PLACES = 16, 3  # a name is so many digits of this base
_NAMES = BASE**PLACES


@dataclass(frozen=True)
class Biographies:
    """A name and a person's attributes in a fixed order; the attributes are the labels, each at the place before.

    Value v is token v, digit d of a name token `values` + d. Names are distinct; every attribute is uniform over the
    values, independently of all others, so that a person is attributes x log2(values) bits. The people follow from
    `seed`.
    """

    people: int = 256
    attributes: int = 8
    values: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        most = _NAMES // 2  # the other names are for people who are met once
        require(1 <= self.people <= most, "biographies.people", f"is {self.people}", f"use 1 to {most}")
        require(1 <= self.attributes <= 256, "biographies.attributes", f"is {self.attributes}", "use 1 to 256")
        require(2 <= self.values <= 65536, "biographies.values", f"is {self.values}", "use 2 to 65536")
        require(self.seed >= 0, "biographies.seed", f"is {self.seed}", "use 0 or more")

    @property
    def vocab_size(self) -> int:
        """Values and digits."""
        return self.values + BASE

    @property
    def size(self) -> int:
        """Places of a sequence."""
        return PLACES + self.attributes - 1

    @property
    def bits(self) -> float:
        """What there is to know of all people, names aside."""
        return self.people * self.attributes * math.log2(self.values)

    def everyone(self) -> Labelled:
        """`[people, size]` each: every person once."""
        names, facts = _people(self)
        return self._told(names[: self.people], facts)

    def strangers(self, rng: np.random.Generator, rows: int) -> Labelled:
        """Such rows of people with names that nobody of the others has, drawn anew each time: nothing to learn."""
        names = _people(self)[0][self.people :]
        facts = rng.integers(self.values, size=(rows, self.attributes))
        return self._told(names[rng.integers(len(names), size=rows)], facts)

    def known_bits(self, nats: np.ndarray) -> float:
        """Bits that a model knows of all people by its losses at the labels of `everyone` `[people, size]`, else 0:
        what there is to know less what it is surprised by. At least 0."""
        return max(0.0, self.bits - float(nats.sum()) / math.log(2))

    def _told(self, names: np.ndarray, facts: np.ndarray) -> Labelled:
        digits = names[:, None] // BASE ** np.arange(PLACES)[::-1] % BASE
        whole = np.concatenate([self.values + digits, facts], axis=1).astype(np.int32)
        scored = np.broadcast_to(np.arange(self.size) >= PLACES - 1, (len(whole), self.size))
        return Labelled(whole[:, :-1], np.where(scored, whole[:, 1:], 0), scored)


@functools.lru_cache(maxsize=8)
def _people(kind: Biographies) -> tuple[np.ndarray, np.ndarray]:
    """(all names in an order of their own, of which the first are the people's; facts `[people, attributes]`)."""
    rng = np.random.default_rng(kind.seed)
    return rng.permutation(_NAMES), rng.integers(kind.values, size=(kind.people, kind.attributes))
