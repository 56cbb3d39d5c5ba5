"""Clustering on difficulty (Xu et al. 2025): a large model's score from small ones, by way of the items that rise."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from models.errors import ConfigError
from scaling.fitting.fit import Fit, fit
from scaling.fitting.grouped import fit_groups
from scaling.laws.difficulty import COD, difficulty_clusters, extrapolatable, subset_to_full


class Forecast(NamedTuple):
    """Predicted mean scores [targets]: chained over clusters, and by one curve for the whole test; clusters kept and
    made; share of the items in kept clusters."""

    chained: np.ndarray
    direct: np.ndarray
    kept: int
    made: int
    covered: float


def forecast(
    scores: np.ndarray, compute: np.ndarray, targets: np.ndarray, guess: float, bins: int = 6, smallest: int = 10,
    difference: float = 0.08,
) -> Forecast:  # fmt: skip
    """Forecast the mean score at `targets` FLOPs from per-item scores [models, items] of models of `compute` [models].

    guess: the score of guessing, the floor of the law. bins: parts of the compute, equal in models, over which the
    items' difficulty vectors are averaged. smallest: items of a cluster. difference: typical, per part, of items of one
    cluster. Where no cluster can be extrapolated the chain gives the direct curve.
    """
    order = np.argsort(compute, kind="stable")
    parts = np.array_split(order, bins)
    vectors = np.stack([scores[part].mean(0) for part in parts], axis=1)  # [items, bins]
    codes = difficulty_clusters(vectors, difference * np.sqrt(bins), smallest=smallest)
    whole = np.clip(scores.mean(1), guess, 1)
    direct = fit(COD, pd.DataFrame({"flops": compute, "accuracy": whole}), fixed={"g": guess})
    at = np.asarray(direct.predict(flops=targets).mean)
    rows = [
        {"group": f"c{code}", "flops": c, "accuracy": float(np.clip(row[codes == code].mean(), 0, 1))}
        for code in np.unique(codes[codes >= 0])
        for c, row in zip(compute, scores, strict=True)
    ]
    made = len(np.unique(codes[codes >= 0]))
    if not rows:
        return Forecast(at, at, 0, 0, 0.0)
    weights = {f"c{code}": float((codes == code).sum()) for code in np.unique(codes[codes >= 0])}
    try:
        fitted = fit_groups(COD, pd.DataFrame(rows), weights=weights, keep=_rising(compute), fixed={"g": guess})
    except ConfigError:
        return Forecast(at, at, 0, made, 0.0)
    chosen = np.isin(codes, [int(name[1:]) for name in fitted.fits])
    subset = np.clip(scores[:, chosen].mean(1), guess, 1)
    onto = subset_to_full(subset, whole, guess=guess)
    predicted = np.clip(fitted.predict(flops=targets).mean, guess, 1)
    return Forecast(onto(predicted), at, len(fitted.fits), made, float(chosen.mean()))


def _rising(compute: np.ndarray) -> Callable[[Fit], str]:
    """The published rule, and a curve that has risen over the models that were fitted."""
    published = extrapolatable()

    def keep(found: Fit) -> str:
        ends = np.asarray(found.predict(flops=np.array([compute.min(), compute.max()])).mean)
        return published(found) or ("" if ends[1] - ends[0] > 0.02 else "it does not rise")

    return keep
