"""The trees of simulated reproductions: chances of leaves, and best-of-N against an enumeration of all draws."""

from __future__ import annotations

import numpy as np
import pytest

from configs.reproductions._trees import DEPTH, INNER, forest


def test_chances_of_leaves_are_products_along_their_paths_and_give_the_value_of_the_root() -> None:
    trees = forest(3)
    assert trees.chance.sum(1) == pytest.approx(1)
    assert (trees.chance * trees.value[:, INNER:]).sum(1) == pytest.approx(trees.value[:, 0])
    tokens = (2, 0, 1, 1, 0, 2)
    path, node = 0.0, 0
    for token in tokens:
        path, node = path + trees.log_prob[1, node, token], int(trees.child[node, token])
    assert trees.leaf(tokens) == node and len(tokens) == DEPTH
    assert trees.chance[1, node - INNER] == pytest.approx(np.exp(path))


def test_best_of_n_is_the_mean_over_every_draw() -> None:
    trees = forest(1)
    scores = np.random.default_rng(0).random((1, trees.chance.shape[1]))
    p, s, right = trees.chance[0], scores[0], trees.value[0, INNER:]
    pairs = np.where(s[:, None] >= s, right[:, None], right)  # [first, second]: whether the better one is right
    found = trees.best_of(scores, (1, 2))[0]
    assert found[0] == pytest.approx(trees.value[0, 0])
    assert found[1] == pytest.approx(p @ pairs @ p)
