"""Filters: which of the completions that were drawn a batch keeps. They see rewards and errors, never parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from models.errors import require
from scaling.typed import typed

NO_CALL = 0.5  # penalty of a completion that called no tool


@dataclass(frozen=True)
class FewestErrors:
    """Draws `oversample` times a group; of failures it keeps uniform ones, of successes those with the fewest errors.

    The share of successes stays what it was drawn with, rounded. A success is a reward above 0; its errors are the
    share of its calls that failed, or a half where it made none. One without a reward is kept only when there are too
    few others. Resample on Correct of rStar2-Agent (Shang et al. 2025, arXiv:2508.20722), without its penalty of
    format, and with the best in place of a draw that prefers them.
    """

    oversample: int = 2  # completions that are drawn for each that is kept

    untagged: ClassVar[bool] = True  # in JSON: it was the only filter

    def __post_init__(self) -> None:
        typed(self, "rollouts.filter")
        problem = f"is {self.oversample}"
        require(2 <= self.oversample <= 64, "rollouts.filter.oversample", problem, "give a whole number from 2 to 64")

    def kept(
        self, rng: np.random.Generator, rewards: np.ndarray, calls: np.ndarray, failed: np.ndarray, keep: int
    ) -> np.ndarray:
        """Which `keep` of n completions of one prompt stay: their indices, ascending. rewards, calls, failed: `[n]`."""
        penalty = np.where(calls > 0, failed / np.maximum(calls, 1), NO_CALL)
        order = rng.permutation(len(rewards))  # ties, and failures, are left to chance
        right = order[rewards[order] > 0]
        right = right[np.argsort(penalty[right], kind="stable")]
        wrong, none = order[rewards[order] <= 0], order[~np.isfinite(rewards[order])]
        share = len(right) / max(len(right) + len(wrong), 1)
        best = min(len(right), int(np.floor(share * keep + 0.5)))
        chosen = [*right[:best], *wrong[: keep - best]]
        return np.sort([*chosen, *none[: keep - len(chosen)]])


@dataclass(frozen=True)
class Balanced:
    """Draws `oversample` times a group and keeps as many successes as failures, uniform ones of each, or as near to
    that as there are; so that a group in which any two differ seldom teaches nothing. A success is a reward above 0."""

    oversample: int = 2  # completions that are drawn for each that is kept

    def __post_init__(self) -> None:
        typed(self, "rollouts.filter")
        problem = f"is {self.oversample}"
        require(2 <= self.oversample <= 64, "rollouts.filter.oversample", problem, "give a whole number from 2 to 64")

    def kept(
        self, rng: np.random.Generator, rewards: np.ndarray, calls: np.ndarray, failed: np.ndarray, keep: int
    ) -> np.ndarray:
        """As `FewestErrors.kept`."""
        order = rng.permutation(len(rewards))
        right, wrong = order[rewards[order] > 0], order[rewards[order] <= 0]
        best = min(len(right), max(keep // 2, keep - len(wrong)))
        chosen = [*right[:best], *wrong[: keep - best]]
        return np.sort([*chosen, *order[~np.isfinite(rewards[order])][: keep - len(chosen)]])


Filter = FewestErrors | Balanced
