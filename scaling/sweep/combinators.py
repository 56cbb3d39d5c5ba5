"""The sweep language: a sweep is a list of points, a point is a mapping of dotted config fields to values.

product(grid({"train.learning_rate": [1e-3, 3e-3], "model.d_model": [64, 128]}), seeds(3))
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from models.errors import require

Point = Mapping[str, Any]
MOST_TRIALS = 100_000  # of one sweep: every one leaves a directory


def check_size(points: int, field: str) -> None:
    """ConfigError when a sweep of so many points is too large, before they are made."""
    require(points <= MOST_TRIALS, field, f"make {points:,} trials", f"plan at most {MOST_TRIALS:,}")


def grid(axes: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Every combination of the axes' values, the last axis fastest; ConfigError for more than MOST_TRIALS."""
    check_size(math.prod(len(values) for values in axes.values()), ", ".join(axes) or "grid")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def together(axes: Mapping[str, Sequence[Any]]) -> list[Point]:
    """The axes' values in lockstep (a zip); ConfigError when lengths differ."""
    lengths = {name: len(values) for name, values in axes.items()}
    require(len(set(lengths.values())) <= 1, ", ".join(axes), f"have lengths {lengths}", "give equally many values")
    return [dict(zip(axes, values, strict=True)) for values in zip(*axes.values(), strict=True)]


def chain(*sweeps: Iterable[Point]) -> list[Point]:
    """All points of all sweeps, one after the other."""
    return [point for sweep in sweeps for point in sweep]


def product(*sweeps: Sequence[Point]) -> list[Point]:
    """Every combination of one point of each sweep, merged.

    ConfigError when two set the same field, or for more than MOST_TRIALS.
    """
    check_size(math.prod(len(sweep) for sweep in sweeps), "product")
    points: list[Point] = []
    for parts in itertools.product(*sweeps):
        merged: dict[str, Any] = {}
        for part in parts:
            clash = merged.keys() & part.keys()
            require(not clash, ", ".join(sorted(clash)), "is set by two factors of a product", "set it in one of them")
            merged |= part
        points.append(merged)
    return points


def fixed(point: Point) -> list[Point]:
    """One point; as a factor it sets fields on every point of a product."""
    return [point]


def seeds(count: int, first: int = 0) -> list[Point]:
    """`count` repetitions that differ in initialisation and data order only."""
    return grid({"train.seed": range(first, first + count)})


def derive(sweep: Iterable[Point], fields: Mapping[str, Callable[[Point], Any]]) -> list[Point]:
    """Every point with fields computed from it, such as a learning rate from a width."""
    return [{**point, **{name: f(point) for name, f in fields.items()}} for point in sweep]


def where(sweep: Iterable[Point], keep: Callable[[Point], bool]) -> list[Point]:
    """The points that `keep` accepts."""
    return [point for point in sweep if keep(point)]
