"""One law per group, averaged: tests that are mixtures of instances or of difficulty clusters.

An average over tasks of unequal difficulty follows no simple law even where every task does: hard ones have not begun
to move when easy ones are finished. PassUntil predicts instance by instance and COD cluster by cluster; both then
average. This is that average, for any law and any grouping column.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import ConfigError
from scaling.fitting.fit import Fit, fit
from scaling.fitting.fitted import Prediction
from scaling.fitting.law import Law
from scaling.fitting.runs import Runs, as_table, missing
from scaling.fitting.serialize import fields_of, reading, write


@dataclasses.dataclass(frozen=True, eq=False)
class GroupedFit:
    """fits: group -> Fit of the kept groups; weights: group -> its share of the test; dropped: group -> why."""

    fits: dict[str, Fit]
    weights: dict[str, float]
    dropped: dict[str, str]

    @property
    def covered(self) -> float:
        """Share of the test that the kept groups stand for."""
        return float(sum(self.weights[name] for name in self.fits) / sum(self.weights.values()))

    def predict(self, interval: float = 0.9, **inputs) -> Prediction:
        """Weighted mean of the kept groups' outputs at the law's inputs (scalars or arrays), with the interval of that
        mean: parameters only, since the noise of single rows averages out over groups. NaN ends when a group has none.
        """
        arrays = {name: np.atleast_1d(np.asarray(value, float)) for name, value in inputs.items()}
        share = np.array([self.weights[name] for name in self.fits])
        share = share / share.sum()
        means = np.array([f.outputs(f.z[None], arrays)[0] for f in self.fits.values()])
        mean = share @ means
        draws = [f.outputs(f.prediction_draws(), arrays) for f in self.fits.values()]
        low = high = np.full_like(mean, np.nan)
        if min(len(d) for d in draws) > 20:
            size = min(len(d) for d in draws)
            total = sum(s * d[:size] for s, d in zip(share, draws, strict=True))
            low, high = np.quantile(total, [(1 - interval) / 2, (1 + interval) / 2], axis=0)
        if all(np.ndim(value) == 0 for value in inputs.values()):
            return Prediction(float(mean[0]), float(low[0]), float(high[0]), interval)
        return Prediction(mean, low, high, interval)

    def to_json(self, path: str | Path | None = None) -> str:
        """Every group's fit, weight or reason as JSON in full precision; written to `path` when given."""
        fits = {name: fields_of(one) for name, one in self.fits.items()}
        return write("grouped fit", {"fits": fits, "weights": self.weights, "dropped": self.dropped}, path)

    @staticmethod
    def from_json(source: str | Path, law: Law | None = None) -> GroupedFit:
        """The fits that `to_json` wrote: a path or the text; pass `law` when it is not one of the catalogue."""
        with reading(source, "grouped fit") as document:
            fits = {name: Fit.of(one, law) for name, one in document["fits"].items()}
            return GroupedFit(fits, document["weights"], document["dropped"])

    def summary(self) -> str:
        """One line per group."""
        lines = [f"{len(self.fits)} groups kept, {self.covered:.0%} of the test"]
        for name, f in self.fits.items():
            values = ", ".join(f"{k}={v:.5g}" for k, v in f.params.items())
            lines.append(f"  {name} ({self.weights[name]:.3g}): {values}")
        return "\n".join(lines + [f"! {name} dropped: {why}" for name, why in self.dropped.items()])

    __repr__ = summary


def fit_groups(law: Law | str, runs: Runs, *, group: str = "group", weights: Mapping[str, float] | None = None,
               keep: Callable[[Fit], str] | None = None, **options: Any) -> GroupedFit:
    """Fit `law` to every group of `runs` on its own.

    group: the column. weights: group -> share of the test (equal by default). keep: fit -> "" to keep the group, else
    why it is dropped. options go to `fit`. Raises ConfigError when no group can be fitted.
    """
    table = as_table(runs)
    if group not in table.columns:
        missing(group, table.columns)
    fits, dropped = {}, {}
    names = list(table[group].astype(str).unique())
    share = dict.fromkeys(names, 1.0) if weights is None else {str(k): float(v) for k, v in weights.items()}
    for name in names:
        if name not in share:
            raise ConfigError("weights", f"no weight for group {name!r}", "give one per group")
        fitted = fit(law, table[table[group].astype(str) == name], **options)
        why = keep(fitted) if keep is not None else ""
        if why:
            dropped[name] = why
        else:
            fits[name] = fitted
    if not fits:
        raise ConfigError("runs", f"none of {len(names)} groups can be extrapolated ({next(iter(dropped.values()))})",
                          "give more budgets per group, or another grouping")
    return GroupedFit(fits, share, dropped)
