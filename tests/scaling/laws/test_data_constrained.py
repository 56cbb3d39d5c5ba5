"""Data-constrained scaling: the published values, its limits, its two stages, and the filter fixed in advance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.laws import fit
from scaling.laws.data_constrained import (
    CONSTANTS,
    DATA_CONSTRAINED,
    TIED_CHINCHILLA,
    effective,
    fit_data_constrained,
    overfitted,
)
from scaling.laws.data_filtering import DATA_FILTERING

P = CONSTANTS[DATA_CONSTRAINED.name]


@pytest.mark.parametrize(("params", "tokens", "loss"), [(6.34e9, 242e9, 2.2256440890), (8.67e9, 178e9, 2.2269634075)])
def test_published_allocations_have_the_published_loss(params, tokens, loss):
    value = DATA_CONSTRAINED(P, params=params, tokens=tokens, unique_tokens=25e9)
    assert value == pytest.approx(loss, abs=5e-10)


def test_without_repetition_it_is_chinchilla():
    tied = {name: P[name] for name in TIED_CHINCHILLA.parameters}
    for unique in (2e11, 1e13):
        assert DATA_CONSTRAINED(P, params=1e9, tokens=2e11, unique_tokens=unique) == pytest.approx(
            TIED_CHINCHILLA(tied, params=1e9, tokens=2e11), rel=1e-14
        )


def test_repetition_is_worth_less_and_less_but_never_nothing():
    tokens = np.array([1.0, 2.0, 4.0, 16.0, 1e6]) * 1e9
    worth = effective(tokens, 1e9, 15.387756)
    assert worth[0] == 1e9
    assert np.all(np.diff(worth) > 0) and np.all(worth[1:] < tokens[1:])
    assert worth[-1] == pytest.approx(1e9 * (1 + 15.387756), rel=1e-9)


def grid() -> pd.DataFrame:
    rows = [(n, u * k, u) for n in np.geomspace(1e8, 8e9, 5) for u in (1e9, 1e10, 1e11) for k in (0.5, 1, 4, 20)]
    table = pd.DataFrame(rows, columns=["params", "tokens", "unique_tokens"])
    return table.assign(loss=DATA_CONSTRAINED(P, **{name: table[name].to_numpy() for name in table}))


def test_second_stage_finds_the_decay_with_the_first_held():
    fitted = fit_data_constrained(grid(), first=P)
    assert pytest.approx(P["R_D"], rel=1e-7) == fitted.params.R_D
    assert pytest.approx(P["R_N"], rel=1e-7) == fitted.params.R_N
    assert fitted.certificate.parameters == 2
    both = fit_data_constrained(grid())
    assert both.params.alpha == fit(TIED_CHINCHILLA, grid()[lambda t: t["tokens"] <= t["unique_tokens"]]).params.alpha
    with pytest.raises(ValueError, match="0 runs without repetition"):
        fit_data_constrained(grid()[lambda t: t["tokens"] > t["unique_tokens"]])


def test_filter_drops_runs_whose_loss_rose_with_more_tokens():
    runs = pd.DataFrame(
        {
            "params": 1e8,
            "unique_tokens": [1e9] * 4 + [2e9],
            "tokens": [4e9, 1e9, 2e9, 9e9, 9e9],
            "loss": [3.2, 3.1, 3.0, 2.9, 5.0],
        },
        index=[7, 5, 3, 1, 0],
    )
    assert overfitted(runs).to_dict() == {7: True, 5: False, 3: False, 1: False, 0: False}


def test_utility_of_filtered_data_is_the_product_over_epochs():
    p, unique, epochs = dict(a=3.0, b=-0.2, tau=3.0, d=0.4), 1e8, 5
    product = p["a"] * unique ** p["b"]
    for k in range(2, epochs + 1):
        product *= (k / (k - 1)) ** (p["b"] * 2 ** (-(k - 1) / p["tau"]))
    assert DATA_FILTERING(p, unique_tokens=unique, tokens=epochs * unique) == pytest.approx(product + p["d"], rel=1e-12)
    once = p["a"] * 1e8 ** p["b"] + p["d"]
    assert DATA_FILTERING(p, unique_tokens=1e12, tokens=1e8) == pytest.approx(once, rel=1e-12)
