"""What a fit can vouch for: that the optimum is global, that the parameters are determined, that an interval means
something. A fit is never returned without one, and nothing degenerate is printed as if it were an answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from scipy.optimize import lsq_linear

from scaling.fitting.estimator import Estimator, Solution
from scaling.fitting.objectives import LAD_SCALE

AGREEMENT = 1e-6  # relative objective within which two starts found the same optimum
NARROW = 0.05  # range of an input relative to its mean, below which it does not count as varied
POINTS_PER_PARAMETER = 2.0  # distinct rows per parameter below which no interval is given
FLAT = 1e-9  # eigenvalue of the unit-diagonal information below which a direction is flat
NOTHING = 1e-8  # residual that counts as an exact fit: rounding decides what remains
VANISHED = 1e-6  # share of the prediction below which a term is absent


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Evidence about one fit.

    objective: the minimum; gradient_norm: largest scaled gradient there, relative to the objective; condition: of the
    information matrix in the centred frame; starts, agreed: how many starts were made, which share reached the optimum
    (relative 1e-6); active_bounds: parameters on a bound; not_identified: parameters the rows do not determine;
    outliers: rows far outside the rest; duplicates: rows that repeat another; ties: rows met exactly (LAD); runs: how
    many runs the rows are of, None when nobody said.
    """

    objective: float
    gradient_norm: float
    condition: float
    starts: int
    agreed: float
    points: int
    distinct_points: int
    parameters: int
    active_bounds: tuple[str, ...] = ()
    not_identified: tuple[str, ...] = ()
    outliers: tuple[str, ...] = ()
    duplicates: int = 0
    ties: int = 0
    notes: tuple[str, ...] = ()
    runs: int | None = None

    @property
    def points_per_parameter(self) -> float:
        return self.distinct_points / max(self.parameters, 1)

    @property
    def supports_interval(self) -> bool:
        """Whether the rows can support intervals of the parameters at all."""
        return not self.no_interval

    @property
    def no_interval(self) -> str:
        """Why no interval is given; empty when there is one."""
        if self.points_per_parameter < POINTS_PER_PARAMETER:
            return (
                f"{self.distinct_points} distinct points for {self.parameters} parameters: "
                f"at least {int(np.ceil(POINTS_PER_PARAMETER * self.parameters))} are needed"
            )
        if self.runs is not None and self.runs <= self.parameters:
            return f"{self.runs} runs for {self.parameters} parameters: more runs than parameters are needed"
        if self.not_identified:
            return f"not identified: {', '.join(self.not_identified)}"
        return "" if np.isfinite(self.gradient_norm) else "the objective has no gradient at its smallest value"

    @property
    def ok(self) -> bool:
        """Nothing was flagged."""
        return not self.warnings

    @property
    def warnings(self) -> tuple[str, ...]:
        """Every flag as one sentence."""
        out = []
        if self.no_interval:
            out.append("no interval: " + self.no_interval)
        if self.active_bounds:
            out.append("on a bound: " + ", ".join(self.active_bounds))
        if self.agreed < 0.2:
            out.append(f"only {self.agreed:.0%} of {self.starts} starts reached the optimum")
        if not self.gradient_norm < 1e-4:
            out.append(f"not stationary: relative gradient {self.gradient_norm:.1e}")
        if self.duplicates:
            out.append(f"{self.duplicates} rows repeat another row: they are resampled together")
        if self.outliers:
            out.append("outliers: " + ", ".join(self.outliers[:5]) + (" ..." if len(self.outliers) > 5 else ""))
        return (*out, *self.notes)


def narrow_inputs(inputs: Mapping[str, np.ndarray]) -> list[str]:
    """A note for every input that hardly varies: what it does to the output cannot be told from its other causes."""
    notes = []
    for name, values in inputs.items():
        if np.ptp(values) == 0:
            notes.append(f"{name} does not vary")
        elif _narrow(values):
            share = np.ptp(values) / abs(np.mean(values))
            notes.append(f"{name} varies by {share:.2%} only: too little to tell what it does")
    return notes


def _narrow(values: np.ndarray) -> bool:
    return bool(np.ptp(values) < NARROW * abs(float(np.mean(values))))


def certify(
    estimator: Estimator,
    search: Solution,
    rows: list[str],
    notes: Iterable[str] = (),
    clusters: np.ndarray | None = None,
) -> Certificate:
    """Certificate of the best point of `search`, whose every start counts as one vote."""
    best = int(np.argmin(search.value))
    z, value = search.z[best], float(search.value[best])
    size = _size(estimator, z)
    jacobian = np.nan_to_num(estimator.jacobian(z), nan=0.0, posinf=0.0, neginf=0.0)  # a bound may have no slope
    residual = estimator.residuals(z)
    at_bound = _active_bounds(estimator, z, jacobian)
    duplicates = len(estimator.measured) - int(repeated(estimator.inputs, estimator.measured).max()) - 1
    n = len(estimator.measured)
    condition, flat = _identify(estimator, z, jacobian, at_bound, size)
    flat += [name for name in _hidden_by_narrow(estimator, z, at_bound, size) if name not in flat]
    spread = robust_scale(residual)
    far = np.flatnonzero(np.abs(residual - np.median(residual)) > max(10 * spread, 1e-6 * size))
    return Certificate(
        objective=value,
        gradient_norm=_gradient_norm(estimator, search, best, at_bound, size),
        condition=condition,
        starts=len(search.value),
        agreed=float(np.mean(search.value <= value + _tolerance(estimator, value, size))),
        points=n,
        distinct_points=n - duplicates,
        parameters=int(estimator.free.sum()),
        active_bounds=tuple(at_bound),
        not_identified=tuple(flat),
        outliers=tuple(rows[i] for i in far[np.argsort(-np.abs(residual[far]))]),
        duplicates=duplicates,
        ties=int(np.sum(np.abs(residual) < 2 * LAD_SCALE)) if estimator.objective.kind == "lad" else 0,
        notes=tuple(notes),
        runs=None if clusters is None else len(np.unique(clusters)),
    )


def _hidden_by_narrow(estimator: Estimator, z: np.ndarray, at_bound: list[str], size: float) -> list[str]:
    """Parameters that only the variation of a nearly constant input tells apart: those that are not identified once it
    is held at its mean."""
    narrow = {name: values for name, values in estimator.inputs.items() if np.ptp(values) > 0 and _narrow(values)}
    if not narrow:
        return []
    held = {name: np.full_like(values, values.mean()) for name, values in narrow.items()}
    steady = dataclasses.replace(estimator, inputs={**estimator.inputs, **held})
    jacobian = np.nan_to_num(steady.jacobian(z), nan=0.0, posinf=0.0, neginf=0.0)
    return _identify(steady, z, jacobian, at_bound, size)[1]


def _size(estimator: Estimator, z: np.ndarray) -> float:
    """The size of a prediction in the residual space: 1 for logarithms, the output's own for raw residuals."""
    return float(np.median(np.abs(estimator.predict(z[None])[0] * estimator.residual_slope(z)))) or 1.0


def _tolerance(estimator: Estimator, value: float, size: float) -> float:
    """How far above the best objective a start may end and still have found the same optimum."""
    if estimator.objective.kind == "lad":
        return 1e-4 * value  # the starts stop short of the corner that the linear programme finds for the best
    # a log-likelihood has a unit of its own, and near a perfect fit rounding alone decides its last digits
    least = AGREEMENT * estimator.weights.mean() if estimator.objective.counts else 0.0
    return AGREEMENT * abs(value) + (NOTHING * size) ** 2 * estimator.weights.sum() + least


def robust_scale(residual: np.ndarray) -> float:
    """1.4826 x the median absolute deviation: a standard deviation that outliers do not move."""
    return float(1.4826 * np.median(np.abs(residual - np.median(residual))))


def _active_bounds(estimator, z, jacobian) -> list[str]:
    """Parameters on a bound: a box edge, or a positive one whose term has vanished from the prediction."""
    names, c = [], estimator.coordinates
    size = np.abs(estimator.predict(z[None])[0]) + 1e-300
    for k, name in enumerate(estimator.law.parameters):
        if not estimator.free[k]:
            continue
        if c.sign[k] == 0:
            width = c.high[k] - c.low[k] if np.isfinite(c.high[k] - c.low[k]) else 1.0
            edge = z[k] - c.low[k] < 1e-6 * width or c.high[k] - z[k] < 1e-6 * width
        else:
            edge = np.max(np.abs(jacobian[k]) / size) < VANISHED
        if edge:
            names.append(name)
    return names


def _gradient_norm(estimator, search, best, at_bound, size) -> float:
    """Largest |gradient| in units of the curvature's own scale, relative to the objective; bounds excluded."""
    free = np.array([estimator.free[k] and name not in at_bound for k, name in enumerate(estimator.law.parameters)])
    if not free.any():
        return 0.0
    gradient = _subgradient(estimator, search.z[best]) if estimator.objective.kind == "lad" else search.gradient[best]
    scale = np.sqrt(np.maximum(np.diag(search.information[best]), 1e-300))
    # the deviance of a perfect fit may round to less than nothing
    nothing = (0.1 * NOTHING * size) ** 2 * estimator.weights.sum()
    return float(np.max((np.abs(gradient) / scale)[free]) / np.sqrt(max(search.value[best], 0.0) + nothing))


def _subgradient(estimator, z) -> np.ndarray:
    """Smallest subgradient [K] of the LAD objective: rows met exactly may push with any weight between -1 and 1."""
    rows = estimator.jacobian(z) * estimator.residual_slope(z) * estimator.weights
    residual = estimator.residuals(z)
    met = np.abs(residual) < 2 * LAD_SCALE
    rest = rows[:, ~met] @ np.sign(residual[~met])
    return lsq_linear(rows[:, met], -rest, bounds=(-1, 1)).fun if met.any() else rest


def repeated(inputs: Mapping[str, np.ndarray], measured: np.ndarray) -> np.ndarray:
    """Code [n] of each distinct row: rows whose inputs and output are all equal share one."""
    return np.unique(np.column_stack([*inputs.values(), measured]), axis=0, return_inverse=True)[1].ravel()


def _identify(estimator, z, jacobian, at_bound, size) -> tuple[float, list[str]]:
    """Condition number in the centred frame, and the parameters taking part in flat directions or absent terms."""
    names = estimator.law.parameters
    frame, _ = estimator.centring(estimator.weights)
    slope = estimator.residual_slope(z)
    units = _units(estimator, z, jacobian)
    columns = (frame.T @ jacobian) * units[:, None] * slope * np.sqrt(estimator.weights)
    used = [k for k in range(len(names)) if estimator.free[k] and names[k] not in at_bound]
    if not used:
        return 1.0, []
    norms = np.linalg.norm(columns[used], axis=1)
    # one unit of any coordinate (a factor e, one in an exponent) must move the residuals by more than rounding
    least = 1e-7 * np.sqrt(estimator.weights.sum()) * size
    absent = [names[k] for k, norm in zip(used, norms, strict=True) if norm < least]
    kept = [k for k in used if names[k] not in absent]
    if not kept:
        return np.inf, absent
    unit = columns[kept] / np.linalg.norm(columns[kept], axis=1, keepdims=True)
    eigenvalues, vectors = np.linalg.eigh(unit @ unit.T)
    condition = float(eigenvalues[-1] / max(eigenvalues[0], 1e-300))
    flat = [names[k] for i, k in enumerate(kept) if np.any(np.abs(vectors[i, eigenvalues < FLAT]) > 0.1)]
    # a coefficient whose exponent has no term, or sits on a bound that removes it, is as undetermined as the exponent
    flat += [name for name in _orphans(estimator, z, jacobian, units) if name not in flat and name not in at_bound]
    loose = [n for n in _loose(estimator, z, columns, used) if n not in flat and n not in absent]
    doubtful = {*absent, *flat, *loose}
    return (np.inf if absent or eigenvalues[0] < 1e-14 else condition), [name for name in names if name in doubtful]


def _units(estimator, z, jacobian) -> np.ndarray:
    """What counts as one unit of every coordinate [K]: 1 for a logarithm or a box; a free coordinate's own size; for a
    linear coefficient what moves the prediction by its own size, whatever the data are counted in."""
    law, c = estimator.law, estimator.coordinates
    typical = float(np.median(np.abs(estimator.predict(z[None])[0])))
    units = np.ones(len(z))
    for k, name in enumerate(law.parameters):
        if c.sign[k] != 0 or np.isfinite(c.high[k] - c.low[k]):
            continue
        basis = float(np.median(np.abs(jacobian[k])))
        units[k] = typical / basis if name in law.linear and basis > 0 else max(abs(z[k]), 1.0)
    return units


def _orphans(estimator, z, jacobian, units) -> list[str]:
    """Non-linear parameters that act only through terms that have vanished."""
    law = estimator.law
    size = np.abs(estimator.predict(z[None])[0]) + 1e-300
    return [
        name
        for k, name in enumerate(law.parameters)
        if estimator.free[k] and name in law.nonlinear and np.max(np.abs(jacobian[k]) * units[k] / size) < VANISHED
    ]


def _loose(estimator, z, columns, used) -> list[str]:
    """Parameters whose standard error in the centred frame exceeds a factor e, a quarter of a bounded range, or half of
    the output for an additive constant."""
    if len(estimator.measured) <= len(used):
        return []
    residual = estimator.residuals(z)
    noise = np.sqrt(np.average(residual**2, weights=estimator.weights) * len(residual) / (len(residual) - len(used)))
    noise = min(noise, 1.5 * robust_scale(residual) + 1e-12) * np.sqrt(estimator.weights.mean())
    inverse = np.linalg.pinv(columns[used] @ columns[used].T, rcond=1e-15)
    error = noise * np.sqrt(np.maximum(np.diag(inverse), 0.0))
    width = estimator.coordinates.high - estimator.coordinates.low
    limit = [
        1.0
        if estimator.coordinates.sign[k]
        else 0.25 * width[k]
        if np.isfinite(width[k])
        else 0.5
        if estimator.law.parameters[k] in estimator.law.linear
        else np.inf
        for k in used
    ]
    return [estimator.law.parameters[k] for k, e, m in zip(used, error, limit, strict=True) if e > m]
