"""Limits: what ends a trial before its last step, a limit on its seconds or better rivals (successive halving)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from models.errors import require
from scaling.typed import at_most, typed


@dataclass(frozen=True)
class Limits:
    """When the trials of a sweep end early. The defaults let every trial reach its last step.

    trial_s: seconds of training, compilation aside; a trial that takes longer has failed. Machines differ, so tables
    do where this strikes; 0 is no limit.
    rungs: fractions of a trial's steps at which it is compared, by held-out loss, with the trials of its stack that are
    as long; `keep` of those go on, rounded up, the others are stopped (successive halving, Jamieson & Talwalkar 2016).
    A stack is fixed when the sweep is planned, so what stops does not depend on where or in which order it ran.
    """

    trial_s: float = 0.0  # seconds of training; 0: no limit
    rungs: tuple[float, ...] = ()  # fractions of the steps at which trials are compared
    keep: float = 0.5  # share of them that goes on

    def __post_init__(self) -> None:
        typed(self, "limits")
        at_most(self, "limits", trial_s=1e9)
        require(len(self.rungs) <= 100, "limits.rungs", f"has {len(self.rungs)} fractions", "give at most 100")
        require(self.trial_s >= 0, "limits.trial_s", f"is {self.trial_s}", "give seconds, or 0 for no limit")
        require(0 < self.keep < 1, "limits.keep", f"is {self.keep}", "give the share that goes on, such as 0.5")
        for rung in self.rungs:
            require(0 < rung < 1, "limits.rungs", f"has {rung}", "give fractions of the steps between 0 and 1")


@dataclass(frozen=True)
class Verdict:
    """Why a run ends now. stopped: by its rivals; else it failed. loss: held-out, nats/token, where it was measured."""

    reason: str
    stopped: bool = False
    loss: float | None = None


class Judge:
    """Decides for the runs of one stack, at every boundary of the loop, which of them end.

    steps: of each run. comparable: whether run i takes part in halving; a run that others branch from does not.
    earlier: run -> step at which an earlier process stopped it.
    """

    def __init__(
        self, limits: Limits, steps: Sequence[int], comparable: Sequence[bool], earlier: Mapping[int, int] | None = None
    ):
        self.limits, self.steps, self.earlier = limits, list(steps), dict(earlier or {})
        self.rungs: dict[int, list[list[int]]] = defaultdict(list)  # step -> groups that are compared there
        for length in sorted(set(steps)):
            group = [i for i, n in enumerate(steps) if n == length and comparable[i]]
            for step in sorted({max(1, min(length - 1, round(rung * length))) for rung in limits.rungs}):
                if len(group) > 1:
                    self.rungs[step].append(group)

    def next_rung(self, step: int) -> list[int]:
        """The first step after `step` at which runs are compared, if there is one."""
        return sorted(rung for rung in self.rungs if rung > step)[:1]

    def verdicts(
        self, step: int, alive: Sequence[int], seconds: Sequence[float], loss: Callable[[int], float]
    ) -> dict[int, Verdict]:
        """The runs among `alive` that end at `step`.

        seconds: of training, by run. loss: measures the held-out loss of a run.
        """
        ends = {i: Verdict(f"took over {self.limits.trial_s:g} s of training by step {step} of {self.steps[i]}")
                for i in alive if 0 < self.limits.trial_s < seconds[i]}  # fmt: skip
        for group in self.rungs.get(step, ()):
            rivals = [i for i in group if i in alive and i not in ends]
            before = sum(self.earlier.get(i) == step for i in group)  # found worse by a process that was then killed
            entered = len(rivals) + before
            surplus = entered - math.ceil(entered * self.limits.keep) - before
            if surplus <= 0:
                continue
            losses = {i: loss(i) for i in rivals}
            ranked = sorted(rivals, key=lambda i: (not math.isfinite(losses[i]), losses[i], i))
            for rank, i in list(enumerate(ranked, 1))[len(ranked) - surplus :]:
                place = f"{rank} of {entered} at step {step} of {self.steps[i]}"
                reason = (
                    f"stopped as number {place}: held-out loss {losses[i]:.4f}, the best has {min(losses.values()):.4f}"
                )
                ends[i] = Verdict(reason, True, losses[i] if math.isfinite(losses[i]) else None)
        return ends
