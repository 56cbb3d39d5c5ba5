"""Optimal transport of mixtures: an assignment's cost, slopes as differences, the planted mixture, exact log sizes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from models.errors import ConfigError
from scaling.data.select.transport import Projection, labelled_costs, nearest_mixture, transport

RNG = np.random.default_rng(0)


def test_the_distance_of_one_source_is_the_best_assignments_and_labels_cost_what_they_say() -> None:
    x, to = RNG.normal(size=(2, 12, 3))
    labels, to_labels = RNG.integers(2, size=(2, 12))
    cost = labelled_costs(x, labels, to, to_labels, far=0.7)
    for i, j in ((0, 0), (3, 5), (11, 2)):
        assert cost[i, j] == pytest.approx(np.linalg.norm(x[i] - to[j]) + 0.7 * (labels[i] != to_labels[j]))
    rows, columns = linear_sum_assignment(cost)
    assert transport([cost], np.ones(1)).distance == pytest.approx(cost[rows, columns].mean())
    mixed = transport([cost[:4], cost[4:]], np.array([4 / 12, 8 / 12]))
    assert mixed.distance == pytest.approx(cost[rows, columns].mean())


def test_slopes_are_what_moving_shares_between_sources_changes() -> None:
    costs = [RNG.random((7, 11)), RNG.random((5, 11)) + 0.3, RNG.random((6, 11))]
    shares, h = np.array([0.31, 0.42, 0.27]), 1e-6
    here = transport(costs, shares)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        moved = h * (np.eye(3)[i] - np.eye(3)[j])
        change = (transport(costs, shares + moved).distance - transport(costs, shares - moved).distance) / (2 * h)
        assert here.slopes[i] - here.slopes[j] == pytest.approx(change, abs=1e-5)
    for wrong in ([0.5, 0.5], [0.7, 0.7, -0.4], [0.5, 0.5, 0.5]):
        with pytest.raises(ConfigError, match="shares"):
            transport(costs, np.array(wrong))


def test_the_nearest_mixture_has_the_shares_that_the_target_was_made_of() -> None:
    """Three far clusters, of which the target holds 6, 3 and 1 in ten."""
    centres = 10 * np.eye(3)
    sources = [centre + 0.1 * RNG.normal(size=(6, 3)) for centre in centres]
    target = np.concatenate([sources[0][:6], sources[1][:3], sources[2][:1]])
    costs = [np.linalg.norm(one[:, None] - target[None], axis=-1) for one in sources]
    assert nearest_mixture(costs, steps=40) == pytest.approx([0.6, 0.3, 0.1], abs=0.03)


def test_scores_that_are_lines_in_distance_and_in_log_size_are_projected_exactly() -> None:
    distance = np.array([0.3, 0.5, 0.9, 1.4])

    def truth(size: float) -> np.ndarray:
        return 0.4 - 0.2 * distance + (0.1 + 0.03 * distance) * np.log(size)

    fit = Projection.fitted((50, 200), distance, np.array([truth(50), truth(200)]))
    for size in (20, 50, 1000, 10**6):
        assert fit.score(distance, size) == pytest.approx(truth(size), abs=1e-12)
    with pytest.raises(ConfigError, match="sizes"):
        Projection.fitted((200, 50), distance, np.zeros((2, 4)))
