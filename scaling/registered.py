"""Registered: a number with its interval that was foretold before it was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.errors import require
from scaling import kept

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.9  # of the intervals that are foretold
SHAPE: kept.Shape = {"of": str, "predicted": float, "low": float, "high": float, "measured": float, "level": float}
COVERED = (0.80, 0.97)  # between which the share of nominal 90 % intervals that held is as it should be


@dataclass(frozen=True)
class Registered:
    """What was said of one run before it was trained, and what it then measured.

    of: which run. predicted, low, high, measured: in one unit, that of the finding or nats/token. level: nominal share
    of such intervals that hold.
    """

    of: str
    predicted: float
    low: float
    high: float
    measured: float
    level: float = LEVEL

    def __post_init__(self) -> None:
        numbers = (self.predicted, self.low, self.high, self.measured)
        require(all(map(math.isfinite, numbers)), self.of, f"has {numbers}", "foretell finite numbers")
        require(self.low <= self.high, self.of, f"has [{self.low}, {self.high}]", "give low first")
        require(0 < self.level < 1, self.of, f"has the level {self.level}", "give a share such as 0.9")

    @property
    def inside(self) -> bool:
        """Whether the interval held."""
        return self.low <= self.measured <= self.high

    def to_json(self) -> dict[str, Any]:
        """Its fields, numbers to six digits."""
        return {name: value if isinstance(value := getattr(self, name), str) else float(f"{value:.6g}")
                for name in SHAPE}  # fmt: skip


def of_json(value: dict[str, Any]) -> Registered:
    """What `Registered.to_json` gave."""
    return Registered(**{name: value[name] for name in SHAPE})


def of_run(of: str, said: Sequence[float], measured: float, level: float = LEVEL) -> Registered:
    """What was said of a run, (predicted, low, high), with what it measured."""
    predicted, low, high = map(float, said)
    return Registered(of, predicted, low, high, float(measured), level)


def table(found: Sequence[Registered]) -> pd.DataFrame:
    """One row each, with the columns of a held-out test: measured, predicted, low, high, inside, width and score
    relative to the prediction, and the interval that is asked."""
    import pandas as pd

    from scaling.fitting.holdout import interval_score

    rows = pd.DataFrame([one.to_json() | {"inside": one.inside} for one in found])
    rows["width"] = (rows["high"] - rows["low"]) / rows["predicted"].abs()
    parts = [interval_score(part, "low", "high", float(level)) for level, part in rows.groupby("level")]
    return rows.assign(score=pd.concat(parts).reindex(rows.index))
