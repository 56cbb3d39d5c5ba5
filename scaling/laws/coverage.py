"""Coverage of repeated sampling: the share of problems that at least one of k samples solves.

One problem with success rate p is missed with probability (1 - p)^k, an exponential; a power law in k appears when many
problems have rates near zero (Schaeffer et al. 2025). So the counts per problem are what should be fitted: a Beta
density of p gives coverage at any k, beyond the samples drawn, with an interval over problems. The exponentiated power
law is there for published curves.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy import special
from scipy.special import gammaln

from models.errors import ConfigError
from scaling.fitting.fitted import Interval
from scaling.fitting.law import Law, Values
from scaling.fitting.serialize import reading, write

COVERAGE_POWER = Law(
    name="coverage_power",
    formula="coverage = exp(a k**b)",                       # a < 0, b < 0: -log coverage is a power of k
    inputs=("samples",), output="coverage",
    predict=lambda p, x: np.exp(p.a * x.samples**p.b),
    exponents=("b",),
    bounds=dict(a=(None, 0), b=(-4, 0)),
    space="log", objective="gaussian",
    start=dict(a=tuple(-np.geomspace(0.03, 30.0, 14)), b=tuple(-np.geomspace(0.03, 2.5, 12))),
    units=dict(samples="samples per problem", coverage="share of problems solved by at least one"),
    source="Brown et al. 2024 (arXiv:2407.21787)")

COVERAGE_BETA = Law(
    name="coverage_beta",
    formula="coverage = 1 - B(alpha, beta + k) / B(alpha, beta)",
    inputs=("samples",), output="coverage",
    predict=lambda p, x: -np.expm1(gammaln(p.beta + x.samples) + gammaln(p.alpha + p.beta) - gammaln(p.beta)
                                   - gammaln(p.alpha + p.beta + x.samples)),
    exponents=("alpha",),
    bounds=dict(alpha=(0, None), beta=(0, None)),
    space="log", objective="gaussian",
    start=dict(alpha=tuple(np.geomspace(0.03, 10.0, 12)), beta=tuple(np.geomspace(0.1, 300.0, 12))),
    derived=dict(pass_rate=lambda p: p.alpha / (p.alpha + p.beta)),
    units=dict(samples="samples per problem", coverage="share of problems solved by at least one"),
    source="Schaeffer et al. 2025 (arXiv:2502.17578): p ~ Beta(alpha, beta), so 1 - coverage ~ k**-alpha for large k; "
           "`fit_beta_binomial` fits the counts themselves")


def pass_at_k(samples: ArrayLike, correct: ArrayLike, k: ArrayLike) -> np.ndarray:
    """Unbiased pass@k 1 - C(n - c, k) / C(n, k) of problems with c of n samples right; NaN where k > n.

    samples n, correct c and k broadcast. Biased when sampling stopped at the first success.
    """
    n, c, k = np.broadcast_arrays(*(np.asarray(v, float) for v in (samples, correct, k)))
    with np.errstate(all="ignore"):
        missed = np.exp(gammaln(n - c + 1) - gammaln(n - c - k + 1)
                        - gammaln(n + 1) + gammaln(n - k + 1))
    out = np.where(n - c < k, 1.0, 1.0 - missed)
    # one sample has the exact mean c / n, where the logarithms round
    out = np.where(k == 1, c / np.maximum(n, 1), out)
    return np.where(k > n, np.nan, np.where(c == 0, 0.0, out))


def power_law_ols(samples: ArrayLike, coverage: ArrayLike) -> Values:
    """a, b of coverage = exp(a k**b) by least squares of ln(-ln coverage) on ln k, as published fits do it.

    Points with coverage 0 or 1 carry no information in that space and are refused.
    """
    k, c = np.asarray(samples, float), np.asarray(coverage, float)
    bad = np.flatnonzero(~((c > 0) & (c < 1)))
    if len(bad):
        raise ConfigError(f"row {bad[0]}", f"coverage is {c[bad[0]]}", "leave out points at 0 and 1, or fit the counts")
    b, level = np.polyfit(np.log(k), np.log(-np.log(c)), 1)
    return Values(a=float(-np.exp(level)), b=float(b))


@dataclasses.dataclass(frozen=True, eq=False)
class BetaBinomial:
    """p ~ Beta(alpha, beta) over problems, by maximum likelihood on counts.

    log_likelihood: sum over problems of ln P(c | n), binomial coefficients left out; gradient: its largest derivative
    in ln alpha, ln beta, per problem; problem: "" or why the density is not determined; draws [B, 2]: bootstrap over
    problems.
    """

    alpha: float
    beta: float
    log_likelihood: float
    gradient: float
    problems: int
    problem: str
    draws: np.ndarray

    def coverage(self, k):
        """Expected coverage at k samples [.]; any k > 0, also beyond the samples drawn."""
        return expected_coverage(self.alpha, self.beta, k)

    def interval(self, k, level: float = 0.9) -> Interval:
        """Interval of the coverage at k (one number); NaN without resamples or when the density is not determined."""
        if self.problem or len(self.draws) < 20:
            return Interval(np.nan, np.nan)
        values = expected_coverage(self.draws[:, 0], self.draws[:, 1], k)
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(low), float(high))

    def to_json(self, path: str | Path | None = None) -> str:
        """The density and its draws as JSON in full precision; written to `path` when given."""
        return write("beta-binomial", dataclasses.asdict(self), path)

    @staticmethod
    def from_json(source: str | Path) -> BetaBinomial:
        """What `to_json` wrote: a path or the text."""
        with reading(source, "beta-binomial") as document:
            given = {name: value for name, value in document.items() if name not in ("format", "kind")}
            return BetaBinomial(**{**given, "draws": np.array(given["draws"], float).reshape(-1, 2)})

    def summary(self) -> str:
        """Parameters, likelihood and every flag."""
        lines = [f"beta-binomial over {self.problems} problems: alpha={self.alpha:.6g} beta={self.beta:.6g}",
                 f"mean pass rate {self.alpha / (self.alpha + self.beta):.4g}; 1 - coverage ~ k^-{self.alpha:.3g}; "
                 f"log likelihood {self.log_likelihood:.6f}; gradient {self.gradient:.1e}"]
        return "\n".join([*lines, *([f"! {self.problem}"] if self.problem else [])])

    __repr__ = summary


def expected_coverage(alpha: ArrayLike, beta: ArrayLike, k: ArrayLike) -> np.ndarray:
    """1 - E (1 - p)^k for p ~ Beta(alpha, beta); all broadcast."""
    k = np.asarray(k, float)
    return -np.expm1(special.betaln(alpha, beta + k) - special.betaln(alpha, beta))


def _negative(z, rows, weights):
    """Minus the log likelihood [S], its gradient [S, 2] and Hessian [S, 2, 2] in z = (ln alpha, ln beta) [S, 2].

    rows [m, 2]: distinct counts (n, c); weights [S, m]: how many problems have them.
    """
    n, c = rows.T
    alpha, beta = np.exp(z)[:, :, None].transpose(1, 0, 2)
    psi, total = special.psi, alpha + beta

    def tri(x):
        return special.polygamma(1, x)

    def over(terms):
        return np.sum(weights * terms, axis=1)

    value = over(special.betaln(alpha + c, beta + n - c) - special.betaln(alpha, beta))
    both, cross = psi(total) - psi(total + n), over(tri(total) - tri(total + n))
    p = np.exp(z)
    slope = p * np.stack([over(psi(alpha + c) - psi(alpha) + both), over(psi(beta + n - c) - psi(beta) + both)], -1)
    hessian = np.empty((len(z), 2, 2))
    hessian[:, 0, 1] = hessian[:, 1, 0] = cross * p[:, 0] * p[:, 1]
    hessian[:, 0, 0] = (over(tri(alpha + c) - tri(alpha)) + cross) * p[:, 0] ** 2 + slope[:, 0]
    hessian[:, 1, 1] = (over(tri(beta + n - c) - tri(beta)) + cross) * p[:, 1] ** 2 + slope[:, 1]
    return -value, -slope, -hessian


BOX = (-12.0, 14.0)     # of ln alpha and ln beta: all rates at an end of (0, 1), or all equal


def _minimise(z, rows, weights, iterations: int = 200):
    """Damped Newton from every start z [S, 2] with its own weights [S, m]; negative curvature is mirrored."""
    z, damping = np.clip(z, *BOX), np.full(len(z), 1e-3)
    value, gradient, hessian = _negative(z, rows, weights)
    for _ in range(iterations):
        held = (z <= BOX[0]) & (gradient > 0) | (z >= BOX[1]) & (gradient < 0)
        slope = np.where(held, 0.0, gradient)
        curve = np.where(held[:, :, None] | held[:, None, :], 0.0, hessian) + np.eye(2) * held[:, :, None]
        size, axes = np.linalg.eigh(curve)
        scale = np.abs(size) + (damping * np.max(np.abs(size), axis=1))[:, None] + 1e-300
        step = -np.einsum("sij,sj->si", axes, np.einsum("sji,sj->si", axes, slope) / scale)
        step = np.clip(step, -1.5, 1.5)
        if np.all(np.abs(step) < 1e-12):
            break
        trial = np.clip(z + step, *BOX)
        fresh = _negative(trial, rows, weights)
        # a step that only moves rounding is taken: the gradient still falls where the value cannot
        better = fresh[0] <= value + 1e-14 * np.abs(value)
        damping = np.clip(np.where(better, damping * 0.1, damping * 10 + 1e-6), 1e-12, 1e6)
        z = np.where(better[:, None], trial, z)
        value = np.where(better, fresh[0], value)
        gradient = np.where(better[:, None], fresh[1], gradient)
        hessian = np.where(better[:, None, None], fresh[2], hessian)
    return z, value, gradient


def fit_beta_binomial(samples: ArrayLike, correct: ArrayLike, *, bootstrap: int = 0, seed: int = 0) -> BetaBinomial:
    """Maximum-likelihood Beta density of the per-problem success rate from counts [problems].

    samples n and correct c per problem. Stopping a problem at its r-th success leaves the likelihood as it is, so
    adaptively sampled counts need no correction here (they do in pass@k). bootstrap: resamples of problems.
    Raises ConfigError naming the first problem with impossible counts.
    """
    n, c = np.asarray(samples, float), np.asarray(correct, float)
    n = np.broadcast_to(n, c.shape)
    bad = np.flatnonzero(~((c >= 0) & (c <= n) & (n >= 1)))
    if len(bad):
        raise ConfigError(f"problem {bad[0]}", f"{c[bad[0]]:g} right of {n[bad[0]]:g} samples",
                          "give 0 <= correct <= samples")
    rows, index = np.unique(np.column_stack([n, c]), axis=0, return_inverse=True)
    index = index.ravel()

    everyone = np.bincount(index, minlength=len(rows)).astype(float)
    mean = np.clip(c.sum() / n.sum(), 1e-6, 1 - 1e-6)
    starts = np.log([[mean * size, (1 - mean) * size] for size in (0.3, 3.0, 30.0)])
    z, value, gradient = _minimise(starts, rows, np.repeat(everyone[None], len(starts), 0))
    best = int(np.argmin(value))
    problem, draws = _undetermined(z[best], n, c), np.empty((0, 2))
    if bootstrap and not problem:
        drawn = np.random.default_rng(seed).integers(0, len(c), size=(bootstrap, len(c)))
        counts = np.array([np.bincount(index[d], minlength=len(rows)) for d in drawn], float)
        draws = np.exp(_minimise(np.repeat(z[best][None], bootstrap, 0), rows, counts)[0])
    alpha, beta = np.exp(z[best])
    return BetaBinomial(float(alpha), float(beta), -float(value[best]), float(np.max(np.abs(gradient[best]))) / len(c),
                        len(c), problem, draws)


def _undetermined(z, n, c) -> str:
    """Why the counts do not determine a density; empty when they do."""
    if c.sum() == 0 or np.all(c == n):
        return f"every problem is {'solved' if c.sum() else 'missed'} by every sample: the rate is only bounded"
    if np.all(n == 1):
        return "one sample per problem: only the mean rate is known, draw at least two"
    if np.exp(z).sum() > 1000 * n.max():        # the binomial variance is then inflated by less than a thousandth
        return "no spread of rates beyond binomial noise: one rate fits all problems"
    if np.any(z <= BOX[0] + 0.1):
        return "every problem is always or never solved: coverage does not grow with samples"
    return ""


LAWS = (COVERAGE_POWER, COVERAGE_BETA)
