"""Tally: how many of a job's prompts were answered rightly, by their `task`, with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Tally:
    """right: task ("": prompts that name none) -> (prompts with an answer to compare with, those answered rightly)."""

    def __init__(self) -> None:
        self.right: dict[str, list[int]] = {}

    def add(self, line: dict[str, Any]) -> None:
        """One line of a job; one that was compared with nothing does not count."""
        if "correct" in line:
            counts = self.right.setdefault(str(line.get("task", "")), [0, 0])
            counts[0] += 1
            counts[1] += bool(line["correct"])


def wilson(right: int, count: int, interval: float = 0.9) -> tuple[float, float]:
    """The interval of a share by Wilson's score (1927); (0, 1) of nothing."""
    from scipy.stats import norm  # most of a second of import, which jobs without answers need not spend

    if count == 0:
        return 0.0, 1.0
    z, share = float(norm.ppf(0.5 + interval / 2)), right / count
    middle, scale = share + z * z / (2 * count), 1 + z * z / count
    half = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return (middle - half) / scale, (middle + half) / scale


def told(right: dict[str, list[int]]) -> Iterator[str]:
    """What a manifest's `right` says, one line for every task."""
    for task, (count, rightly) in sorted(right.items()):
        low, high = wilson(rightly, count)
        of = f" of {task}" if task else ""
        yield f"{rightly / count:.1%} of {count:,} answers{of} are right (90 % interval {low:.1%} to {high:.1%})"
