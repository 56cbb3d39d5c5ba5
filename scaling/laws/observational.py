"""Observational scaling laws (Ruan et al. 2024): capabilities of existing models as a few principal components.

Benchmarks of public models lie near a low-dimensional space. Within a family its coordinates are linear in log compute,
with a family's own efficiency; across families they predict a complex task through a sigmoid. One regression then
serves all families, and compute is expressed in that of a reference family.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit

from models.errors import ConfigError
from scaling.fitting.fit import Fit, fit
from scaling.fitting.law import Law, Values
from scaling.fitting.runs import Runs, as_table, missing, numbers


def capability_link(components: int) -> Law:
    """y = h sigma(w . PC + b0) on the first principal components, as a law of that many inputs pc1, pc2, ..."""
    names = [f"pc{i + 1}" for i in range(components)]
    weights = [f"w{i + 1}" for i in range(components)]

    def predict(p, x):
        return p.h * expit(sum(p[w] * x[pc] for w, pc in zip(weights, names, strict=True)) + p.b0)

    return Law(
        name=f"capability_{components}", formula=f"y = h sigma({' + '.join(map(' '.join, zip(weights, names)))} + b0)",
        inputs=tuple(names), output="accuracy", predict=predict, linear=("h",),
        bounds=dict(h=(0, 1), **dict.fromkeys(weights, (None, None)), b0=(None, None)),
        space="raw", objective="gaussian", start=dict.fromkeys([*weights, "b0"], (-2.0, -0.5, 0.5, 2.0)),
        units=dict.fromkeys(names, "standard deviations over the models") | dict(accuracy="fraction right"),
        source="Ruan et al. 2024, equation 7 (arXiv:2405.10938); space='logit' with h fixed at 1 is its OLS form")


CAPABILITY_1, CAPABILITY_2, CAPABILITY_3 = (capability_link(k) for k in (1, 2, 3))


@dataclasses.dataclass(frozen=True, eq=False)
class Components:
    """Principal components of a benchmark table.

    benchmarks: names [M]; mean [M]; loadings [K, M], orthonormal rows, the first with positive sum; scale [K] standard
    deviation of each component over the models it was made from; explained [K] share of the variance.
    """

    benchmarks: tuple[str, ...]
    mean: np.ndarray
    loadings: np.ndarray
    scale: np.ndarray
    explained: np.ndarray

    @staticmethod
    def of(scores: pd.DataFrame, count: int = 3, rounds: int = 1000) -> Components:
        """The first `count` components of scores [models, benchmarks] (fractions, not rescaled: benchmarks that vary
        more count more). Missing scores are filled in from the components themselves, iterated to a fixed point."""
        x = scores.to_numpy(float)
        count = int(count)
        if not 1 <= count <= min(x.shape):
            raise ConfigError("count", f"{count} components of a {x.shape[0]} x {x.shape[1]} table",
                              f"use 1 to {min(x.shape)}")
        known = np.isfinite(x)
        for axis, kind, names in ((0, "benchmark", scores.columns), (1, "model", scores.index)):
            empty = np.flatnonzero(~known.any(axis))
            if len(empty):
                raise ConfigError(f"{kind} {names[empty[0]]}", "has no score at all", "drop it")
        filled = np.where(known, x, np.nanmean(x, axis=0))
        for _ in range(rounds):
            mean = filled.mean(0)
            u, s, v = np.linalg.svd(filled - mean, full_matrices=False)
            if known.all():
                break
            guess = np.where(known, x, mean + (u[:, :count] * s[:count]) @ v[:count])
            settled = np.max(np.abs(guess - filled)) < 1e-9
            filled = guess
            if settled:
                break
        sign = np.where(v[:count].sum(1) < 0, -1.0, 1.0)[:, None]
        return Components(tuple(map(str, scores.columns)), mean, sign * v[:count],
                          s[:count] / np.sqrt(len(x)), (s**2 / np.sum(s**2))[:count])

    def transform(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Components pc1, pc2, ... of models [models, K] in units of `scale`, by least squares on the benchmarks that a
        model has. Raises ConfigError for a model with fewer benchmarks than components."""
        for name in self.benchmarks:
            if name not in scores.columns:
                missing(name, scores.columns)
        x = scores[list(self.benchmarks)].to_numpy(float) - self.mean
        out = np.empty((len(x), len(self.scale)))
        for i, row in enumerate(x):
            known = np.isfinite(row)
            if known.sum() < len(self.scale):
                raise ConfigError(f"model {scores.index[i]}", f"{known.sum()} scores for {len(self.scale)} components",
                                  "drop the model or use fewer components")
            out[i] = np.linalg.lstsq(self.loadings[:, known].T, row[known], rcond=None)[0]
        names = [f"pc{k + 1}" for k in range(len(self.scale))]
        return pd.DataFrame(out / self.scale, index=scores.index, columns=names)


@dataclasses.dataclass(frozen=True, eq=False)
class Observational:
    """components of the benchmarks; link: the fit of the target score on them; families: one row per family with
    theta, nu (first component = theta ln C + nu), r2 and models."""

    components: Components
    link: Fit
    families: pd.DataFrame

    def predict(self, scores: pd.DataFrame) -> np.ndarray:
        """Target score [models] of models with the given benchmark scores."""
        pcs = self.components.transform(scores)
        return self.link.law(self.link.params, **{name: pcs[name].to_numpy() for name in self.link.law.inputs})

    def capability(self, pcs: pd.DataFrame) -> np.ndarray:
        """The direction the target depends on, w . PC + b0 [models]."""
        p = self.link.params
        return sum(p[f"w{k + 1}"] * pcs[name].to_numpy() for k, name in enumerate(self.link.law.inputs)) + p.b0

    def equivalent_flops(self, scores: pd.DataFrame, family: str) -> np.ndarray:
        """Compute [models] at which the reference family has the same first component. FLOP."""
        if family not in self.families.index:
            raise ConfigError("family", f"{family!r} has no law", f"have {', '.join(map(str, self.families.index))}")
        row = self.families.loc[family]
        return np.exp((self.components.transform(scores)["pc1"].to_numpy() - row["nu"]) / row["theta"])


def family_laws(pcs: pd.DataFrame, flops: ArrayLike, family: ArrayLike, least: int = 3) -> pd.DataFrame:
    """pc1 = theta ln C + nu by least squares within every family of at least `least` models at different compute.

    Models whose compute is unknown (NaN) are left out.
    """
    flops, family = np.asarray(flops, float), np.asarray(family).astype(str)
    rows: dict[str, Values] = {}
    for name in np.unique(family):
        inside = (family == name) & (flops > 0)
        x, y = np.log(flops[inside]), pcs["pc1"].to_numpy()[inside]
        if len(np.unique(x)) < least:
            continue
        theta, nu = np.polyfit(x, y, 1)
        total = np.sum((y - y.mean()) ** 2)
        r2 = 1 - np.sum((y - theta * x - nu) ** 2) / total if total > 0 else 1.0
        rows[name] = Values(theta=theta, nu=nu, r2=r2, models=int(inside.sum()))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["theta", "nu", "r2", "models"])


def observe(models: Runs, benchmarks: list[str], target: str, *, components: int = 3, flops: str = "flops",
            family: str = "family", **options: Any) -> Observational:
    """Components, families and the capability link of a table of models.

    models: one row per model with its benchmark scores and compute (NaN where unknown), the target score and family.
    At least 40 models of 5 families are advisable; test with a cutoff in compute. options go to `fit`. The components
    are made from these models only, so a held-out model does not leak into them.
    """
    table = as_table(models)
    for name in (*benchmarks, target, flops, family):
        if name not in table.columns:
            missing(name, table.columns)
    found = Components.of(table[benchmarks], components)
    pcs = found.transform(table[benchmarks])
    law = capability_link(components)
    link = fit(law, pcs.assign(**{law.output: numbers(table, target)}), **options)
    return Observational(found, link, family_laws(pcs, table[flops], table[family]))


LAWS = (CAPABILITY_1, CAPABILITY_2, CAPABILITY_3)
