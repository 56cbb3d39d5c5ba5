"""Submissions of AlphaCode's rule, against a loop over the drawn programs themselves."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from search.metrics.clusters import submitted


def loop(drawn: list[int], passed: np.ndarray, behaviour: np.ndarray, right: np.ndarray, most: int) -> float:
    """The mean over every choice of one member of each cluster that is submitted."""
    kept = [kind for kind in drawn if passed[kind]]
    sizes = Counter(int(behaviour[kind]) for kind in kept)
    chance = 1.0
    for code in sorted(sizes, key=lambda code: (-sizes[code], code))[:most]:
        members = [bool(right[kind]) for kind in kept if behaviour[kind] == code]
        chance *= 1 - sum(members) / len(members)
    return 1 - chance


@pytest.mark.parametrize("most", [1, 3, 10])
def test_submissions_are_those_of_a_loop_over_the_drawn_programs(most: int) -> None:
    rng = np.random.default_rng(most)
    for _ in range(200):
        kinds = int(rng.integers(1, 12))
        behaviour, passed = rng.integers(0, 5, kinds), rng.random(kinds) < 0.7
        right = (behaviour == behaviour[0]) & (rng.random(kinds) < 0.5)  # one behaviour on all inputs is one cluster
        drawn = rng.integers(0, kinds, int(rng.integers(0, 30))).tolist()
        counts = np.bincount(drawn, minlength=kinds)
        assert submitted(counts, passed, behaviour, right, most) == pytest.approx(
            loop(drawn, passed, behaviour, right, most), abs=1e-12
        )


def test_a_filter_that_passes_nothing_submits_nothing() -> None:
    assert submitted([3, 4], [False, False], [0, 1], [True, False]) == 0
