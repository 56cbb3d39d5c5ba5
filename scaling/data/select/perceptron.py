"""The teacher-student perceptron: a world in which what pruning does to the error is known (Sorscher et al. 2022).

A teacher labels Gaussian inputs by the side of its hyperplane. A student sees those examples that a probe, itself a
vector near the teacher, calls hard (near the probe's plane) or easy (far from it), and finds the plane of largest
margin. Its error is the angle between student and teacher over pi, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from models.errors import require
from scaling.data.select.prototypes import prototype_distances
from scaling.data.select.pruning import Rule, keep

Metric = Literal["margin", "prototype"]


@dataclass(frozen=True)
class Teacher:
    """A unit vector [dim] that labels inputs; everything it gives follows from (dim, seed)."""

    dim: int
    seed: int = 0

    @property
    def vector(self) -> np.ndarray:
        """The normal of the teacher's plane, [dim]."""
        return _unit(np.random.default_rng([self.seed, 0]).standard_normal(self.dim))

    def probe(self, angle: float = 0.0) -> np.ndarray:
        """A unit vector [dim] at `angle` (radians) from the teacher, in a random direction."""
        v, away = self.vector, np.random.default_rng([self.seed, 1]).standard_normal(self.dim)
        across = _unit(away - (away @ v) * v)
        return np.cos(angle) * v + np.sin(angle) * across

    def examples(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs [count, dim] ~ N(0, 1) and labels [count] of -1 and 1; fewer are a prefix of more."""
        x = np.random.default_rng([self.seed, 2]).standard_normal((count, self.dim))
        return x, np.where(x @ self.vector >= 0, 1.0, -1.0)

    def error(self, student: ArrayLike) -> float:
        """The share of inputs on which the student is wrong: the angle between the two over pi."""
        s = np.asarray(student, float)
        return float(np.arccos(np.clip(self.vector @ s / np.linalg.norm(s), -1.0, 1.0)) / np.pi)

    def difficulty(self, inputs: np.ndarray, metric: Metric, angle: float = 0.0) -> np.ndarray:
        """How hard a probe at `angle` finds the inputs [examples, dim]: larger is harder.

        "margin" is minus the distance to the probe's plane. "prototype" is the distance to the nearer of two k-means
        centres of an embedding that holds the probe's projection and two random ones, as a trained model's would.
        """
        probe = self.probe(angle)
        if metric == "margin":
            return -np.abs(inputs @ probe)
        others = np.random.default_rng([self.seed, 3]).standard_normal((2, self.dim)) / np.sqrt(self.dim)
        return prototype_distances(inputs @ np.vstack([3 * probe, others]).T, 2, seed=self.seed)

    def pruned_error(
        self, kept: int, share: float, rule: Rule, angle: float = 0.0, metric: Metric = "margin"
    ) -> float:
        """The error of the student of `kept` examples that are a `share` of a set, chosen by a probe at `angle`."""
        require(0 < share <= 1, "share", f"is {share}", "give the share that is kept, in (0, 1]")
        x, y = self.examples(round(kept / share))
        chosen = keep(self.difficulty(x, metric, angle), kept, rule, seed=self.seed)
        return self.error(max_margin(x[chosen], y[chosen]))


def max_margin(inputs: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """The shortest w [dim] with y (w x) >= 1 for all inputs [examples, dim]: the plane of largest margin through 0.

    Least distance programming as nonnegative least squares (Lawson & Hanson 1974, chapter 23), which is finite and
    exact. ConfigError when no plane through 0 separates the labels.
    """
    signed = np.asarray(inputs, float) * np.asarray(labels, float)[:, None]
    scale = np.sqrt(signed.shape[1])  # margins of order one, whatever the dimension
    system = np.vstack([signed.T / scale, np.ones(len(signed))])
    goal = np.zeros(len(system))
    goal[-1] = 1.0
    weights, _ = nnls(system, goal, maxiter=50 * system.shape[1])
    residual = system @ weights - goal
    require(-residual[-1] > 1e-12, "labels", "cannot be separated by a plane through 0", "give separable examples")
    return -residual[:-1] / residual[-1] / scale


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
