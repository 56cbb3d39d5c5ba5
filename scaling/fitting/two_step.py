"""Two steps to a task score (Bhagia et al. 2024): size and tokens -> task loss, then task loss -> accuracy.

The first law is fitted to the end of every run, the second to all checkpoints. Checkpoints of one run are not
independent, so a resample draws whole runs, the same runs for both steps, and pushes both fits through the chain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from models.errors import ConfigError
from scaling.fitting.bootstrap import ITERATIONS, TOLERANCE, codes
from scaling.fitting.fit import Fit, fit
from scaling.fitting.fitted import Prediction
from scaling.fitting.law import Law, by_name
from scaling.fitting.runs import Runs, as_table, missing, numbers
from scaling.fitting.serialize import fields_of, reading, write
from scaling.fitting.start_grid import StartGrid


@dataclasses.dataclass(frozen=True)
class TwoStep:
    """How a two-step law is fitted.

    loss_law, score_law: the two laws; score_law's only input is the output of the first, whatever its name.
    anchors: (task loss, score) pairs added to the second step; a model without loss makes no mistake: (0, 1).
    skip: share of each run's first checkpoints left out; smooth: trailing moving average over that many checkpoints of
    both task loss and score, after skipping. The defaults are those of the OLMo ladder.
    """

    loss_law: Law = dataclasses.field(default_factory=lambda: by_name("chinchilla"))
    score_law: Law = dataclasses.field(default_factory=lambda: by_name("task_sigmoid"))
    anchors: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    skip: float = 0.1
    smooth: int = 5

    def __post_init__(self):
        if len(self.score_law.inputs) != 1:
            raise ConfigError("TwoStep.score_law", f"{self.score_law.name} has {len(self.score_law.inputs)} inputs",
                              "use a law of one input, the task loss")
        if not 0 <= self.skip < 1 or self.smooth < 1:
            raise ConfigError("TwoStep.skip", f"skip={self.skip}, smooth={self.smooth}",
                              "use 0 <= skip < 1 and smooth >= 1")

    def fit(self, finals: Runs, checkpoints: Runs, *, loss: str = "bpb", score: str = "accuracy", run: str = "run",
            order: str | None = "tokens", bootstrap: int = 200, seed: int = 0) -> TwoStepFit:
        """Fit both steps.

        finals: one row per run with the inputs of loss_law and the task loss; checkpoints: one row per checkpoint with
        task loss and score. loss, score, run: the columns; order: what sorts the checkpoints of a run (None keeps the
        table's order). Raises ConfigError naming a missing column or a bad row.
        """
        finals, checkpoints = as_table(finals), as_table(checkpoints)
        for table, needed in ((finals, (loss, run)), (checkpoints, (loss, score, run))):
            for name in needed:
                if name not in table.columns:
                    missing(name, table.columns)
        ends = finals.assign(**{self.loss_law.output: numbers(finals, loss, positive=True)})
        first = fit(self.loss_law, ends, seed=seed)
        points = self.prepare(checkpoints, loss, score, run, order)
        second = fit(self.score_law, points, seed=seed)
        labels = codes([*finals[run].astype(str), *points["run"][: len(points) - len(self.anchors)].astype(str)])
        out = TwoStepFit(self, first, second, labels[:len(finals)], labels[len(finals):], seed)
        return out.resampled(bootstrap, seed) if bootstrap else out

    def prepare(self, checkpoints: pd.DataFrame, loss: str, score: str, run: str, order: str | None) -> pd.DataFrame:
        """The rows of the second step: checkpoints skipped and smoothed run by run, then the anchors."""
        x, y = numbers(checkpoints, loss, positive=True), numbers(checkpoints, score)
        names = checkpoints[run].astype(str).to_numpy()
        time = np.arange(len(x)) if order is None else numbers(checkpoints, order)
        kept: dict[str, list] = {"run": [], self.score_law.inputs[0]: [], self.score_law.output: []}
        for name in pd.unique(names):
            rows = np.flatnonzero(names == name)
            rows = rows[np.argsort(time[rows], kind="stable")]
            rows = rows[int(np.ceil(self.skip * len(rows))):]
            kept["run"] += [name] * len(rows)
            kept[self.score_law.inputs[0]] += list(trailing_mean(x[rows], self.smooth))
            kept[self.score_law.output] += list(trailing_mean(y[rows], self.smooth))
        for x_anchor, y_anchor in self.anchors:
            for column, value in zip(kept, ("", x_anchor, y_anchor), strict=True):
                kept[column].append(value)
        return pd.DataFrame(kept)


def trailing_mean(values: ArrayLike, width: int) -> np.ndarray:
    """Mean of each value and up to width - 1 before it [n]."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, float))])
    end = np.arange(1, len(total))
    begin = np.maximum(end - width, 0)
    return (total[end] - total[begin]) / (end - begin)


@dataclasses.dataclass(frozen=True, eq=False)
class TwoStepFit:
    """Two fits and what joins them: the run codes of their rows (anchors excluded) and paired draws z1, z2 [B, K]."""

    law: TwoStep
    first: Fit
    second: Fit
    first_runs: np.ndarray
    second_runs: np.ndarray
    seed: int = 0
    first_draws: np.ndarray | None = None
    second_draws: np.ndarray | None = None

    def resampled(self, size: int = 200, seed: int | None = None) -> TwoStepFit:
        """The same fits with `size` joint resamples of whole runs; anchors are in every one."""
        seed = self.seed if seed is None else seed
        count = int(max(self.first_runs.max(), self.second_runs.max())) + 1
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=size).astype(float)
        anchors = np.ones((size, len(self.law.anchors)))
        return dataclasses.replace(
            self, seed=seed, first_draws=reweighted(self.first, drawn[:, self.first_runs]),
            second_draws=reweighted(self.second, np.concatenate([drawn[:, self.second_runs], anchors], axis=1)))

    def linked_loss(self, z, **inputs) -> np.ndarray:
        """Task loss [S, m] in the first law's residual space at coordinates z [S, K]."""
        arrays = {name: np.atleast_1d(np.asarray(inputs[name], float)) for name in self.first.law.inputs}
        with np.errstate(all="ignore"):
            return self.first.objective.link(self.first.outputs(z, arrays))

    def scores(self, z, linked_loss) -> np.ndarray:
        """Scores [S, m] of the second law at coordinates z [S, K] and linked task losses [S, m]."""
        law, loss = self.second.law, self.first.objective.unlink(linked_loss)
        return np.array([law.evaluate(law.coordinates.to_params(point), {law.inputs[0]: row}).value.ravel()
                         for point, row in zip(z, loss, strict=True)])

    def predict(self, interval: float = 0.9, **inputs) -> Prediction:
        """Score of a new run at the inputs of the first law (scalars or arrays), and an interval for its measurement.

        The interval holds the paired draws of both fits, the noise of both steps, and the discrepancy that the first
        law's rolling extrapolations showed. NaN ends without resamples.
        """
        for name in self.first.law.inputs:
            if name not in inputs:
                raise ConfigError("predict", f"the law {self.first.law.name} needs {name!r}",
                                  f"give {', '.join(self.first.law.inputs)}")
        center = self.linked_loss(self.first.z[None], **inputs)
        mean = self.scores(self.second.z[None], center)[0]
        low = high = np.full_like(mean, np.nan)
        if self.first_draws is not None:
            rng = np.random.default_rng(self.seed)
            noise = [f.noise for f in (self.first, self.second)]
            normal = rng.standard_normal((2, len(self.first_draws), len(mean)))
            spread = np.hypot(noise[0], self.first.discrepancy(**inputs))
            loss = self.linked_loss(self.first_draws, **inputs) + spread * normal[0]
            draws = self.scores(self.second_draws, loss) + noise[1] * normal[1]
            low, high = np.quantile(draws, [(1 - interval) / 2, (1 + interval) / 2], axis=0)
        if all(np.ndim(inputs[name]) == 0 for name in self.first.law.inputs):
            return Prediction(float(mean[0]), float(low[0]), float(high[0]), interval)
        return Prediction(mean, low, high, interval)

    def to_json(self, path: str | Path | None = None) -> str:
        """Both fits and their paired draws as JSON in full precision; written to `path` when given."""
        law = {name: getattr(self.law, name) for name in ("anchors", "skip", "smooth")}
        steps = {"first": fields_of(self.first), "second": fields_of(self.second)}
        arrays = {name: getattr(self, name) for name in ("first_runs", "second_runs", "first_draws", "second_draws")}
        return write("two-step fit", {"law": law, **steps, **arrays, "seed": self.seed}, path)

    @staticmethod
    def from_json(source: str | Path, law: TwoStep | None = None) -> TwoStepFit:
        """The fit that `to_json` wrote: a path or the text; pass `law` when its two are not both of the catalogue."""
        with reading(source, "two-step fit") as document:
            first = Fit.of(document["first"], None if law is None else law.loss_law)
            second = Fit.of(document["second"], None if law is None else law.score_law)
            how = {**document["law"], "anchors": tuple(map(tuple, document["law"]["anchors"]))}
            draws = [None if document[name] is None else np.array(document[name], float)
                     for name in ("first_draws", "second_draws")]
            return TwoStepFit(TwoStep(**{**how, "loss_law": first.law, "score_law": second.law}), first, second,
                              np.array(document["first_runs"]), np.array(document["second_runs"]), document["seed"],
                              *draws)

    def summary(self) -> str:
        """Both fits' own summaries."""
        return f"step 1, end of {len(self.first_runs)} runs\n{self.first.summary()}\n\n" \
               f"step 2, {len(self.second_runs)} checkpoints\n{self.second.summary()}"

    __repr__ = summary


def reweighted(point: Fit, counts: np.ndarray) -> np.ndarray:
    """Optima z [B, K] of a fit's estimator with its rows reweighted by counts [B, n]."""
    estimator = point.estimator
    weights = counts * estimator.weights
    starts: Iterable[np.ndarray] = (StartGrid(estimator).best_cells(weights, np.ones(weights.shape[1])),
                                    np.repeat(point.z[None], len(weights), 0))
    found = [estimator.solve(z, weights, None, ITERATIONS, TOLERANCE) for z in starts]
    better = (found[0].value <= found[1].value)[:, None]
    return np.where(better, found[0].z, found[1].z)
