"""The neighbourhood of an optimum, where resamples have theirs: predictions to second order around one point.

A resample moves the optimum by about a standard deviation. There the law is its own second-order expansion, which all
resamples share: residuals, gradients and Hessians of all of them are matrix products with the same few rows, and no
exponential is taken. What it finds is where the estimator's own iteration then starts.
"""

from __future__ import annotations

import dataclasses
from itertools import combinations_with_replacement

import numpy as np

from scaling.fitting.estimator import Estimator

ELEMENTS = 60_000  # starts x rows solved together: the few temporaries of a matrix product stay in cache


class Tangent(Estimator):
    """An estimator whose residuals are those of `estimator` to second order around coordinates z [K]."""

    chunk_elements = ELEMENTS

    def __init__(self, estimator: Estimator, z: np.ndarray):
        given = {field.name: getattr(estimator, field.name) for field in dataclasses.fields(estimator)}
        super().__init__(**given)
        self.origin = np.asarray(z, float)
        self.pairs = list(combinations_with_replacement(range(self.size), 2))
        value, slopes, bends = self._expansion()
        # residuals of counts are in the output itself, where the objective is defined
        self.plain = self.objective if self.objective.counts else dataclasses.replace(self.objective, space="raw")
        self.middle, self.slopes, self.bends = value, slopes, bends
        self.products = np.array([slopes[i] * slopes[j] for i, j in self.pairs])

    def _expansion(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Linked predictions [n] at the origin, their derivatives [K, n] and second derivatives [pairs, n] in z."""
        params, n = self.coordinates.to_params(self.origin), len(self.measured)
        f = self.law.evaluate(params[None], self.inputs, order=2)
        first, second = self.coordinates.slopes(params)
        value = np.broadcast_to(f.value, (1, n))[0]
        slopes = np.array([np.broadcast_to(f.gradient.get(k, 0.0), (1, n))[0] * first[k] for k in range(self.size)])
        bends = []
        for i, j in self.pairs:
            bend = np.broadcast_to(f.hessian.get((i, j), 0.0), (1, n))[0] * first[i] * first[j]
            if i == j:
                bend = bend + np.broadcast_to(f.gradient.get(i, 0.0), (1, n))[0] * second[i]
            bends.append(bend)
        if self.objective.counts or self.objective.space == "raw":
            return value, slopes, np.array(bends)
        one = self.objective.link_slope(value)
        two = -one * one if self.objective.space == "log" else one * one * (2.0 * value - 1.0)
        curved = [one * bend + two * slopes[i] * slopes[j] for bend, (i, j) in zip(bends, self.pairs, strict=True)]
        return self.objective.link(value), one * slopes, np.array(curved)

    def expand(self, z, weights=None, target=None, scale=None):
        """Objective [S], gradient [S, K], nearly exact and positive Hessians [S, K, K] of the expansion at z [S, K]."""
        w = self._w(weights)
        step = z - self.origin
        half = np.array([0.5 if i == j else 1.0 for i, j in self.pairs])
        squares = np.stack([step[:, i] * step[:, j] for i, j in self.pairs], 1) * half
        with np.errstate(all="ignore"):
            f = self.middle + step @ self.slopes + squares @ self.bends
            loss, slope, curvature, positive = self.plain.terms(
                f, self.target if target is None else target, self.trials
            )
            value = np.einsum("sn,sn->s", loss, np.broadcast_to(w, loss.shape))
            slope = slope * w
            bend = self._matrices(slope @ self.bends.T)
            gradient = slope @ self.slopes.T + np.einsum("sij,sj->si", bend, step)
            hessian = self._matrices((curvature * w) @ self.products.T) + bend
            information = self._matrices((positive * w) @ self.products.T)
            value = np.where(np.isfinite(value), value, np.inf)
        return value, gradient, hessian, information

    def _matrices(self, columns: np.ndarray) -> np.ndarray:
        """Symmetric matrices [S, K, K] from one column per pair [S, pairs]."""
        out = np.empty((len(columns), self.size, self.size))
        for column, (i, j) in enumerate(self.pairs):
            out[:, i, j] = out[:, j, i] = columns[:, column]
        return out
