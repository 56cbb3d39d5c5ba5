"""What a fit minimises: the sum over rows of weight x loss(prediction, measured), as one reweighting family.

Every objective gives, per row, its value, its slope and its two curvatures with respect to the prediction f: the exact
one (for Newton) and a positive one (iteratively reweighted least squares, Fisher scoring), so one solver serves all.

  huber      r^2/2 within delta, delta (|r| - delta/2) outside     r = g(f) - g(measured), g the residual space
  lad        |r|, reached as Huber with a delta that shrinks to nothing
  gaussian   r^2/2
  student_t  (nu + 1)/2 nu scale^2 log(1 + r^2 / (nu scale^2)), nu = 4: agrees with r^2/2 near zero up to (nu + 1)/nu
  binomial, beta_binomial   deviance of successes out of trials; f is the success probability
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import special

from models.errors import ConfigError, nearest

OBJECTIVES = ("huber", "lad", "gaussian", "student_t", "binomial", "beta_binomial")
SPACES = ("log", "raw", "logit")
STUDENT_NU = 4.0
LAD_SCALE = 1e-8


@dataclasses.dataclass(frozen=True)
class Objective:
    """kind: one of OBJECTIVES; space: residual space; scale: Huber delta, Student scale, beta-binomial size."""

    kind: str
    space: str = "log"
    scale: float = 1e-3

    def __post_init__(self):
        if self.space not in SPACES:
            raise ConfigError("space", f"{self.space!r} is no residual space", f"use one of {', '.join(SPACES)}")
        if self.kind not in OBJECTIVES:
            near = nearest(self.kind, OBJECTIVES)
            raise ConfigError(
                "objective",
                f"{self.kind!r} is not known",
                f"did you mean {near!r}?" if near else f"use one of {', '.join(OBJECTIVES)}",
            )

    @property
    def counts(self) -> bool:
        """Whether the measured column is a success fraction with a number of trials."""
        return self.kind in ("binomial", "beta_binomial")

    def link(self, f):
        """g(f) in the residual space."""
        return np.log(f) if self.space == "log" else special.logit(f) if self.space == "logit" else f

    def unlink(self, t):
        """The output whose link is t."""
        return np.exp(t) if self.space == "log" else special.expit(t) if self.space == "logit" else t

    def link_slope(self, f):
        """dg/df: what one unit of output is worth in the residual space."""
        return 1.0 / f if self.space == "log" else 1.0 / (f * (1.0 - f)) if self.space == "logit" else np.ones_like(f)

    def at_scale(self, scale) -> Objective:
        """The same objective with another scale; an array [S, 1] gives every start its own."""
        return dataclasses.replace(self, scale=scale)

    @property
    def floor(self) -> float:
        """The scale at which the objective is meant: LAD is Huber with next to no quadratic part."""
        return LAD_SCALE if self.kind == "lad" else self.scale

    def terms(self, f, target, trials, order: int = 2):
        """Per-row loss and, for order 2, (slope, curvature, positive curvature) in f; inf where f leaves its domain.

        f [S, n]; target [n] or [S, n]: linked measurements, or success fractions for counts; trials [n].
        """
        with np.errstate(all="ignore"):
            if self.kind == "binomial":
                return self._binomial(f, target, trials, order)
            if self.kind == "beta_binomial":
                return self._beta_binomial(f, target, trials, order)
            residual = self.link(f) - target
            value, psi, curvature, weight = self._rho(residual, order)
            value = np.where(np.isfinite(residual), value, np.inf)
            if order == 0:
                return value
            if self.space == "raw":
                return value, psi, curvature, weight
            g1 = self.link_slope(f)
            g1_squared = g1 * g1
            g2 = -g1_squared if self.space == "log" else g1_squared * (2.0 * f - 1.0)
            return value, psi * g1, curvature * g1_squared + psi * g2, weight * g1_squared

    def _rho(self, r, order):
        if self.kind in ("huber", "lad"):
            size = np.abs(r)
            clipped = np.minimum(size, self.scale)
            value = clipped * (size - 0.5 * clipped)
            unit = self.scale if self.kind == "lad" else 1.0  # |r| is Huber over its width, as the width vanishes
            if order == 0:
                return value / unit, None, None, None
            inside = size <= self.scale
            weight = np.where(inside, 1.0, self.scale / np.maximum(size, 1e-300))
            return value / unit, np.copysign(clipped, r) / unit, inside / unit, weight / unit
        if self.kind == "gaussian":
            return 0.5 * r * r, r, np.ones_like(r), np.ones_like(r)
        spread = STUDENT_NU * self.scale**2
        ratio = r * r / spread
        value = 0.5 * (STUDENT_NU + 1) / STUDENT_NU * spread * np.log1p(ratio)
        weight = (STUDENT_NU + 1) / STUDENT_NU / (1.0 + ratio)
        return value, weight * r, weight * (1.0 - ratio) / (1.0 + ratio), weight

    @staticmethod
    def _binomial(f, share, trials, order):
        hits, misses = trials * share, trials * (1.0 - share)
        saturated = special.xlogy(hits, share) + special.xlogy(misses, 1.0 - share)
        value = saturated - special.xlogy(hits, f) - special.xlog1py(misses, -f)
        value = np.where((f >= 0) & (f <= 1) & np.isfinite(value), value, np.inf)
        if order == 0:
            return value
        f = np.clip(f, 1e-12, 1 - 1e-12)
        return (value, misses / (1 - f) - hits / f, hits / f**2 + misses / (1 - f) ** 2, trials / (f * (1 - f)))

    def _beta_binomial(self, f, share, trials, order):
        s, hits, misses = self.scale, trials * share, trials * (1.0 - share)
        inside = (f > 0) & (f < 1)
        f = np.clip(f, 1e-9, 1 - 1e-9)
        a, b, log_gamma = f * s, (1.0 - f) * s, special.gammaln
        value = (
            log_gamma(a)
            - log_gamma(hits + a)
            + log_gamma(b)
            - log_gamma(misses + b)
            + log_gamma(trials + s)
            - log_gamma(s)
            - log_gamma(trials + 1)
            + log_gamma(hits + 1)
            + log_gamma(misses + 1)
        )
        value = np.where(inside, value, np.inf)
        if order == 0:
            return value
        slope = -s * (special.psi(hits + a) - special.psi(a) - special.psi(misses + b) + special.psi(b))
        curvature = (
            s
            * s
            * (
                special.polygamma(1, a)
                - special.polygamma(1, hits + a)
                + special.polygamma(1, b)
                - special.polygamma(1, misses + b)
            )
        )
        return value, slope, curvature, np.maximum(curvature, 1e-12)
