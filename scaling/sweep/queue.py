"""The queue of a sweep: which stack is taken next, and how long it all takes."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

from models.errors import ConfigError
from scaling.sweep.stack import Stack
from scaling.sweep.trial import Trial


def check_priorities(priorities: Mapping[str, int]) -> None:
    """ConfigError unless every key reads `field=value`."""
    for rule in priorities:
        if not all(part.strip() for part in rule.partition("=")):
            raise ConfigError("priorities", f"has {rule!r}", 'write "field=value", such as "model.d_model=64"')


def level(trial: Trial, priorities: Mapping[str, int]) -> int:
    """The highest level among the rules `field=value` that a trial meets, 0 when it meets none.

    Raises ConfigError for a field that trials do not have.
    """
    found = []
    for rule, number in priorities.items():
        path, _, value = rule.partition("=")
        if str(_field(trial, path.strip())) == value.strip():
            found.append(number)
    return max(found, default=0)


def ordered(stacks: Sequence[Stack], priorities: Mapping[str, int]) -> list[Stack]:
    """Highest priority first, then most work first: what is long must not begin last."""
    return sorted(stacks, key=lambda stack: (-max(level(t, priorities) for t in stack.trials), -stack.work))


def makespan(durations: Sequence[float], workers: int) -> float:
    """Seconds until the last of `durations` ends when each of `workers` takes the next one as soon as it is free."""
    free = [0.0] * workers
    for duration in durations:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def lower_bound(durations: Sequence[float], workers: int) -> float:
    """No order can end sooner (seconds): neither than the longest, nor than all of it spread evenly."""
    return max(max(durations, default=0.0), sum(durations) / workers)


def _field(trial: Trial, path: str) -> Any:
    value: Any = trial
    for name in path.split("."):
        if not hasattr(value, name):
            raise ConfigError("priorities", f"names {path!r}, which trials do not have", "write a field of a trial")
        value = getattr(value, name)
    return value
