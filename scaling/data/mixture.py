"""Weighted mixtures: which source, and which of its examples, the i-th training example comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from scaling.data.permutation import permute

MAX_PERIOD = 2**16
_STREAM = 2**32  # of `permute`; the streams 0, 1, ... are the sources' own


@dataclass(frozen=True)
class Mixture:
    """Blocks of `period` examples, each holding `quotas[s]` examples of source s in an order of its own.

    So every block has exactly the wanted shares, and the i-th example is known in closed form.
    """

    quotas: tuple[int, ...]

    @classmethod
    def of(cls, weights: Sequence[float]) -> Mixture:
        """Weights as decimals say them, if their ratio has a period of up to MAX_PERIOD; else to 1 / MAX_PERIOD."""
        exact = [Fraction(str(weight)) for weight in weights]
        shares = [weight / sum(exact) for weight in exact]
        period = math.lcm(*(share.denominator for share in shares))
        if period <= MAX_PERIOD:
            return cls(tuple(int(share * period) for share in shares))
        return cls(tuple(largest_remainders(shares, MAX_PERIOD)))

    @property
    def period(self) -> int:
        """Examples per block."""
        return sum(self.quotas)

    def locate(self, example: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Source [...] and index within that source's own sequence [...], int64, of examples [...]."""
        example = np.asarray(example, np.int64)
        if len(self.quotas) == 1:
            return np.zeros_like(example), example
        block, place = np.divmod(example, self.period)
        slot = permute(place, self.period, seed=seed, epoch=block, stream=_STREAM)
        ends = np.cumsum(self.quotas)
        source = np.searchsorted(ends, slot, side="right")
        quota = np.asarray(self.quotas)[source]
        return source, block * quota + slot - (ends[source] - quota)

    def counts(self, examples: int, seed: int) -> list[int]:
        """Examples of each source among the first `examples`."""
        blocks, rest = divmod(examples, self.period)
        source, _ = self.locate(np.arange(examples - rest, examples), seed)
        extra = np.bincount(source, minlength=len(self.quotas))
        return [blocks * quota + int(more) for quota, more in zip(self.quotas, extra, strict=True)]


def largest_remainders(shares: Sequence[Fraction | float], total: int) -> list[int]:
    """Non-negative integers that add up to `total` in proportion to `shares`, which add up to 1."""
    exact = [share * total for share in shares]
    counts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
