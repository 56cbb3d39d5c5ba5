"""Skills: what to do with a row of symbols, said clearly, said with clutter between, or answered wrongly.

A world for mixtures of training data: which skills, in which style, how noisy, how many of each is up to who draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from models.errors import ConfigError, nearest, require
from scaling.tasks.sequences import Labelled

Style = Literal["question", "statement"]
STYLES: tuple[Style, ...] = ("question", "statement")
_Rule = Callable[[np.ndarray, int], np.ndarray]  # rows [rows, length] and the number of symbols -> answers, alike

RULES: dict[str, _Rule] = {
    "copy": lambda x, n: x,
    "reverse": lambda x, n: x[:, ::-1],
    "rotate": lambda x, n: np.roll(x, -1, axis=1),
    "swap": lambda x, n: x[:, [i ^ 1 if i ^ 1 < x.shape[1] else i for i in range(x.shape[1])]],  # neighbours, in pairs
    "successor": lambda x, n: (x + 1) % n,
    "complement": lambda x, n: n - 1 - x,
    "sort": lambda x, n: np.sort(x, axis=1),
    "highest": lambda x, n: np.maximum.accumulate(x, axis=1),  # so far
    "sums": lambda x, n: np.cumsum(x, axis=1) % n,  # so far, modulo the number of symbols
    "differences": lambda x, n: (x - np.roll(x, 1, axis=1)) % n,  # from the one before, of the first from the last
}


@dataclass(frozen=True)
class Skills:
    """A skill's name and a row of symbols, a mark, and the answer, whose symbols are the labels.

    Symbol s is token s; then follow the mark, one token for each of RULES in each style, and the clutter. A question
    names the skill before the row, a statement after it, each with tokens of its own.

    names: of the skills, drawn by `weights` (all alike where there are none). clutter: so many tokens stand at random
    places between the others; they ask for nothing. noise: share of the examples that are answered with another of the
    ten skills.
    """

    names: tuple[str, ...] = tuple(RULES)
    weights: tuple[float, ...] = ()
    symbols: int = 10
    length: int = 6
    style: Style = "question"
    clutter: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        require(len(self.names) >= 1, "skills.names", "is empty", f"name some of {', '.join(RULES)}")
        for name in self.names:
            if name not in RULES:
                match = nearest(name, RULES)
                fix = f"did you mean {match!r}?" if match else f"use some of {', '.join(RULES)}"
                raise ConfigError("skills.names", f"{name!r} is no skill", fix)
        fits = not self.weights or (len(self.weights) == len(self.names) and min(self.weights) >= 0 < sum(self.weights))
        require(fits, "skills.weights", f"is {self.weights}", f"give {len(self.names)} numbers from 0 on, not all 0")
        require(2 <= self.symbols <= 256, "skills.symbols", f"is {self.symbols}", "use 2 to 256")
        require(1 <= self.length <= 256, "skills.length", f"is {self.length}", "use 1 to 256")
        require(self.style in STYLES, "skills.style", f"is {self.style!r}", f"use {' or '.join(STYLES)}")
        require(0 <= self.clutter <= 1024, "skills.clutter", f"is {self.clutter}", "use 0 to 1024")
        require(0 <= self.noise <= 1, "skills.noise", f"is {self.noise}", "give a share from 0 to 1")

    @property
    def mark(self) -> int:
        """The token after which the answer stands."""
        return self.symbols

    @property
    def vocab_size(self) -> int:
        """Symbols, the mark, the names of all skills in both styles, and as many kinds of clutter as symbols."""
        return self._first_clutter + self.symbols

    @property
    def size(self) -> int:
        """Places of a sequence."""
        return 1 + 2 * self.length + self.clutter

    @property
    def _first_clutter(self) -> int:
        return self.symbols + 1 + len(RULES) * len(STYLES)

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, size]` each; as many labels in a row as symbols in an answer."""
        shares = np.array(self.weights or (1,) * len(self.names), float)
        chosen = rng.choice(len(self.names), size=rows, p=shares / shares.sum())
        skill = np.array([list(RULES).index(name) for name in self.names])[chosen]
        wrong = (skill + rng.integers(1, len(RULES), rows)) % len(RULES)
        answered = np.where(rng.random(rows) < self.noise, wrong, skill)
        x = rng.integers(self.symbols, size=(rows, self.length))
        return self._cluttered(rng, self._said(skill, answered, x))

    def rephrased(self, data: Labelled, style: Style) -> Labelled:
        """Such rows said anew in a style, without clutter and with the right answer: `[rows, 1 + 2 length]` each."""
        at = np.nonzero(data.tokens < self._first_clutter)
        clear = data.tokens[at].reshape(len(data.tokens), -1)[:, : self.length + 1]
        name = 0 if self.style == "question" else self.length
        skill = clear[:, name] - self.mark - 1 - len(RULES) * STYLES.index(self.style)
        clean = replace(self, style=style, clutter=0, noise=0.0)
        return clean._said(skill, skill, np.delete(clear, name, axis=1))

    def _said(self, skill: np.ndarray, answered: np.ndarray, x: np.ndarray) -> Labelled:
        """The rows that name `skill` and answer with `answered` `[rows]`, of symbols `[rows, length]`; no clutter."""
        rows = len(x)
        answers = np.stack([rule(x, self.symbols) for rule in RULES.values()])[answered, np.arange(rows)]
        name = self.mark + 1 + len(RULES) * STYLES.index(self.style) + skill[:, None]
        asked = [name, x] if self.style == "question" else [x, name]
        told = np.concatenate([*asked, np.full((rows, 1), self.mark), answers], axis=1).astype(np.int32)
        labels = np.concatenate([np.zeros_like(told[:, : self.length + 1]), answers], axis=1).astype(np.int32)
        scored = np.broadcast_to(np.arange(told.shape[1] - 1) > self.length, labels.shape)
        return Labelled(told[:, :-1], labels, scored)

    def _cluttered(self, rng: np.random.Generator, data: Labelled) -> Labelled:
        rows, places = data.tokens.shape
        at = np.sort(np.argsort(rng.random((rows, self.size)), axis=1)[:, :places], axis=1)
        tokens = self._first_clutter + rng.integers(self.symbols, size=(rows, self.size)).astype(np.int32)
        labels, scored = np.zeros_like(tokens), np.zeros(tokens.shape, bool)
        for whole, part in zip((tokens, labels, scored), data, strict=True):
            np.put_along_axis(whole, at, part.astype(whole.dtype), axis=1)
        return Labelled(tokens, labels, scored)


def joined(parts: Sequence[Labelled]) -> Labelled:
    """The rows of all parts; the shorter are filled up with symbol 0 at the end, where nothing is asked."""
    longest = max(part.tokens.shape[1] for part in parts)
    filled = [[np.pad(x, ((0, 0), (0, longest - x.shape[1]))) for x in part] for part in parts]
    return Labelled(*map(np.concatenate, zip(*filled, strict=True)))


def passes(data: Labelled, rows: int, seed: int) -> Callable[[int], Labelled]:
    """Batches of `rows` of a given set, step by step: every row once in each pass over it, in an order of its own.

    A pass that is no multiple of `rows` goes on with the next within a batch.
    """
    count = len(data.tokens)

    def batch(step: int) -> Labelled:
        at = np.arange(step * rows, (step + 1) * rows)
        orders = {n: np.random.default_rng([seed, n]).permutation(count) for n in set((at // count).tolist())}
        chosen = np.array([orders[n][i] for n, i in zip((at // count).tolist(), (at % count).tolist(), strict=True)])
        return Labelled(*(x[chosen] for x in data))

    return batch
