"""Item response theory: abilities of models and difficulties of items; a new version of a test from a few models.

p(model i right on item j) = sigmoid(a_j (ability_i - difficulty_j)), fitted by penalised likelihood (2PL; Lord 1980).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit, logit

from models.errors import require


@dataclass(frozen=True, eq=False)
class ItemResponse:
    """ability [models], difficulty [items], discrimination [items] > 0."""

    ability: np.ndarray
    difficulty: np.ndarray
    discrimination: np.ndarray

    def probabilities(self) -> np.ndarray:
        """[models, items]"""
        return expit(self.discrimination * (self.ability[:, None] - self.difficulty))


def fit_items(
    right: ArrayLike, ability: ArrayLike | None = None, spread: float = 2.0, discrimination_spread: float = 0.5
) -> ItemResponse:
    """Fit 2PL to answers [models, items] of 0 and 1; NaN where a model was not asked.

    ability: [models] where it is known (then only the items are fitted). Priors: ability N(0, 1), difficulty
    N(m, spread) with the mean m free, log discrimination N(0, discrimination_spread): a prior of mean 0 would pull a
    harder version of a test back to where the old one was.
    """
    x = np.asarray(right, float)
    require(x.ndim == 2 and x.size > 0, "right", f"has shape {x.shape}", "give [models, items]")
    seen = np.isfinite(x)
    require(bool(seen.any(0).all()), "right", "has an item that no model answered", "leave it out")
    values = np.nan_to_num(x)
    models, items = x.shape
    known = None if ability is None else np.asarray(ability, float)
    free = 0 if known is not None else models
    rates = np.clip(values.sum(0) / seen.sum(0), 0.02, 0.98)
    centre = 0.0 if known is None else float(known.mean())
    start = np.concatenate([np.zeros(free), centre - logit(rates), np.zeros(items), [centre]])
    if known is None:
        start[:models] = logit(np.clip(values.sum(1) / seen.sum(1), 0.02, 0.98))
        start[:models] -= start[:models].mean()

    def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
        theta = known if known is not None else z[:models]
        b, log_a, mean = z[free : free + items], z[free + items : -1], z[-1]
        a = np.exp(log_a)
        gap = theta[:, None] - b
        margin = a * gap
        loss = (seen * (np.logaddexp(0, margin) - values * margin)).sum()
        slope = seen * (expit(margin) - values)  # of the loss in the margin
        prior = ((b - mean) ** 2).sum() / (2 * spread**2) + (log_a**2).sum() / (2 * discrimination_spread**2)
        in_b = -(slope * a).sum(0) + (b - mean) / spread**2
        in_a = (slope * margin).sum(0) + log_a / discrimination_spread**2
        in_mean = -(b - mean).sum() / spread**2
        parts = [in_b, in_a, [in_mean]]
        if known is None:
            prior += (theta**2).sum() / 2
            parts = [(slope * a).sum(1) + theta, *parts]
        return loss + prior, np.concatenate(parts)

    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000}).x
    theta = known if known is not None else found[:models]
    return ItemResponse(theta, found[free : free + items], np.exp(found[free + items : -1]))


def reevaluated(old: ArrayLike, new: ArrayLike) -> np.ndarray:
    """Scores [models] on the new version of a test, of which only some models were run (Shabtay et al. 2025).

    old: [models, items] of 0 and 1, all models on the old version. new: [models, new items], NaN rows for models that
    were not run, whose scores are what 2PL expects of them: abilities from the old version, items of the new one from
    those that ran.
    """
    before, after = np.asarray(old, float), np.asarray(new, float)
    ran = np.isfinite(after).all(1)
    problem = f"{int(ran.sum())} of {len(ran)} models were run on the new version"
    require(ran.sum() >= 2, "new", problem, "run two or more, of different ability")
    ability = fit_items(before).ability
    items = fit_items(after[ran], ability[ran])
    expected = expit(items.discrimination * (ability[:, None] - items.difficulty)).mean(1)
    return np.where(ran, np.nan_to_num(after).mean(1), expected)


def logit_linear(old: ArrayLike, new: ArrayLike) -> np.ndarray:
    """The same by a line between the logits of the two scores, fitted on the models that ran: the baseline to beat."""
    before, after = np.asarray(old, float), np.asarray(new, float)
    ran = np.isfinite(after).all(1)
    x = logit(np.clip(before.mean(1), 0.5 / before.shape[1], 1 - 0.5 / before.shape[1]))
    y = logit(np.clip(np.nan_to_num(after).mean(1), 0.5 / after.shape[1], 1 - 0.5 / after.shape[1]))
    slope, offset = np.polyfit(x[ran], y[ran], 1)
    return np.where(ran, np.nan_to_num(after).mean(1), expit(offset + slope * x))


def spread_models(scores: ArrayLike, count: int) -> np.ndarray:
    """Indices of `count` models whose scores [models] are spread evenly from the worst to the best: whom to run."""
    order = np.argsort(np.asarray(scores, float), kind="stable")
    require(2 <= count <= len(order), "count", f"is {count} of {len(order)} models", "give 2 or more, and not more")
    return order[np.linspace(0, len(order) - 1, count).round().astype(int)]
