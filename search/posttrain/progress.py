"""Progress: what each segment of a completion adds to the chance that an answer at once would be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.typed import at_most, typed


@dataclass(frozen=True)
class Progress:
    """Segments end behind `delimiter`. Behind each, and before the first, `mark` is written for the policy and an
    answer drawn `samples` times; J is the share of right ones. The progress of a segment, which each of its tokens has
    in the batch, is J behind it less J before; that of the last one, which holds the answer, the reward less J before.
    So a completion's add up to its reward less J of an answer without a thought. Meta reinforcement fine-tuning (Qu et
    al. 2025, arXiv:2503.07572).
    """

    mark: str = "!"  # forces an answer
    delimiter: str = "|"  # ends a segment
    samples: int = 4  # answers behind each
    tokens: int = 4  # of an answer, at most, without its mark

    def __post_init__(self) -> None:
        at = "rollouts.progress"
        typed(self, at)
        at_most(self, at, samples=2**16, tokens=2**16)
        for name in ("mark", "delimiter"):
            require(getattr(self, name) != "", f"{at}.{name}", "is empty", "give the task's characters")
        for name in ("samples", "tokens"):
            require(getattr(self, name) >= 1, f"{at}.{name}", f"is {getattr(self, name)}", "give 1 or more")


def segments(texts: Sequence[str], delimiter: str) -> list[int]:
    """The numbers of tokens behind which a segment ends, of a completion whose first n tokens read texts[n - 1]. The
    last segment, which no delimiter ends, is not among them."""
    ends, before = [], 0
    for n, text in enumerate(texts, 1):
        if (count := text.count(delimiter)) > before:
            ends.append(n)
            before = count
    return [n for n in ends if n < len(texts)]


def gains(chances: Sequence[float], reward: float, ends: Sequence[int], length: int) -> np.ndarray:
    """The progress of every token `[length]` float32. chances: J before the first segment and behind each that ends
    at `ends`; a reward that is not finite makes the last segment's 0."""
    values = [*chances, reward if np.isfinite(reward) else chances[-1]]
    found = np.zeros(length, np.float32)
    for i, (start, stop) in enumerate(zip([0, *ends], [*ends, length], strict=True)):
        found[start:stop] = values[i + 1] - values[i]
    return found
