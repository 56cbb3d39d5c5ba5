"""Steps down a loss are those of the optimiser, one for each entry."""

from __future__ import annotations

import numpy as np
import optax
import pytest

from scaling.train.descent import apart, descended, warmed


def test_each_entry_is_one_step_of_the_optimiser() -> None:
    found = descended(lambda x, c: (x - c) ** 2, np.float32(1), [(np.float32(c),) for c in (3, -2, 5)], optax.sgd(0.1))
    want = 1.0
    for c in (3, -2, 5):
        want -= 0.1 * 2 * (want - c)
    assert float(found) == pytest.approx(want, rel=1e-6)


def test_a_warmed_rate_starts_and_ends_at_nothing() -> None:
    still = descended(lambda x, c: c * x, np.float32(1), [(np.float32(1),)], warmed(20))
    assert float(still) == 1.0


def test_runs_that_lie_apart_are_as_if_each_were_alone() -> None:
    starts = np.float32([[1, -2], [30, 4]])
    entries = [(np.float32([[3, 1], [-5, 2]]),), (np.float32([[0, 1], [1, 9]]),)]

    def loss(x, c):
        return ((x - c) ** 2).sum()

    found = descended(loss, starts, entries, apart(warmed(10, 0.1)))
    for run in range(2):
        alone = descended(loss, starts[run], [(c[run],) for (c,) in entries], warmed(10, 0.1))
        np.testing.assert_allclose(found[run], alone, rtol=1e-5)
    assert not np.allclose(found, starts)
