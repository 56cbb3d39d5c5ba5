"""Steps down a loss are those of the optimiser, one for each entry."""

from __future__ import annotations

import numpy as np
import optax
import pytest

from scaling.train.descent import descended, warmed


def test_each_entry_is_one_step_of_the_optimiser() -> None:
    found = descended(lambda x, c: (x - c) ** 2, np.float32(1), [(np.float32(c),) for c in (3, -2, 5)], optax.sgd(0.1))
    want = 1.0
    for c in (3, -2, 5):
        want -= 0.1 * 2 * (want - c)
    assert float(found) == pytest.approx(want, rel=1e-6)


def test_a_warmed_rate_starts_and_ends_at_nothing() -> None:
    still = descended(lambda x, c: c * x, np.float32(1), [(np.float32(1),)], warmed(20))
    assert float(still) == 1.0
