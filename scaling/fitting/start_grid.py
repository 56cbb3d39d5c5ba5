"""Where the search for the optimum begins: variable projection on a grid of the non-linear parameters.

At fixed non-linear parameters a law is linear in the rest, so every grid cell has its best coefficients in closed form.
Residuals are scaled to the residual space (divided by the measured loss for a log space), which makes the cell's least
squares agree with the objective to first order. The same normal-equation features, weighted by resampling counts,
start every bootstrap resample at its own best cell: one matrix product for all of them.
"""

from __future__ import annotations

import numpy as np

from scaling.fitting.estimator import Estimator, Solution, cholesky_step

MAX_CELLS = 4096
REWEIGHTINGS = 3
CELL_ELEMENTS = 60_000
FEATURE_ELEMENTS = 400_000
TOGETHER, AGAIN, LEADERS = 18, 4, 3


def optimum(estimator: Estimator, starts: int = 16, extra: np.ndarray | None = None) -> tuple[Solution, StartGrid]:
    """Every start's end point, the certificate's electorate: half the starts from the best cells of the grid, half
    from cells spread over the rest; extra [S, K] adds given coordinates. All run together for a few dozen iterations,
    then the leaders alone until they converge."""
    grid = StartGrid(estimator)
    z0 = grid.starts(starts)
    if extra is not None:
        z0 = np.concatenate([z0, extra])
    # a start whose term has died creeps along a plateau: a predicted gain of 1e-12 is no gain to a vote
    quick = extra is None and estimator.objective.kind != "lad"
    search = estimator.solve(z0, iterations=TOGETHER if quick else 200, tolerance=1e-12)
    for _ in range(AGAIN if quick else 0):
        # a hard table gets more time before its starts are said to disagree
        slow = np.flatnonzero(~search.converged & np.isfinite(search.value))
        if np.mean(search.value <= search.value.min() * (1 + 1e-6) + 1e-300) >= 0.5 or not len(slow):
            break
        search.put(slow, estimator.solve(search.z[slow], iterations=TOGETHER, tolerance=1e-12))
    leaders = np.argsort(search.value, kind="stable")[:LEADERS]
    leaders = leaders[np.isfinite(search.value[leaders])]
    if len(leaders):
        search.put(leaders, estimator.solve(search.z[leaders]))
        if estimator.objective.kind == "lad":
            best = leaders[np.argmin(search.value[leaders])]
            search.put([best], estimator.at(estimator.polish_lad(search.z[best])[None]))
    return search, grid


class StartGrid:
    """Cells [G, K] of an estimator: non-linear parameters on a product grid, linear ones projected out."""

    def __init__(self, estimator: Estimator):
        self.estimator = estimator
        law = estimator.law
        names = law.parameters
        self.linear = [names.index(name) for name in law.linear if name not in estimator.fixed]
        axes = [
            np.array([estimator.fixed[name]])
            if name in estimator.fixed
            else np.array([1.0])
            if name in law.linear
            else law.starts(name)
            for name in names
        ]
        cells = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], -1)
        if len(cells) > MAX_CELLS:
            # a golden-ratio stride visits every axis evenly where a plain stride would alias with the product grid
            cells = cells[np.unique((np.arange(MAX_CELLS) * 0.6180339887 % 1.0 * len(cells)).astype(int))]
        self.cells = cells
        if self.linear:
            self._features()

    def _features(self):
        """Scaled basis [G, J, n] and what is left of the measurements [G, n] once the constant part is taken out."""
        e = self.estimator
        cells, n = self.cells.copy(), len(e.measured)
        cells[:, self.linear] = 0.0
        self.basis, self.rest = np.empty((len(cells), len(self.linear), n)), np.empty((len(cells), n))
        with np.errstate(all="ignore"):
            if e.objective.counts and e.trials is not None:
                share = np.clip(e.measured, 0.5 / (e.trials + 1), 1 - 0.5 / (e.trials + 1))
                slope = np.sqrt(e.trials / (share * (1 - share)))
            else:
                slope = e.objective.link_slope(e.measured)
            for some in self._chunks():
                f = e.law.evaluate(cells[some], e.inputs, order=1, along=self.linear)
                for column, index in enumerate(self.linear):
                    self.basis[some, column] = f.gradient.get(index, 0.0) * slope
                self.rest[some] = (e.measured - f.value) * slope
        usable = np.isfinite(self.basis).all((1, 2)) & np.isfinite(self.rest).all(1)
        if not usable.all():
            self.cells, self.basis, self.rest = self.cells[usable], self.basis[usable], self.rest[usable]

    def _chunks(self) -> list[slice]:
        """The cells in stretches whose arrays over the rows stay in the cache."""
        size = max(1, CELL_ELEMENTS // len(self.estimator.measured))
        return [slice(first, first + size) for first in range(0, len(self.cells), size)]

    def _coefficients(self, normal, moment):
        """Least squares under the bounds, for a batch: normal [M, J, J], moment [M, J] -> coefficients [M, J]."""
        low = np.array([-np.inf if b[0] is None else b[0] for b in self._linear_bounds()])
        high = np.array([np.inf if b[1] is None else b[1] for b in self._linear_bounds()])
        index = np.arange(len(low))
        scale = np.sqrt(np.maximum(normal[:, index, index], 1e-300))
        normal = normal.copy()
        normal[:, index, index] *= 1 + 1e-12
        coefficients, _, _ = cholesky_step(normal, -moment, np.zeros(moment.shape, bool))
        blocked, held = np.zeros(moment.shape, bool), np.zeros(moment.shape)
        for _ in range(len(low)):
            outside = (coefficients < low) | (coefficients > high)
            again = np.flatnonzero(outside.any(1))
            if not len(again):
                break
            # the worst offender goes to its bound, the others are solved again
            distance = np.maximum(low - coefficients[again], coefficients[again] - high) * scale[again]
            pick = (distance == distance.max(1, keepdims=True)) & outside[again]
            blocked[again] |= pick
            held[again] = np.where(pick, np.clip(coefficients[again], low, high), held[again])
            shifted = moment[again] - np.matmul(normal[again], held[again][..., None])[..., 0]
            solved, _, _ = cholesky_step(normal[again], -shifted, blocked[again])
            coefficients[again] = np.where(blocked[again], held[again], solved)
        return np.clip(coefficients, low, high)

    def _linear_bounds(self):
        names = self.estimator.law.parameters
        return [self.estimator.law.bounds[names[index]] for index in self.linear]

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates z [G, K] of every cell and their objective [G]."""
        if self.linear and len(self.cells):
            for some in self._chunks():
                self.cells[some, self.linear] = self._projected(self.basis[some], self.rest[some])
        z = self.estimator.coordinates.to_z(self.cells)
        value = np.concatenate([self.estimator.value(z[some]) for some in self._chunks()])
        return z, value

    def _projected(self, basis, rest):
        """The linear coefficients [G, J] of cells with features basis [G, J, n] and rest [G, n], made robust."""
        e, weights = self.estimator, self.estimator.weights
        for _ in range(REWEIGHTINGS):
            weighted = basis * (weights if weights.ndim == 1 else weights[:, None])
            normal = np.matmul(weighted, basis.transpose(0, 2, 1))
            moment = np.matmul(weighted, rest[..., None])[..., 0]
            coefficients = self._coefficients(normal, moment)
            if e.objective.kind in ("gaussian", "binomial", "beta_binomial"):
                break
            residual = np.abs(rest - np.matmul(coefficients[:, None], basis)[:, 0])
            width = np.maximum(e.objective.scale, 0.1 * np.mean(residual, axis=1, keepdims=True))
            weights = e.weights * width / np.maximum(residual, width)
        return self._lift(coefficients, basis, rest)

    def _lift(self, coefficients, basis, rest):
        """Coefficients off a zero bound by a thousandth of the data, so that a start can leave the bound again."""
        reach = np.abs(rest).mean(1, keepdims=True) / np.maximum(np.abs(basis).mean(2), 1e-300)
        names = [self.estimator.law.parameters[index] for index in self.linear]
        for column, name in enumerate(names):
            low, high = self.estimator.law.bounds[name]
            if low is not None and high is None:
                coefficients[:, column] = np.maximum(coefficients[:, column], low + 1e-3 * reach[:, column])
            if high is not None and low is None:
                coefficients[:, column] = np.minimum(coefficients[:, column], high - 1e-3 * reach[:, column])
        return coefficients

    def starts(self, count: int) -> np.ndarray:
        """`count` starts z [S, K]: half from the best cells, half spread over the best quarter of the others, so that
        agreement means something."""
        z, value = self.solve()
        order = np.argsort(np.where(np.isfinite(value), value, np.inf), kind="stable")
        order = order[: max(1, int(np.isfinite(value).sum()))]
        best = order[: (count + 1) // 2]
        spread = order[len(best) : len(best) + (len(order) + 3) // 4]
        if len(spread):
            spread = spread[np.linspace(0, len(spread) - 1, min(count // 2, len(spread))).astype(int)]
        return z[np.concatenate([best, np.unique(spread)])]

    def best_cells(self, weights: np.ndarray, robust: np.ndarray) -> np.ndarray:
        """Coordinates [B, K] of the best cell of every resample (weights [B, n]); robust [n] downweights outliers."""
        if not self.linear:
            return self._best_by_value(weights)
        columns, upper = len(self.linear), np.triu_indices(len(self.linear) + 1)
        lowest = np.full(len(weights), np.inf)
        out = np.repeat(self.cells[:1], len(weights), 0)
        for some, sums in self._sums(weights, robust, upper):
            full = np.empty((*sums.shape[:2], columns + 1, columns + 1))
            full[..., upper[0], upper[1]] = sums
            full[..., upper[1], upper[0]] = sums
            normal, moment, total = full[..., :-1, :-1], full[..., :-1, -1], full[..., -1, -1]
            solved = self._coefficients(normal.reshape(-1, columns, columns), moment.reshape(-1, columns))
            solved = solved.reshape(moment.shape)
            product = np.matmul(normal, solved[..., None])[..., 0]
            value = total + np.sum((product - 2 * moment) * solved, -1)
            best = np.argmin(value, axis=1)
            reached = np.take_along_axis(value, best[:, None], 1)[:, 0]
            better = reached < lowest
            lowest[better] = reached[better]
            cells = self.cells[some][best]
            cells[:, self.linear] = np.take_along_axis(solved, best[:, None, None], 1)[:, 0]
            out[better] = cells[better]
        return self._liftable(out)

    def _sums(self, weights, robust, upper):
        """Weighted products of the features of some cells, [B, some cells, pairs], one after the other: the features of
        all cells at once would be larger than the table by their number."""
        together = max(1, FEATURE_ELEMENTS // (len(upper[0]) * max(len(robust), len(weights))))
        for first in range(0, len(self.cells), together):
            some = slice(first, first + together)
            rows = np.concatenate([self.basis[some], self.rest[some, None]], axis=1)  # [g, J + 1, n]
            features = rows[:, upper[0]] * robust
            features *= rows[:, upper[1]]  # [g, m, n]
            sums = features.reshape(-1, features.shape[-1]) @ weights.T
            yield some, sums.reshape(*features.shape[:2], -1).transpose(2, 0, 1)

    def _liftable(self, cells):
        names = self.estimator.law.parameters
        for index in self.linear:
            low, high = self.estimator.law.bounds[names[index]]
            typical = np.median(np.abs(cells[:, index])) + 1e-30
            if low is not None and high is None:
                cells[:, index] = np.maximum(cells[:, index], low + 1e-3 * typical)
            if high is not None and low is None:
                cells[:, index] = np.minimum(cells[:, index], high - 1e-3 * typical)
        return self.estimator.coordinates.to_z(cells)

    def _best_by_value(self, weights):
        e = self.estimator
        z = e.coordinates.to_z(self.cells)
        losses = []
        chunk = max(1, CELL_ELEMENTS // len(e.measured))
        for i in range(0, len(z), chunk):
            f = np.broadcast_to(e.predict(z[i : i + chunk]), (len(z[i : i + chunk]), len(e.measured)))
            losses.append(e.objective.terms(f, e.target, e.trials, order=0))
        loss = np.nan_to_num(np.concatenate(losses), nan=1e30, posinf=1e30)
        return z[np.argmin(weights @ loss.T, axis=1)]
