"""Evaluations: what is measured of a model on the way, beside its held-out loss. The loop knows no suite: whoever
starts it hands in a Measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.errors import require
from scaling.typed import STEPS, at_most, typed

FLOPS = "evaluation_flops"  # the column of what measuring took, which is no part of training and in no total
FIELD = "train.evaluations"
Columns = dict[str, float | None]


@dataclass(frozen=True)
class Evaluations:
    """Suites that are measured during training and at its end, as launch.evaluate would measure them."""

    suites: tuple[str, ...] = ()  # such as choice.modular:items=200, or .jsonl files of items
    every: int = 0  # steps; 0: only at the end
    keep: bool = False  # parameters of these steps stay in the trial's folder, for launch.evaluate --steps
    max_tokens: int = 64  # of a generated answer

    def __post_init__(self) -> None:
        typed(self, FIELD)
        at_most(self, FIELD, every=STEPS, max_tokens=2**20)
        require(self.every >= 0, f"{FIELD}.every", f"is {self.every}", "give a number of steps, or 0 for the end only")
        require(self.max_tokens >= 1, f"{FIELD}.max_tokens", f"is {self.max_tokens}", "give 1 or more")
        twice = sorted({name for name in self.suites if self.suites.count(name) > 1})
        require(not twice, f"{FIELD}.suites", f"names {twice[:1]} twice", "name it once")
        problem = "is set, but every is 0 and the end is kept anyway"
        require(not self.keep or self.every > 0, f"{FIELD}.keep", problem, f"set {FIELD}.every, or leave keep out")


@dataclass(frozen=True)
class Measure:
    """measured(params): the columns of one measurement, `evaluation_flops` among them; a function of params alone.

    params: of a forward pass. A number that is not finite is None. digest: of all that is asked, by which a resumed run
    knows that it asks the same.
    """

    digest: str
    measured: Callable[[Any], Columns]


def accuracies(row: Mapping[str, Any]) -> dict[str, float]:
    """Suite -> accuracy, of those that a row has: the last ones of a results table's."""
    ending = "/accuracy"
    return {name.removesuffix(ending): float(x) for name, x in row.items() if name.endswith(ending) and x is not None}


def trajectory(measured: Mapping[int, Columns], last: int) -> Columns:
    """Measurements by step as columns of one row: NAME of step `last`, NAME@STEP of those before, FLOPs of all."""
    if not measured:
        return {}
    columns: Columns = {FLOPS: float(sum(found[FLOPS] or 0.0 for found in measured.values()))}
    for step, found in sorted(measured.items()):
        ending = "" if step == last else f"@{step}"
        columns |= {f"{name}{ending}": value for name, value in found.items() if name != FLOPS}
    return columns
