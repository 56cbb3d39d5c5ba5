"""Difficulty clusters: tasks grouped by how they rise, laws per cluster, and the map to the whole test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.fitting.grouped import fit_groups
from scaling.laws import fit
from scaling.laws.difficulty import COD, difficulty_clusters, extrapolatable, subset_to_full

BUDGETS = np.geomspace(1e19, 1e22, 8)
KINDS = (dict(C0=1e19, b=0.5, c=0.02, g=0.0), dict(C0=3e21, b=0.4, c=0.1, g=0.0))


def task_scores(seed=0, noise=0.01, each=25):
    """Scores [tasks, budgets] of two kinds of task, and of some that never move."""
    rng = np.random.default_rng(seed)
    curves = [COD(kind, flops=BUDGETS) for kind in KINDS] + [np.full(len(BUDGETS), 0.9)]
    kind = np.repeat([0, 1, 2], each)
    return np.array(curves)[kind] + noise * rng.standard_normal((len(kind), len(BUDGETS))), kind


def test_mean_shift_finds_the_groups_and_leaves_single_tasks_out():
    scores, kind = task_scores()
    odd = np.random.default_rng(1).uniform(0, 1, (3, len(BUDGETS)))
    found = difficulty_clusters(np.concatenate([scores, odd]))
    assert [len(set(found[:75][kind == k])) for k in range(3)] == [1, 1, 1]
    assert len(set(found[:75])) == 3 and np.all(found[75:] == -1)
    # named from easy to hard, whatever the order of the rows
    shuffle = np.random.default_rng(2).permutation(75)
    assert np.array_equal(difficulty_clusters(scores[shuffle]), found[:75][shuffle])
    assert found[kind.tolist().index(1)] == 2


def test_clusters_without_a_trend_are_dropped_and_the_rest_extrapolates():
    scores, _ = task_scores()
    codes = difficulty_clusters(scores)
    rows = [
        dict(group=f"c{code}", flops=flops, accuracy=score)
        for code in np.unique(codes)
        for flops, score in zip(BUDGETS, scores[codes == code].mean(0), strict=True)
    ]
    fitted = fit_groups(COD, pd.DataFrame(rows), keep=extrapolatable(least_b=0.15), fixed=dict(g=0.0))
    assert len(fitted.fits) == 2 and len(fitted.dropped) == 1
    target = 1e24
    expected = np.mean([COD(kind, flops=target) for kind in KINDS])
    assert fitted.predict(flops=target).mean == pytest.approx(expected, abs=0.03)


def test_a_held_guess_rate_is_used():
    truth = dict(C0=3e20, b=0.5, c=0.05, g=0.25)
    runs = dict(flops=BUDGETS, accuracy=COD(truth, flops=BUDGETS))
    fitted = fit(COD, runs, fixed=dict(g=0.25))
    assert fitted.params == pytest.approx(truth, rel=1e-6)
    assert fitted.derived.ceiling == pytest.approx(0.25 + 0.75 * np.exp(-0.05), rel=1e-6)


def test_the_map_to_the_whole_test_is_monotone_and_goes_through_its_ends():
    rng = np.random.default_rng(0)
    subset = rng.uniform(0.3, 0.9, 12)
    full = np.clip(subset**1.5 + 0.03 * rng.standard_normal(12), 0.26, 0.99)
    mapped = subset_to_full(subset, full, guess=0.25)
    grid = np.linspace(0.25, 1, 400)
    assert np.all(np.diff(mapped(grid)) >= -1e-12)
    assert [float(mapped(0.25)), float(mapped(1.0))] == [0.25, 1.0]
    assert np.mean(np.abs(mapped(subset) - full)) < 0.04
    with pytest.raises(ValueError, match="model 0"):
        subset_to_full([0.1], [0.5], guess=0.25)
