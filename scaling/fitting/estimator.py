"""The estimator: one object that finds the global optimum of a law on a table, for the data or for any reweighting.

The point fit, the bootstrap, the jackknife, the profile and every held-out test call the same `solve`, so an interval
is about the estimator that produced the number. How it works:

1. Variable projection. On a grid of the non-linear parameters the linear ones are a small weighted least-squares solve
   on residuals scaled to the residual space, made robust by two reweightings. Resamples enter as weights [B, n], so the
   normal matrices of all of them on the whole grid are one matrix product.
2. A damped Newton method on the exact Hessian (positive-definite or else reweighted least squares), batched over starts
   and resamples, in coordinates where positive parameters are logarithms. Damping is measured in a centred frame:
   log A and alpha are correlated .9993 as they stand.

float64 numpy: measured against a compiled XLA version there is no 3 s compile per shape, and one certified fit of 240
points costs about 10 ms.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import ClassVar

import numpy as np

from scaling.fitting.law import Law
from scaling.fitting.objectives import Objective

MAX_STEP = 2.0
# starts x rows solved together: temporaries of 128 KiB stay in cache and below the allocator's mmap threshold
CHUNK_ELEMENTS = 10_000
ROUND = 25
# |r| has no curvature: LAD follows the optimum of Huber objectives whose width shrinks from the residuals' own
SHRINK, WIDEST, STAGE_TOLERANCE = 0.25, 0.03, 1e-9


def _rows(array, rows):
    """Rows of what differs per start ([S, n]); what is shared ([n], None) as it is."""
    return array if array is None or np.ndim(array) == 1 else array[rows]


def _full(array, shape):
    """The array in this shape; numpy's broadcast takes 10 us even where it has nothing to do."""
    return array if np.shape(array) == shape else np.broadcast_to(array, shape)


@dataclasses.dataclass
class Solution:
    """Where each start is: coordinates z [S, K], objective [S], gradient [S, K], exact and positive Hessians [S, K, K],
    whether it converged [S]; and the solver's state, damping [S] and (LAD) Huber width [S]."""

    z: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    information: np.ndarray
    converged: np.ndarray
    damping: np.ndarray
    scale: np.ndarray | None = None

    def take(self, rows) -> Solution:
        """A copy of some starts."""
        arrays: list = [None if a is None else a[rows] for a in self._arrays()]
        return Solution(*arrays)

    def put(self, rows, part: Solution) -> None:
        """Overwrite some starts with `part`."""
        for mine, other in zip(self._arrays(), part._arrays(), strict=True):
            if mine is not None:
                mine[rows] = other

    def move(self, accepted, fresh) -> None:
        """Take the fresh (z, value, gradient, hessian, information) of the accepted starts [S]."""
        names = ("z", "value", "gradient", "hessian", "information")
        for name, array in zip(names, fresh, strict=True):
            if accepted.all():
                setattr(self, name, array)
            else:
                getattr(self, name)[accepted] = array[accepted]

    def _arrays(self):
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


@dataclasses.dataclass
class Estimator:
    """A law, its data and an objective; `solve` is the only optimiser in the package.

    inputs: name -> [n]; measured [n]; weights [n] (inverse variances, they multiply the loss of a row); trials [n] or
    None; fixed: parameter -> value, for profiles.
    """

    law: Law
    inputs: dict[str, np.ndarray]
    measured: np.ndarray
    objective: Objective
    weights: np.ndarray
    trials: np.ndarray | None = None
    fixed: dict[str, float] = dataclasses.field(default_factory=dict)

    chunk_elements: ClassVar[int] = CHUNK_ELEMENTS

    def __post_init__(self):
        self.coordinates = self.law.coordinates
        self.target = self.measured if self.objective.counts else self.objective.link(self.measured)
        self.size = len(self.law.parameters)
        self.free = np.array([name not in self.fixed for name in self.law.parameters])

    def take(self, rows) -> Estimator:
        """The same estimator on a subset of the rows."""
        return dataclasses.replace(
            self,
            inputs={k: v[rows] for k, v in self.inputs.items()},
            measured=self.measured[rows],
            weights=self.weights[rows],
            trials=None if self.trials is None else self.trials[rows],
        )

    def value(self, z, weights=None, target=None):
        """Objective [S] at coordinates z [S, K]; weights [n] or [S, n]."""
        f = self.law.evaluate(self.coordinates.to_params(z), self.inputs).value
        objective = self.objective.at_scale(self.objective.floor)
        loss = objective.terms(f, self.target if target is None else target, self.trials, order=0)
        return np.einsum("...n,...n->...", np.broadcast_to(loss, (len(z), len(self.measured))), self._w(weights))

    def _w(self, weights):
        return self.weights if weights is None else weights

    def predict(self, z):
        """Predictions [S, n] at coordinates z [S, K]."""
        f = self.law.evaluate(self.coordinates.to_params(z), self.inputs).value
        return np.broadcast_to(f, (len(z), len(self.measured)))

    def jacobian(self, z):
        """df/dz [K, n] at one point z [K]."""
        params = self.coordinates.to_params(z)
        f = self.law.evaluate(params, self.inputs, order=1)
        slope, _ = self.coordinates.slopes(params)
        rows = [np.broadcast_to(f.gradient.get(k, 0.0), self.measured.shape) for k in range(self.size)]
        return np.array(rows) * slope[:, None]

    def residuals(self, z) -> np.ndarray:
        """Measured minus predicted [n] in the residual space at one point z [K] (Pearson residuals for counts)."""
        f = self.predict(np.asarray(z)[None])[0]
        if self.objective.counts:
            return (self.measured - f) / np.sqrt(np.maximum(f * (1 - f), 1e-12) / self.trials)
        return self.target - self.objective.link(f)

    def residual_slope(self, z) -> np.ndarray:
        """d residual / d prediction [n] at one point z [K], up to sign."""
        f = self.predict(np.asarray(z)[None])[0]
        if self.objective.counts:
            return 1.0 / np.sqrt(np.maximum(f * (1 - f), 1e-12) / self.trials)
        return self.objective.link_slope(f)

    def expand(self, z, weights=None, target=None, scale=None):
        """Second-order expansion at z [S, K]: objective [S], gradient [S, K], exact and positive Hessians [S, K, K]."""
        w = self._w(weights)
        objective = self.objective if scale is None else self.objective.at_scale(scale[:, None])
        params = self.coordinates.to_params(z)
        starts, n = len(z), len(self.measured)
        with np.errstate(all="ignore"):
            f = self.law.evaluate(params, self.inputs, order=2)
            loss, slope, curvature, positive = objective.terms(
                f.value, self.target if target is None else target, self.trials
            )
            value = np.matmul(_full(loss, (starts, n)), w) if w.ndim == 1 else np.einsum("sn,sn->s", loss, w)
            jacobian = np.empty((starts, self.size, n))
            for k in range(self.size):
                jacobian[:, k] = f.gradient.get(k, 0.0)
            k, slope = self.size, slope * w
            stacked = np.empty((starts, 2 * k + 1, n))  # one product gives both Hessians and the gradient
            np.multiply(jacobian, (curvature * w)[:, None], out=stacked[:, :k])
            np.multiply(jacobian, (positive * w)[:, None], out=stacked[:, k : 2 * k])
            stacked[:, 2 * k] = slope
            product = np.matmul(stacked, jacobian.transpose(0, 2, 1))
            hessian, information, gradient = product[:, :k], product[:, k : 2 * k], product[:, 2 * k]
            for (i, j), second in f.hessian.items():
                term = np.einsum("sn,sn->s", _full(second, (starts, n)), slope)
                hessian[:, i, j] += term
                if i != j:
                    hessian[:, j, i] += term
            first, second = self.coordinates.slopes(params)
            outer = first[:, :, None] * first[:, None, :]
            hessian, information = hessian * outer, information * outer
            diagonal = np.arange(self.size)
            hessian[:, diagonal, diagonal] += gradient * second
            gradient = gradient * first
            value = np.where(np.isfinite(value), value, np.inf)
        return value, gradient, hessian, information

    def solve(
        self, z0, weights=None, target=None, iterations: int = 200, tolerance: float = 2e-16, damping: float = 3e-2
    ) -> Solution:
        """Minimise from every start z0 [S, K]; weights and target may differ per start ([S, n]).

        Each iteration takes the Newton step of the exact Hessian where it is positive definite, else the step of the
        reweighted normal matrix; a rejected step raises that start's damping, which starts at `damping` (0 where z0 is
        next to its optimum). A start leaves the batch once its predicted decrease is below rounding.
        """
        z = np.clip(np.array(z0, float), self.coordinates.low, self.coordinates.high)
        starts, k = z.shape
        out = Solution(
            z,
            np.full(starts, np.inf),
            np.zeros((starts, k)),
            np.zeros((starts, k, k)),
            np.zeros((starts, k, k)),
            np.zeros(starts, bool),
            np.full(starts, damping),
            self._first_scale(z, target),
        )
        chunk = max(1, self.chunk_elements // len(self.measured))
        pending = np.arange(starts)
        # in rounds, so that the slow starts of all chunks end up in chunks of their own
        for first in range(0, iterations, ROUND):
            for i in range(0, len(pending), chunk):
                rows = pending[i : i + chunk]
                part = self._solve_chunk(
                    out.take(rows), _rows(weights, rows), _rows(target, rows), min(ROUND, iterations - first), tolerance
                )
                out.put(rows, part)
            pending = pending[~out.converged[pending] & np.isfinite(out.value[pending])]
            if not len(pending):
                break
        if out.scale is not None:
            early = np.flatnonzero(out.scale > self.objective.floor)
            out.scale[early] = self.objective.floor
            out.value[early] = self.value(out.z[early], _rows(weights, early), _rows(target, early))
        return out

    def at(self, z) -> Solution:
        """The given coordinates [S, K] as a solution, unmoved."""
        floor = np.full(len(z), self.objective.floor)
        converged, damping = np.ones(len(z), bool), np.zeros(len(z))
        scale = floor if self.objective.kind == "lad" else None
        value, gradient, hessian, information = self.expand(z, scale=scale)
        return Solution(np.asarray(z, float), value, gradient, hessian, information, converged, damping, scale)

    def _solve_chunk(self, out: Solution, weights, target, iterations, tolerance) -> Solution:
        """`solve` for starts that fit the cache together; `now` holds those still moving, compacted as they finish."""
        w, t, floor = self._w(weights), target, self.objective.floor
        out.value, out.gradient, out.hessian, out.information = self.expand(out.z, w, t, out.scale)
        frame = self.frame
        rows = np.flatnonzero(np.isfinite(out.value))
        now, w, t = out.take(rows), _rows(w, rows), _rows(t, rows)
        for _ in range(iterations):
            step, decrease = self._step(now.z, now.gradient, now.hessian, now.information, now.damping, frame)
            now.converged = (decrease <= tolerance * np.abs(now.value) + 1e-300) | (now.damping > 1e12)
            narrow = self._narrow(now, decrease, floor)
            if narrow is not None:
                step[narrow] = 0.0
            if now.converged.any():
                out.put(rows, now)
                going = np.flatnonzero(~now.converged)
                rows, now, w, t = rows[going], now.take(going), _rows(w, going), _rows(t, going)
                step, decrease, narrow = step[going], decrease[going], None if narrow is None else narrow[going]
                if not len(rows):
                    return out
            trial = np.clip(now.z + step, self.coordinates.low, self.coordinates.high)
            fresh = (trial, *self.expand(trial, w, t, now.scale))
            ratio = (now.value - fresh[1]) / np.maximum(decrease, 1e-300)
            accepted = ratio > 1e-4
            damping = np.where(ratio > 0.7, now.damping * 0.1, np.where(accepted, now.damping, now.damping * 10 + 1e-5))
            damping[damping < 1e-10] = 0.0
            if narrow is not None:
                accepted, damping = accepted | narrow, np.where(narrow, now.damping, damping)
            now.damping = damping
            now.move(accepted, fresh)
        out.put(rows, now)
        return out

    @staticmethod
    def _narrow(now: Solution, decrease, floor) -> np.ndarray | None:
        """For LAD, narrow the Huber width of the starts that have settled at theirs; which ones [S]."""
        if now.scale is None:
            return None
        settled = now.converged | (decrease <= STAGE_TOLERANCE * np.abs(now.value))
        narrow = (now.scale > floor) & settled
        now.scale = np.where(narrow, np.maximum(now.scale * SHRINK, floor), now.scale)
        now.damping = np.where(narrow, np.minimum(now.damping, 1e-3), now.damping)
        now.converged = now.converged & ~narrow
        return narrow

    def _first_scale(self, z, target) -> np.ndarray | None:
        """Huber width [S] that each start of a LAD fit begins with: near its residuals, narrowed as it converges."""
        if self.objective.kind != "lad":
            return None
        with np.errstate(all="ignore"):
            residual = self.objective.link(self.predict(z)) - (self.target if target is None else target)
        typical = 2.0 * np.median(np.abs(np.nan_to_num(residual, nan=1.0)), axis=1)
        return np.clip(typical, self.objective.floor, WIDEST)

    def polish_lad(self, z, rounds: int = 20) -> np.ndarray:
        """Coordinates [K] of the LAD optimum near z [K]: linear programmes on linearised residuals.

        The optimum passes through as many rows as there are parameters; no smooth step finds that corner, a linear
        programme steps from corner to corner. `radius` keeps it where the linearisation holds.
        """
        from scipy import sparse
        from scipy.optimize import linprog

        n, free, radius = len(self.measured), np.flatnonzero(self.free), 0.1
        value = np.sum(self.weights * np.abs(self.residuals(z)))
        ones = sparse.identity(n)
        for _ in range(rounds):
            slopes = (self.jacobian(z) * self.residual_slope(z))[free].T
            residual = self.residuals(z)
            low = np.maximum(-radius, self.coordinates.low[free] - z[free])
            high = np.minimum(radius, self.coordinates.high[free] - z[free])
            # the solver's tolerance of 1e-7 is absolute: unit residuals keep it below the data's own scale
            unit = np.mean(np.abs(residual)) + 1e-300
            programme = linprog(
                np.concatenate([np.zeros(len(free)), self.weights]),
                A_ub=sparse.vstack([sparse.hstack([sign * slopes / unit, -ones]) for sign in (1, -1)]).tocsr(),
                b_ub=np.concatenate([residual, -residual]) / unit,
                bounds=[*zip(low, high, strict=True), *[(0, None)] * n],
            )
            if programme.x is None:
                break
            trial = z.copy()
            trial[free] += programme.x[: len(free)]
            trial = self._interpolate(trial, free)
            fresh = np.sum(self.weights * np.abs(self.residuals(trial)))
            promised = value - programme.fun * unit
            radius *= 2.0 if value - fresh > 0.5 * promised else 0.25
            if fresh < value:
                z, value = trial, fresh
            if promised <= 1e-9 * value or radius < 1e-9:
                break
        return z

    def _interpolate(self, z, free):
        """Move z [K] so that the rows it all but meets are met exactly, when they are as many as parameters."""
        corner = np.argsort(np.abs(self.residuals(z)))[: len(free)]
        start = z
        for _ in range(4):
            slopes = (self.jacobian(z) * self.residual_slope(z))[np.ix_(free, corner)].T
            try:
                step = np.linalg.solve(slopes, self.residuals(z)[corner])
            except np.linalg.LinAlgError:
                return start
            if not np.all(np.abs(step) < 0.1):
                return start
            z = z.copy()
            z[free] = np.clip(z[free] + step, self.coordinates.low[free], self.coordinates.high[free])
        total = [np.sum(self.weights * np.abs(self.residuals(point))) for point in (start, z)]
        return z if total[1] <= total[0] else start

    def _step(self, z, gradient, hessian, information, damping, frame):
        """Damped step [S, K] and the decrease [S] the quadratic model predicts for it, bounds respected."""
        transform, inverse = frame
        diagonal = np.sum(np.matmul(information, transform) * transform, axis=1)
        metric = np.matmul(inverse.T * (diagonal + 1e-30)[:, None, :], inverse)
        blocked = (z <= self.coordinates.low) & (gradient > 0) | (z >= self.coordinates.high) & (gradient < 0)
        blocked |= ~self.free
        gradient = np.where(blocked, 0.0, gradient)
        damped = damping[:, None, None] * metric
        step, decrease, definite = cholesky_step(hessian + damped, gradient, blocked)
        bad = np.flatnonzero(~definite)
        if len(bad):
            # the reweighted normal matrix is positive by construction; a trace of the metric keeps it invertible
            matrix = information[bad] + np.maximum(damping[bad], 1e-9)[:, None, None] * metric[bad]
            step[bad], decrease[bad], _ = cholesky_step(matrix, gradient[bad], blocked[bad])
        # in the centred frame a unit is a factor e in a term or one in an exponent; a longer step leaves the model
        size = np.max(np.abs(np.matmul(step, inverse.T)), axis=1)
        part = np.minimum(1.0, MAX_STEP / np.maximum(size, 1e-300))
        return step * part[:, None], decrease * part * (2.0 - part)

    @cached_property
    def frame(self) -> tuple[np.ndarray, np.ndarray]:
        """`centring` with the table's own weights: steps are measured in it, whatever the resampling."""
        return self.centring(self.weights)

    def centring(self, weights) -> tuple[np.ndarray, np.ndarray]:
        """The linear frame [K, K] (and its inverse) in which each coefficient is measured where the data are.

        In it a coefficient means the size of its term at the mean of the data, which for a power law is centring
        ln N; without it log A and alpha are all but collinear and damping stalls the pair.
        """
        frame = np.eye(self.size)
        names = self.law.parameters
        middle = self.coordinates.to_z(np.array([self._middle(name) for name in names]))
        params = self.coordinates.to_params(middle)
        with np.errstate(all="ignore"):
            f = self.law.evaluate(params, self.inputs, order=2)
            for name in self.law.linear:
                j = names.index(name)
                basis = f.gradient.get(j)
                if basis is None:
                    continue
                for other in self.law.nonlinear:
                    k = names.index(other)
                    cross = f.hessian.get((min(j, k), max(j, k)))
                    if cross is not None and self.coordinates.sign[j] != 0:
                        shift = np.average(np.broadcast_to(cross / basis, self.measured.shape), weights=weights)
                        frame[j, k] = -shift * self.coordinates.slopes(params)[0][k] if np.isfinite(shift) else 0.0
        return frame, np.linalg.inv(frame)

    def _middle(self, name: str) -> float:
        if name in self.fixed:
            return self.fixed[name]
        if name in self.law.linear:
            return 1.0
        values = np.sort(self.law.starts(name))
        return float(values[len(values) // 2])


def cholesky_step(
    matrix: np.ndarray, gradient: np.ndarray, blocked: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve matrix @ step = -gradient for a batch, blocked coordinates left alone.

    Returns step [S, K], the predicted decrease [S] and whether each matrix was positive definite. Elimination over K
    with the batch innermost: LAPACK's per-matrix overhead is several times the arithmetic at these sizes.
    """
    size = gradient.shape[1]
    with np.errstate(all="ignore"):
        free = ~blocked
        scale = np.where(free, np.sqrt(np.abs(np.einsum("skk->sk", matrix))), 1.0)
        scale = np.where((scale > 0) & np.isfinite(scale), scale, 1.0)
        scaled = matrix / (scale[:, :, None] * scale[:, None, :]) * (free[:, :, None] & free[:, None, :])
        rows = np.empty((size, size + 1, len(gradient)))  # the right-hand side rides along as one more column
        rows[:, :size] = scaled.transpose(1, 2, 0)
        rows[:, size] = np.where(free, -gradient / scale, 0.0).T
        index = np.arange(size)
        rows[index, index] += blocked.T
        pivots = np.empty((size, len(gradient)))
        for k in range(size):
            pivots[k] = np.where(rows[k, k] > 1e-13, rows[k, k], 1.0)
            if k + 1 < size:
                rows[k + 1 :, k + 1 :] -= (rows[k + 1 :, k] / pivots[k])[:, None] * rows[k, k + 1 :]
        definite = np.asarray((rows[index, index] > 1e-13).all(0))
        rhs = rows[:, size]
        for k in reversed(range(size)):
            rhs[k] = (rhs[k] - np.sum(rows[k, k + 1 : size] * rhs[k + 1 :], axis=0)) / pivots[k]
        step = np.where(blocked, 0.0, rhs.T / scale)
    decrease = -0.5 * np.einsum("sk,sk->s", gradient, step)
    return np.where(np.isfinite(step), step, 0.0), np.where(np.isfinite(decrease), decrease, 0.0), definite
