"""SweepConfig: a base trial, the points around it, and the prediction that the sweep is meant to test."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from models.config import ModelConfig
from models.errors import ConfigError, require
from models.sharding import MeshConfig
from scaling.data import DataConfig
from scaling.sweep.combinators import MOST_TRIALS, Point, check_size, product, seeds
from scaling.sweep.isoflop import Isoflop, plan_isoflop
from scaling.sweep.queue import check_priorities
from scaling.sweep.trial import REPLACED, Trial, override
from scaling.train.config import TrainConfig
from scaling.train.limits import Limits
from scaling.typed import WIDTH, at_most, typed

Value = bool | int | float | str | None


@dataclass(frozen=True)
class Prediction:
    """A held-out run: how much more compute than the largest fitted run, and how its loss is predicted.

    Its shape is the width among `widths` that the law likes best at that compute; its prediction is written before
    it starts.
    """

    factor: float = 8.0  # compute of the held-out run over that of the largest fitted run
    widths: tuple[int, ...] = ()  # candidates; empty: the plan's widths
    law: str = "chinchilla"  # a name of docs/laws.md
    objective: Literal["huber", "lad", "gaussian", "student_t"] = "huber"  # what the fit minimises
    interval: float = 0.9  # level of the interval that is foretold
    bootstrap: int = 1000  # resamples of the runs

    def __post_init__(self) -> None:
        typed(self, "prediction")
        at_most(self, "prediction", factor=1e6, bootstrap=10**6)
        require(len(self.widths) <= 1000, "prediction.widths", f"has {len(self.widths)} entries", "give at most 1,000")
        for width in self.widths:
            require(1 <= width <= WIDTH, "prediction.widths", f"has {width}", f"give widths from 1 to {WIDTH:,}")
        require(self.factor > 0, "prediction.factor", f"is {self.factor}", "give a positive multiple, such as 8")
        require(0 < self.interval < 1, "prediction.interval", f"is {self.interval}", "give a level such as 0.9")
        from scaling.laws import by_name  # laws and fits are a second of import, which a worker need not spend

        by_name(self.law)
        require(self.bootstrap >= 0, "prediction.bootstrap", f"is {self.bootstrap}", "give a number of resamples")


@dataclass(frozen=True)
class SweepConfig:
    """Trials = base (model, data, train, mesh) x (points + isoFLOP plan) x seeds."""

    name: str = "sweep"  # in tables, pages and trackers
    model: ModelConfig = field(default_factory=ModelConfig)  # of every trial, as far as points and plan leave it
    data: DataConfig = field(default_factory=DataConfig)  # likewise
    train: TrainConfig = field(default_factory=TrainConfig)  # likewise
    mesh: MeshConfig = field(default_factory=MeshConfig)  # devices of a trial
    points: tuple[dict[str, Value], ...] = ()  # from scaling.sweep.combinators
    isoflop: Isoflop | None = None  # budgets x widths, in addition to the points
    seeds: int = 1  # repetitions of every point, for noise
    prediction: Prediction | None = None  # a run of more compute, foretold before it is trained
    batch_mode: Literal["auto", "map", "vmap"] = "auto"  # how a stack runs; auto: vmap on accelerators, map on CPUs
    stack_size: int = 8  # trials per compiled program at most
    threads: int = 1  # CPU threads per worker; part of every trial, since results depend on it bit by bit
    workers: int = 0  # processes at most; 0: as many as the threads allow
    limits: Limits = field(default_factory=Limits)  # what ends a trial early
    priorities: dict[str, int] = field(default_factory=dict)  # "field=value" -> level; higher first, then longest first

    def __post_init__(self) -> None:
        typed(self)
        at_most(self, "", seeds=MOST_TRIALS, stack_size=4096, threads=4096, workers=MOST_TRIALS)
        check_size(max(1, len(self.points)) * self.seeds, "seeds")
        for name in ("seeds", "stack_size", "threads"):
            value = getattr(self, name)
            require(value >= 1, name, f"is {value}", "give a positive integer")
        require(self.workers >= 0, "workers", f"is {self.workers}", "give a number of processes, or 0 for automatic")
        check_priorities(self.priorities)
        for point in self.points:
            for path in point.keys() & REPLACED.keys():
                what = REPLACED[path]
                raise ConfigError("points", f"set {path}, which {what} replaces in every trial", f"set {what}")
        require(
            self.prediction is None or self.isoflop is not None,
            "prediction",
            "needs an isoFLOP plan to extrapolate from",
            "set isoflop, or leave prediction out",
        )

    def set_by(self, field: str) -> str | None:
        """What sets a field of the base anew in every trial, so that its value here says nothing; None: nothing."""
        plan = self.isoflop
        if field in REPLACED:
            return REPLACED[field]
        planned = {"train.steps"} | ({"model.n_heads"} if self.model.head_dim is not None else set())
        by_points = all(field in point for point in self.points)
        if not (by_points and (plan is None or field in planned)) or not (self.points or plan):
            return None
        return " and ".join(name for name, used in (("points", self.points), ("isoflop", plan)) if used)

    @property
    def base(self) -> Trial:
        """What every trial starts from."""
        return Trial(self.model, self.data, self.train, self.mesh, self.threads)

    def anchored(self, folder: Path) -> SweepConfig:
        """The same sweep with `folder` written down as where its relative paths start from, if it has any."""
        trials = [self.base, *self.trials()]
        initial = {trial.train.init_from for trial in trials} - {None}
        relative = any(data.is_relative for data in {trial.data for trial in trials})
        if self.data.root is not None or not (relative or any(not Path(str(path)).is_absolute() for path in initial)):
            return self
        return override(self, {"data.root": str(folder)})

    def all_points(self) -> list[Point]:
        """Every point of the sweep, seeds included; one empty point when nothing varies."""
        planned = plan_isoflop(self.isoflop, self.base) if self.isoflop else []
        points = [*self.points, *planned] or [{}]
        if self.seeds == 1:
            return points
        return product(points, seeds(self.seeds, first=self.train.seed))

    def trials(self) -> list[Trial]:
        """The resolved trials, without repetitions, in order; validated before anything is computed."""
        trials = (override(self.base, point).resolved() for point in self.all_points())
        return list({trial.id: trial for trial in trials}.values())
