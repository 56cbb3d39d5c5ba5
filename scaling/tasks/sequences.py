"""Sequences of tokens with labels at some places, which ask one thing of a mixer: to recall, copy or follow a state.

Each kind is exact: a label follows from the tokens up to its place. Drawn by numpy from a generator alone, so that the
same seed gives the same sequences everywhere. Labels are no next tokens: they are compared with what a model says at
their own place.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from models.errors import require


class Labelled(NamedTuple):
    """tokens, labels `[rows, length]` int32 and scored `[rows, length]` bool: where there is a label."""

    tokens: np.ndarray
    labels: np.ndarray
    scored: np.ndarray


class Sequences(Protocol):
    """A kind of sequences: tokens and labels are below `vocab_size`."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """So many sequences."""


@dataclass(frozen=True)
class AssociativeRecall:
    """Multi-query associative recall (Arora et al. 2023): k_1 v_1 ... k_n v_n, then every key once more, apart.

    Token 0 fills, keys are those below half of the vocabulary, values the others, both without replacement. Key i
    stands again at 2 n + 2 g_i, where its label is its value; the gaps g are drawn without replacement with weight
    (g + 1)^(power - 1), so that with a small power most questions come soon, and with 1 anywhere.
    """

    vocab: int = 64
    length: int = 64
    pairs: int = 8
    power: float = 0.01

    def __post_init__(self) -> None:
        require(self.pairs >= 1, "recall.pairs", f"is {self.pairs}", "give 1 or more")
        fix = f"give at least {4 * self.pairs}, which ask for every pair"
        require(self.length >= 4 * self.pairs, "recall.length", f"is {self.length}", fix)
        fix = f"give at least {2 * self.pairs + 2}"
        require(self.vocab >= 2 * self.pairs + 2, "recall.vocab", f"is {self.vocab}", fix)
        require(self.power > 0, "recall.power", f"is {self.power}", "give a positive number; 1 asks anywhere alike")

    @property
    def vocab_size(self) -> int:
        """The fill, keys and values."""
        return self.vocab

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, length]` each."""
        n, half = self.pairs, self.vocab // 2
        keys = 1 + np.argsort(rng.random((rows, half - 1)), axis=1)[:, :n]
        values = half + np.argsort(rng.random((rows, self.vocab - half)), axis=1)[:, :n]
        tokens, labels = np.zeros((2, rows, self.length), np.int32)
        tokens[:, 0 : 2 * n : 2], tokens[:, 1 : 2 * n : 2] = keys, values
        gaps = np.arange((self.length - 2 * n) // 2)
        # the n largest of log weight + Gumbel noise are n draws without replacement
        noisy = (self.power - 1) * np.log(gaps + 1) + rng.gumbel(size=(rows, len(gaps)))
        places = 2 * n + 2 * np.argsort(-noisy, axis=1)[:, :n]
        np.put_along_axis(tokens, places, keys.astype(np.int32), axis=1)
        np.put_along_axis(labels, places, values.astype(np.int32), axis=1)
        return Labelled(tokens, labels, labels > 0)


@dataclass(frozen=True)
class Copying:
    """x_1 ... x_n, a separator, and x_1 ... x_n again: from the separator on each place's label is the next symbol."""

    symbols: int = 16
    count: int = 16

    def __post_init__(self) -> None:
        for field in ("symbols", "count"):
            require(getattr(self, field) >= 1, f"copying.{field}", f"is {getattr(self, field)}", "give 1 or more")

    @property
    def vocab_size(self) -> int:
        """The symbols and the separator, which is the last."""
        return self.symbols + 1

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, 2 count]` each: the last symbol need not be read again."""
        x = rng.integers(0, self.symbols, (rows, self.count)).astype(np.int32)
        separator, nothing = np.full((rows, 1), self.symbols, np.int32), np.zeros_like(x)
        scored = np.broadcast_to(np.arange(2 * self.count) >= self.count, (rows, 2 * self.count))
        return Labelled(np.concatenate([x, separator, x[:, :-1]], axis=1), np.concatenate([nothing, x], axis=1), scored)


@dataclass(frozen=True)
class Passkey:
    """Digits stated somewhere in filler that repeats, and asked for at the end (Mohtashami & Jaggi 2023).

    Tokens 0 to 9 are digits, 10 announces them, 11 asks, the `filler` after them follow one another in a circle. From
    the question on each place's label is the next digit.
    """

    length: int = 128
    digits: int = 5
    times: int = 2  # that they are stated, one right after the other
    filler: int = 8

    def __post_init__(self) -> None:
        for field in ("digits", "times", "filler"):
            require(getattr(self, field) >= 1, f"passkey.{field}", f"is {getattr(self, field)}", "give 1 or more")
        least = self._told + self.digits
        require(self.length >= least, "passkey.length", f"is {self.length}", f"give at least {least}")

    @property
    def _told(self) -> int:
        return self.times * (self.digits + 1)

    @property
    def vocab_size(self) -> int:
        """Digits, both marks and the filler."""
        return 12 + self.filler

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, length]` each; the depth is uniform."""
        n = self.digits
        room = self.length - n - self._told  # tokens of filler
        key = rng.integers(0, 10, (rows, n)).astype(np.int32)
        told = np.tile(np.concatenate([np.full((rows, 1), 10, np.int32), key], axis=1), self.times)
        depth = rng.integers(0, room + 1, rows)
        at = np.arange(self.length - n)
        filler = 12 + np.where(at < depth[:, None], at, at - self._told) % self.filler
        tokens = np.concatenate([filler, np.full((rows, 1), 11), key[:, :-1]], axis=1).astype(np.int32)
        np.put_along_axis(tokens, depth[:, None] + np.arange(self._told), told, axis=1)
        labels = np.zeros_like(tokens)
        labels[:, -n:] = key
        return Labelled(tokens, labels, np.broadcast_to(np.arange(self.length) >= self.length - n, labels.shape))


@dataclass(frozen=True)
class StateTracking:
    """Permutations of `order` things, and at every place the product of all so far: parity for 2, S_3 for 3.

    Tokens and labels number the permutations in lexicographic order; the newest is applied last.
    """

    order: int = 2
    length: int = 32

    def __post_init__(self) -> None:
        require(2 <= self.order <= 5, "tracking.order", f"is {self.order}", "use 2 (parity) to 5")
        require(self.length >= 1, "tracking.length", f"is {self.length}", "give 1 or more")

    @property
    def vocab_size(self) -> int:
        """How many permutations there are."""
        return len(_products(self.order))

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, length]` each."""
        table = _products(self.order)
        tokens = rng.integers(0, len(table), (rows, self.length)).astype(np.int32)
        labels = tokens.copy()
        for t in range(1, self.length):
            labels[:, t] = table[labels[:, t - 1], tokens[:, t]]
        return Labelled(tokens, labels, np.ones(tokens.shape, bool))


@dataclass(frozen=True)
class TripleMatch:
    """Whether two earlier tokens and a place's own sum to 0 modulo `modulus` (Match3 of Sanford et al. 2023): 1 or 0.

    The two lie at different places before the third. Where one place taken twice, its own or an earlier one, would
    complete a triple, attention to single tokens could see it: such places have no label. Of the others as many yes as
    no are scored at every place, so that no constant has more than half of them right.
    """

    modulus: int = 11
    length: int = 10

    def __post_init__(self) -> None:
        require(self.modulus >= 3, "triple.modulus", f"is {self.modulus}", "give 3 or more")
        require(self.length >= 3, "triple.length", f"is {self.length}", "give 3 or more, so that there is a triple")

    @property
    def vocab_size(self) -> int:
        """The residues."""
        return self.modulus

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, length]` each."""
        tokens = rng.integers(0, self.modulus, (rows, self.length)).astype(np.int32)
        labels, scored = np.zeros_like(tokens), np.zeros(tokens.shape, bool)
        for at in range(2, self.length):
            before, own = tokens[:, :at], tokens[:, at, None]
            j, k = np.triu_indices(at, 1)
            yes = ((before[:, j] + before[:, k] + own) % self.modulus == 0).any(1)
            upto = tokens[:, : at + 1]
            with_itself = ((2 * upto + own) % self.modulus == 0) | ((upto + 2 * own) % self.modulus == 0)
            asked = [np.flatnonzero(~with_itself.any(1) & (yes == answer)) for answer in (True, False)]
            fewer = min(map(len, asked))
            scored[np.concatenate([places[:fewer] for places in asked]), at] = True
            labels[:, at] = yes
        return Labelled(tokens, labels, scored)


@dataclass(frozen=True)
class Chains:
    """Markov chains, each row with transitions of its own, drawn from a symmetric Dirichlet distribution; the label of
    every place is the next token. What came before tells the transitions, the better the longer it is."""

    symbols: int = 8
    length: int = 64
    concentration: float = 0.1  # small: one transition of each symbol is likely, the others are rare

    def __post_init__(self) -> None:
        for field in ("symbols", "length"):
            require(getattr(self, field) >= 1, f"chains.{field}", f"is {getattr(self, field)}", "give 1 or more")
        require(self.concentration > 0, "chains.concentration", f"is {self.concentration}", "give a positive number")

    @property
    def vocab_size(self) -> int:
        """The symbols."""
        return self.symbols

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, length]` each."""
        chances = rng.dirichlet([self.concentration] * self.symbols, (rows, self.symbols)).cumsum(-1)
        tokens = np.empty((rows, self.length + 1), np.int32)
        tokens[:, 0] = rng.integers(0, self.symbols, rows)
        for t in range(self.length):
            below = rng.random((rows, 1)) > chances[np.arange(rows), tokens[:, t]]
            tokens[:, t + 1] = np.minimum(below.sum(1), self.symbols - 1)
        return Labelled(tokens[:, :-1].copy(), tokens[:, 1:].copy(), np.ones((rows, self.length), bool))


@functools.cache
def _products(order: int) -> np.ndarray:
    """`[first, then]` int32: the number of the permutation that does `first`, then `then`."""
    elements = list(itertools.permutations(range(order)))
    number = {element: i for i, element in enumerate(elements)}
    return np.array([[number[tuple(then[i] for i in first)] for then in elements] for first in elements], np.int32)
