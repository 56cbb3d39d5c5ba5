"""The general law contains Chinchilla and Kaplan exactly, and tells which of the two made the data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.laws import CHINCHILLA
from scaling.laws.general import CONSTANTS as NESTED
from scaling.laws.general import GENERAL, KAPLAN_NESTED, nested_test
from scaling.laws.kaplan import CONSTANTS, KAPLAN

GRID = {"params": np.geomspace(1e6, 1e10, 9).repeat(7), "tokens": np.tile(np.geomspace(1e8, 1e12, 7), 9)}


def test_a_plain_sum_is_chinchilla():
    p = dict(A=406.4, E=1.69, alpha=0.34, beta=0.28)
    expected = CHINCHILLA({**p, "B": 410.7}, **GRID)
    assert GENERAL({**p, "R": 410.7 / 406.4, "q": 1.0}, **GRID) == pytest.approx(expected, rel=1e-13)


def test_no_floor_and_q_equal_beta_is_kaplan():
    expected = KAPLAN(CONSTANTS[KAPLAN.name], params_nonembed=GRID["params"], tokens=GRID["tokens"])
    nested = NESTED[KAPLAN_NESTED.name]
    assert KAPLAN_NESTED(nested, **GRID) == pytest.approx(expected, rel=1e-11)
    assert GENERAL({**nested, "E": 0.0, "q": nested["beta"]}, **GRID) == pytest.approx(expected, rel=1e-11)


def test_a_sharp_join_is_the_larger_term_and_never_overflows():
    p = dict(A=406.4, R=1.0106, E=1.69, alpha=0.34, beta=0.28)
    larger = 1.69 + np.maximum(406.4 * GRID["params"] ** -0.34, 406.4 * 1.0106 * GRID["tokens"] ** -0.28)
    assert GENERAL({**p, "q": 1e-8}, **GRID) == pytest.approx(larger, rel=1e-7)


@pytest.mark.parametrize("origin", ["chinchilla", "kaplan"])
def test_nested_test_rejects_the_law_that_did_not_make_the_data(origin):
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(63))
    clean = (
        CHINCHILLA(dict(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28), **GRID)
        if origin == "chinchilla"
        else KAPLAN_NESTED(NESTED[KAPLAN_NESTED.name], **GRID)
    )
    result = nested_test(pd.DataFrame({**GRID, "loss": clean * noise}))
    kept, rejected = (
        (result.p_chinchilla, result.p_kaplan) if origin == "chinchilla" else (result.p_kaplan, result.p_chinchilla)
    )
    assert kept > 0.01 and rejected < 1e-6
    for special in (result.chinchilla, result.kaplan):
        assert result.general.certificate.objective <= special.certificate.objective * (1 + 1e-9)
    assert "q = " in result.summary()
