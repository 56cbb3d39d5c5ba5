"""Coverage: the share of problems that k samples solve, the laws it follows, and how far they extrapolate in k.

Counts come from `scaling.laws.coverage` (unbiased pass@k, NaN beyond the samples drawn); fits are `scaling.fit`'s, with
intervals from resampling problems, since the points of one curve share their samples.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from models.errors import ConfigError, require
from scaling.fitting.bootstrap import Draws
from scaling.fitting.fit import Fit, fit
from scaling.fitting.fitted import Interval, check_level
from scaling.fitting.law import Law
from scaling.laws.coverage import COVERAGE_POWER, BetaBinomial, fit_beta_binomial, pass_at_k
from scaling.laws.saturation import SATURATION, saturation_point
from search.metrics.curves import curve, percentiles, powers_of_two, problem_means
from search.metrics.samples import Samples


def pass_rate(samples: ArrayLike, correct: ArrayLike, *, stopped: bool = False) -> np.ndarray:
    """Success rate of each problem from c right of n samples: c / n; (c - 1) / (n - 1) when sampling was `stopped`.

    Sampling that stops at the c-th success makes c / n too large; (c - 1) / (n - 1) is unbiased for c >= 2 (Haldane
    1945) and NaN for n = 1. With c = 1 use `fit_beta_binomial`, whose likelihood needs no correction.
    """
    n, c = np.asarray(samples, float), np.asarray(correct, float)
    if not stopped:
        return c / n
    return np.divide(c - 1, n - 1, out=np.full(np.broadcast_shapes(c.shape, n.shape), np.nan), where=n > 1)


def coverage_curve(
    samples: Samples, k: ArrayLike | None = None, *, interval: float = 0.9, bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Mean pass@k: columns k, accuracy, low, high, problems; NaN where a problem has fewer than k samples."""
    k = powers_of_two(samples.counts.min()) if k is None else np.atleast_1d(np.asarray(k))
    values = pass_at_k(samples.counts[:, None], samples.right[:, None], k)
    return curve(values, k, interval=interval, bootstrap=bootstrap, seed=seed)


def fit_curve(
    law: Law, values: np.ndarray, inputs: dict[str, Any], *, bootstrap: int = 200, seed: int = 0, **options: Any
) -> Fit:
    """`scaling.fit` of `law` to the mean over problems of values [problems, n], with draws from resampled problems.

    inputs: the law's inputs [n] each. The points of one curve come from the same problems, so resampling points would
    call every interval too short; here whole problems are drawn and the same estimator solves every resampled curve.
    Raises ConfigError where the mean is not finite, or zero for a law of logarithms.
    """
    mean = values.mean(0)
    fitted = fit(law, {**inputs, law.output: mean}, seed=seed, **options)
    if not bootstrap:
        return fitted
    draws = problem_means(values, bootstrap, seed)
    if law.space == "log":  # a resample without any success has no logarithm; half a success of one problem has
        draws = np.maximum(draws, 0.5 / len(values) * np.min(values[values > 0], initial=1.0))
    targets = fitted.estimator.objective.link(draws)
    solved = fitted.estimator.solve(np.repeat(fitted.z[None], bootstrap, 0), None, targets)
    return dataclasses.replace(fitted, draws=Draws(solved.z, "problem", seed), seed=seed)


@dataclasses.dataclass(frozen=True, eq=False)
class CoverageLaws:
    """Two descriptions of one coverage curve, fitted to k <= up_to and compared with what was measured beyond.

    power: coverage = exp(a k**b); beta: p ~ Beta(alpha, beta) over problems, by maximum likelihood of the counts.
    r_squared: of the straight line ln(-ln coverage) on ln k up to `up_to`, the published test of the power law.
    table: k, measured, low, high, power, power_low, power_high, beta, beta_low, beta_high, held_out.
    """

    power: Fit
    beta: BetaBinomial
    r_squared: float
    table: pd.DataFrame
    up_to: int
    level: float

    def error(self, law: str = "beta") -> float:
        """Mean absolute relative error of "power" or "beta" at the held-out k; NaN when none was held out."""
        held = self.table[self.table["held_out"] & self.table["measured"].notna()]
        return float((held[law] / held["measured"] - 1).abs().mean())

    def summary(self) -> str:
        """Parameters with intervals, fit of the straight line, held-out errors."""
        p, i = self.power.params, self.power.interval(self.level)
        lines = [
            f"coverage of {self.beta.problems} problems, fitted to k <= {self.up_to}; intervals {self.level:.0%}",
            f"  power  a {p.a:.4g} [{i.a.low:.4g}, {i.a.high:.4g}], b {p.b:.4g} [{i.b.low:.4g}, {i.b.high:.4g}], "
            f"R2 {self.r_squared:.4f}",
            f"  beta   alpha {self.beta.alpha:.4g}, beta {self.beta.beta:.4g}",
            *([f"! {self.beta.problem}"] if self.beta.problem else []),
        ]
        if self.table["held_out"].any():
            top = self.table.iloc[-1]
            lines.append(
                f"  k = {top['k']:g}: measured {top['measured']:.4f}, power {top['power']:.4f}, "
                f"beta {top['beta']:.4f}; "
                f"mean error beyond k = {self.up_to}: power {self.error('power'):.2%}, beta {self.error('beta'):.2%}"
            )
        return "\n".join(lines)

    __repr__ = summary


def straight_line(k: ArrayLike, coverage: ArrayLike) -> float:
    """R2 of ln(-ln coverage) on ln k, points at 0 and 1 left out; NaN with fewer than three points."""
    k, c = np.asarray(k, float), np.asarray(coverage, float)
    inside = (c > 0) & (c < 1)
    if inside.sum() < 3:
        return float("nan")
    return float(np.corrcoef(np.log(k[inside]), np.log(-np.log(c[inside])))[0, 1] ** 2)


def fit_coverage(
    samples: Samples, up_to: int | None = None, *, k: ArrayLike | None = None, interval: float = 0.9,
    bootstrap: int = 200, seed: int = 0,
) -> CoverageLaws:  # fmt: skip
    """Fit both coverage laws to the first `up_to` samples of every problem; measure beyond with all of them.

    up_to: the fewest samples of any problem unless given (nothing is then held out). k: points of the curve, powers of
    two unless given; may go beyond the samples drawn, where `measured` is NaN and the laws extrapolate.
    Raises ConfigError when no problem is solved within up_to, or when it leaves fewer than three points.
    """
    check_level(interval, "interval")
    fewest = int(samples.counts.min())
    up_to = fewest if up_to is None else up_to
    require(up_to <= fewest, "up_to", f"is {up_to} of {fewest} samples", "fit on no more than were drawn")
    points = powers_of_two(fewest) if k is None else np.unique(np.asarray(k, float))
    inside = points[points <= up_to]
    require(len(inside) >= 3, "up_to", f"leaves {len(inside)} points of the curve", "use at least 4 samples")
    seen = samples.first(up_to)
    values = pass_at_k(seen.counts[:, None], seen.right[:, None], inside)
    if not values.any():
        raise ConfigError("samples", f"no problem is solved within {up_to} samples", "draw more, or easier problems")
    power = fit_curve(COVERAGE_POWER, values, {"samples": inside}, bootstrap=bootstrap, seed=seed)
    beta = fit_beta_binomial(seen.counts, seen.right, bootstrap=bootstrap, seed=seed)
    table = coverage_curve(samples, points, interval=interval, seed=seed).rename(columns={"accuracy": "measured"})
    drop = ["problems"]
    grid = {"samples": np.asarray(points, float)}
    table["power"] = power.outputs(power.z[None], grid)[0]
    ends = percentiles(power.outputs(power.prediction_draws(), grid), interval)
    table["power_low"], table["power_high"] = ends
    table["beta"] = beta.coverage(points)
    table[["beta_low", "beta_high"]] = [beta.interval(point, interval) for point in points]
    table["held_out"] = points > up_to
    line = straight_line(inside, values.mean(0))
    return CoverageLaws(power, beta, line, table.drop(columns=drop), int(up_to), interval)


@dataclasses.dataclass(frozen=True)
class Saturation:
    """F = Fmax (1 - (1 - p)^N) fitted to a curve; samples: N after which one more gains less than `gain`."""

    fit: Fit
    samples: int
    samples_interval: Interval
    gain: float


def fit_saturation(
    values: np.ndarray, k: ArrayLike, gain: float = 0.01, *, interval: float = 0.9, bootstrap: int = 200, seed: int = 0
) -> Saturation:
    """Fit the saturation law to the mean of values [problems, len(k)] and say where more samples stop paying.

    The interval of the point comes from resampled problems. Raises ConfigError for a gain that is not positive.
    """
    require(gain > 0, "gain", f"is {gain}", "give the smallest gain in accuracy that is worth a sample")
    fitted = fit_curve(SATURATION, values, {"samples": np.asarray(k, float)}, bootstrap=bootstrap, seed=seed)

    def point(ceiling: float, rate: float) -> int:
        return saturation_point(ceiling, min(max(rate, 1e-12), 1 - 1e-12), gain)

    draws = fitted.samples if bootstrap else pd.DataFrame([fitted.params])
    points = np.array([point(*pair) for pair in draws[["Fmax", "p"]].to_numpy()])
    low, high = percentiles(points, interval)
    ends = Interval(float(low), float(high)) if bootstrap else Interval(np.nan, np.nan)
    return Saturation(fitted, point(fitted.params.Fmax, fitted.params.p), ends, gain)
