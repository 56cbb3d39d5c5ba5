"""Reproduction: a published claim with the experiment that tests it, small enough for two cores.

One file in configs/reproductions/ each, of this form; the file's name is the reproduction's:

    def get_reproduction() -> Reproduction:
        return Reproduction(name="...", methods=(27,), claim="...", source="...", ..., run=run)

    def run(work: Workspace) -> Measured:
        table = work.sweep(SWEEP, "ladder")                      # trained, or read where it is already there
        rates = work.keep("rates", lambda: measure(table))       # computed once
        return Measured(effect, (low, high), flops, details={...})
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from models.errors import require
from scaling.finding import Finding
from scaling.registered import Registered

if TYPE_CHECKING:
    import pandas as pd

    from scaling.sweep.config import SweepConfig

JSON = Any  # None, bool, int, float, str, and lists and dicts of these
NAME = re.compile(r"[a-z][a-z0-9_]*")


class Workspace(Protocol):
    """Where a reproduction works. What it has done is read again when the same command runs again."""

    @property
    def folder(self) -> Path:
        """The reproduction's own folder. The runs of `sweep(config, name)` lie in folder/sweeps/name."""

    @property
    def quick(self) -> bool:
        """Whether only the mechanism is to be shown, in seconds, with numbers that decide nothing."""

    @property
    def shared(self) -> Path:
        """The folder of what several reproductions in the same parent folder read: shared sweeps lie in
        shared/sweeps/name, shared values in shared/kept/name.json."""

    def say(self, text: str) -> None:
        """Tell whoever watches."""

    def sweep(self, config: SweepConfig, name: str, shared: bool = False) -> pd.DataFrame:
        """The results table of a sweep, trained or resumed: one row per trial, its `status` among the columns.

        shared: trained by whichever reproduction comes first, for all that ask for the same sweep by the same name.
        """

    def keep(self, name: str, make: Callable[[], JSON], shared: bool = False) -> JSON:
        """What `make` gives, computed once and kept on disk.

        shared: by whichever reproduction comes first, for all that ask for it by the same name; that of a quick run
        needs a name of its own.
        """

    def foretell(self, name: str, make: Callable[[], JSON]) -> JSON:
        """What `make` says of the sweep or the kept value called `name`, kept like any other before that is there.

        Raises ConfigError when it is there already: what is said then tests nothing.
        """


@dataclass(frozen=True)
class Measured:
    """What a reproduction saw.

    effect, interval: in the reproduction's unit, positive where the claim says so. flops: of all that ran, training and
    sampling; 0 for arithmetic on given numbers. details: any JSON that a reader may ask for. Its `curves`, if there are
    any, are drawn: a list of panels {"x": label, "y": label, "log": "", "x", "y" or "xy", "lines": {name: {"x": [...],
    "y": [...], "low"?: [...], "high"?: [...]}}}. Its `tables` are shown: a list of {"title": text, "rows": [{column:
    text}]}, the first column in words. predictions: of single runs, made before they were trained.
    """

    effect: float
    interval: tuple[float, float]
    flops: float
    details: dict[str, JSON] = field(default_factory=dict)
    predictions: tuple[Registered, ...] = ()


@dataclass(frozen=True)
class Reproduction:
    """A claim and its experiment.

    methods: numbers of the published methods that it belongs to. smallest_effect: the least that would matter, in
    `unit`, settled beforehand. minutes: on two cores. simulated: its numbers are those of a simulation. sweeps: what
    `run` trains, or a function of `quick` that gives it, so that --dry_run can say what it costs.
    """

    name: str
    methods: tuple[int, ...]
    claim: str
    source: str
    smallest_effect: float
    unit: str
    minutes: float
    not_covered: str
    simulated: bool
    run: Callable[[Workspace], Measured]
    sweeps: Sequence[SweepConfig] | Callable[[bool], Sequence[SweepConfig]] = ()

    def __post_init__(self) -> None:
        fix = "use lower-case letters, digits and _, as in the file's name"
        require(NAME.fullmatch(self.name) is not None, "name", f"is {self.name!r}", fix)
        for text in ("claim", "source", "unit", "not_covered"):
            require(bool(getattr(self, text).strip()), f"{self.name}.{text}", "is empty", "say it in words")
        require(self.minutes > 0, f"{self.name}.minutes", f"is {self.minutes}", "give minutes on two cores")
        numbers = all(isinstance(k, int) and k >= 0 for k in self.methods)
        fix = "give numbers of methods, such as (27,)"
        require(isinstance(self.methods, tuple) and numbers, f"{self.name}.methods", f"is {self.methods}", fix)

    def planned(self, quick: bool) -> tuple[SweepConfig, ...]:
        """The sweeps that it trains."""
        return tuple(self.sweeps(quick) if callable(self.sweeps) else self.sweeps)

    def finding(self, measured: Measured, **run: Any) -> Finding:
        """The claim with what was seen; `run`: minutes, command, commit and machine."""
        effect, low, high = (float(f"{value:.5g}") for value in (measured.effect, *measured.interval))
        least = float(self.smallest_effect)
        return Finding(
            self.name, self.methods, self.claim, self.source, effect, (low, high), least, self.unit,
            flops=float(measured.flops), simulated=self.simulated, not_covered=self.not_covered,
            predictions=measured.predictions, **run,
        )  # fmt: skip


def given_table(name: str, origin: str) -> pd.DataFrame:
    """A table of published runs, `name` in the folder that the environment variable ISOFLOP_DATA names.

    origin: where it is from, for who has no such folder. Raises ConfigError when it is not there.
    """
    import pandas as pd

    folder = os.environ.get("ISOFLOP_DATA", "")
    path = Path(folder or ".") / name
    fix = f"set it to a folder that holds {name} ({origin})"
    require(bool(folder) and path.is_file(), "ISOFLOP_DATA", f"is {folder!r}, which has no {name}", fix)
    return pd.read_csv(path)


def bootstrap_interval(
    values: Any, statistic: Callable[..., Any] = np.mean, level: float = 0.9, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of a statistic over resampled rows of `values` [rows, ...]."""
    rows = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    found = [float(statistic(rows[rng.integers(len(rows), size=len(rows))])) for _ in range(resamples)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def t_interval(values: Any, level: float = 0.9) -> tuple[float, float]:
    """Student's interval of a mean over independent repetitions, such as seeds. Raises ConfigError for fewer than 2."""
    from scipy.stats import t

    values = np.asarray(values, dtype=np.float64)
    require(len(values) >= 2, "values", f"has {len(values)} repetitions", "repeat with at least two seeds")
    half = t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def least(parts: Iterable[Any], level: float = 0.9) -> tuple[float, tuple[float, float]]:
    """(effect, interval) of a claim of several parts, each the repetitions of one quantity, that holds when each holds.

    The effect is the smallest mean; either end of the interval is the smallest of the parts' t-intervals. So the whole
    interval lies above a number when those of all parts do, and below it when that of any does.
    """
    parts = [np.asarray(values, dtype=np.float64) for values in parts]
    lows, highs = zip(*(t_interval(values, level) for values in parts), strict=True)
    return float(min(values.mean() for values in parts)), (min(lows), min(highs))
