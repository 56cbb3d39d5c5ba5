"""Porian et al.: the exponent of N*(C) as its four corrections are made."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.laws import fit
from scaling.laws.power import OPTIMAL_PARAMS, power_law

SETTING = ["dataset", "hparams", "warmup", "decay", "param_count", "val"]


def weighted_exponent(rows) -> float:
    """Budgets whose minimum was found with a standard deviation, weighted by its inverse square."""
    known = rows[np.isfinite(rows["n_star_std"]) & (rows["n_star_std"] > 0)].rename(columns={"n": "params"})
    return fit(OPTIMAL_PARAMS, known[["flops", "params"]], weights=1 / known["n_star_std"].to_numpy() ** 2).params.a


@pytest.mark.parametrize(
    ("setting", "exponent"),
    [
        (("rw", "base", "long", "kaplan", "kaplan", "train"), 0.835300),
        (("rw", "base", "long", "kaplan", "standard", "val"), 0.706470),
        (("rw", "base", "short", "kaplan", "standard", "val"), 0.602038),
        (("rw", "base", "short", "chinchilla", "standard", "val"), 0.571495),
        (("rw", "tuned", "short", "const", "standard", "val"), 0.496895),
    ],
)
def test_corrections_move_the_exponent_as_published(published, setting, exponent):
    table = published("porian_optimal.csv").set_index(SETTING).sort_index()
    assert weighted_exponent(table.loc[setting]) == pytest.approx(exponent, abs=5e-7)


def test_every_published_weighted_exponent_is_reproduced(published):
    """The published table has ten digits; its own fits stop at a relative 3e-9."""
    fits = published("porian_published_fits.csv")
    fits = fits[fits["kind"] == "weighted"].set_index(SETTING)["n_exponent"]
    for setting, rows in published("porian_optimal.csv").groupby(SETTING):
        assert weighted_exponent(rows) == pytest.approx(fits.loc[setting], rel=1e-8)


def test_a_power_law_of_ones_own_columns():
    units = dict(params="parameters", tokens="tokens", wall_s="s")
    law = power_law("cost", "wall_s", {"params": "p", "tokens": "q"}, units, "measured")
    params, tokens = np.geomspace(1e6, 1e9, 12), np.tile([1e8, 1e9, 1e10], 4)
    fitted = fit(law, {"params": params, "tokens": tokens, "wall_s": 3e-12 * params**0.9 * tokens**1.05})
    assert [fitted.params.p, fitted.params.q] == pytest.approx([0.9, 1.05], rel=1e-9)
