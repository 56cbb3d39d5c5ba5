"""Streams of which the least loss is known: words of a Markov chain, facts that are asked by rank, tags of words.

Each is a `Sequences` whose `floor` is the expected loss of who knows it all, in nats for each label, so that a learning
curve's irreducible error need not be fitted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.tasks.sequences import Labelled, Sequences


def noise_entropy(share: float, others: int) -> float:
    """Nats of a label that is another, one of `others` alike likely, with this chance."""
    return float(-(1 - share) * np.log(1 - share) - share * np.log(share / others)) if share else 0.0


def fresh(kind: Sequences, rng: np.random.Generator, rows: int, steps: int = 100) -> Callable[[int], Labelled]:
    """What each step of a training reads, asked for in order: `rows` new sequences, drawn for so many steps at once."""
    drawn: list[Labelled] = []

    def feed(step: int) -> Labelled:
        if step % steps == 0:
            drawn[:] = [kind.draw(rng, rows * steps)]
        part = slice(step % steps * rows, (step % steps + 1) * rows)
        return Labelled(*(values[part] for values in drawn[0]))

    return feed


@dataclass(frozen=True)
class Words:
    """A Markov chain of first or second order. The next word follows from the last one or two: transitions are drawn
    once, from a Dirichlet distribution around Zipf's, and rows begin in its stationary distribution. Labels are the
    next words, from the second place on."""

    words: int = 32
    length: int = 32
    order: int = 2
    concentration: float = 16.0  # of the Dirichlet distribution, all words together: small is predictable
    seed: int = 0

    def __post_init__(self) -> None:
        require(2 <= self.words <= 128, "words.words", f"is {self.words}", "give 2 to 128")
        require(self.order in (1, 2), "words.order", f"is {self.order}", "use 1 or 2")
        require(self.length >= 2, "words.length", f"is {self.length}", "give 2 or more")
        require(self.concentration > 0, "words.concentration", f"is {self.concentration}", "give a positive number")

    @property
    def vocab_size(self) -> int:
        """The words."""
        return self.words

    @property
    def floor(self) -> float:
        """The entropy rate."""
        chances, pairs = _chain(self)
        logs = np.log(np.maximum(chances, np.finfo(float).tiny))
        return float(-np.sum(pairs[..., None] * chances * logs))

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, length]` each."""
        pairs, steps, n = _chain(self)[1], _steps(self), self.words
        tokens = np.empty((rows, self.length + 1), np.int32)
        tokens[:, 0], tokens[:, 1] = np.divmod(rng.choice(n**2, size=rows, p=pairs.ravel()), n)
        for t in range(2, self.length + 1):
            last = n * tokens[:, t - 2] + tokens[:, t - 1]
            tokens[:, t] = np.searchsorted(steps, last + rng.random(rows), side="right") - n * last
        scored = np.broadcast_to(np.arange(self.length) >= 1, (rows, self.length))
        return Labelled(tokens[:, :-1].copy(), tokens[:, 1:].copy(), scored)


@functools.lru_cache(maxsize=4)
def _chain(kind: Words) -> tuple[np.ndarray, np.ndarray]:
    """(chances of the next word by the last two `[words, words, words]`, stationary chances of pairs)."""
    n = kind.words
    zipf = 1 / np.arange(1, n + 1)
    zipf /= zipf.sum()
    contexts = (1, n) if kind.order == 1 else (n, n)
    drawn = np.random.default_rng(kind.seed).dirichlet(kind.concentration * zipf, contexts)
    chances = np.broadcast_to(drawn, (n, n, n))
    pairs = np.outer(zipf, zipf)
    for _ in range(10_000):  # at a share of a thousandth of what is left each, or faster, this has long converged
        after = np.einsum("ab,abc->bc", pairs, chances)
        if np.abs(after - pairs).max() < 1e-15:
            break
        pairs = after
    return chances, pairs / pairs.sum()


@functools.lru_cache(maxsize=4)
def _steps(kind: Words) -> np.ndarray:
    """`[words^3]`: the number of a pair plus the summed chances up to each word, so that one search draws all rows."""
    sums = _chain(kind)[0].reshape(-1, kind.words).cumsum(-1)
    sums[:, -1] = 1.0
    return (sums + np.arange(len(sums))[:, None]).ravel()


@dataclass(frozen=True)
class Facts:
    """Key, key, value, key, key, value, ...: fact k of `facts` is asked with chance (k + 1)^-power, and its value was
    drawn once. Of the facts drawn n times, those that were not seen have a chance of some n^-(1 - 1 / power): so fall
    the errors of who learns by heart. The label of each second key is the value, or another with chance `noise`."""

    facts: int = 1024
    values: int = 32
    power: float = 1.5
    noise: float = 0.1
    length: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        require(2 <= self.values <= 128, "facts.values", f"is {self.values}", "give 2 to 128")
        require(1 <= self.facts <= self.values**2, "facts.facts", f"is {self.facts}", f"give 1 to {self.values**2}")
        require(self.length >= 3, "facts.length", f"is {self.length}", "give 3 or more")
        require(self.power > 0, "facts.power", f"is {self.power}", "give a positive number")
        require(0 <= self.noise < 1, "facts.noise", f"is {self.noise}", "give a share below 1")

    @property
    def vocab_size(self) -> int:
        """Digits of keys, which are as many as values, and values."""
        return 2 * self.values

    @property
    def floor(self) -> float:
        """What the noise costs."""
        return noise_entropy(self.noise, self.values - 1)

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, length]` each; what is over at the end is filled with 0 and has no label."""
        n, made = self.length // 3, np.random.default_rng(self.seed)
        chances = np.arange(1, self.facts + 1) ** -self.power
        keys, known = made.permutation(self.values**2)[: self.facts], made.integers(self.values, size=self.facts)
        asked = rng.choice(self.facts, size=(rows, n), p=chances / chances.sum())
        other = (known[asked] + rng.integers(1, self.values, (rows, n))) % self.values
        value = self.values + np.where(rng.random((rows, n)) < self.noise, other, known[asked])
        tokens, labels = np.zeros((2, rows, self.length), np.int32)
        tokens[:, 0 : 3 * n : 3], tokens[:, 1 : 3 * n : 3] = np.divmod(keys[asked], self.values)
        tokens[:, 2 : 3 * n : 3] = value
        labels[:, 1 : 3 * n : 3] = value
        return Labelled(tokens, labels, labels > 0)


@dataclass(frozen=True)
class Tags:
    """Words by Zipf's law, and a yes or no for each from the second on: whether a score of the word and one of the word
    before it, both drawn once, have a positive sum. A tag is wrong with chance `noise`."""

    words: int = 62
    noise: float = 0.1
    length: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.words >= 2, "tags.words", f"is {self.words}", "give 2 or more")
        require(self.length >= 2, "tags.length", f"is {self.length}", "give 2 or more")
        require(0 <= self.noise < 1, "tags.noise", f"is {self.noise}", "give a share below 1")

    @property
    def vocab_size(self) -> int:
        """No, yes and the words."""
        return 2 + self.words

    @property
    def floor(self) -> float:
        """What the noise costs."""
        return noise_entropy(self.noise, 1)

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, length]` each."""
        own, before = np.random.default_rng(self.seed).normal(size=(2, self.words))
        zipf = 1 / np.arange(1, self.words + 1)
        words = rng.choice(self.words, size=(rows, self.length), p=zipf / zipf.sum())
        labels = np.zeros((rows, self.length), np.int32)
        labels[:, 1:] = (own[words[:, 1:]] + before[words[:, :-1]] > 0) ^ (
            rng.random((rows, self.length - 1)) < self.noise
        )
        scored = np.broadcast_to(np.arange(self.length) >= 1, (rows, self.length))
        return Labelled((2 + words).astype(np.int32), labels, scored)
