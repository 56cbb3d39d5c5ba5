"""Gadre et al.: the coefficients and the errors of the two large runs, from five small ones."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.laws import fit
from scaling.laws.data_constrained import TIED_CHINCHILLA
from scaling.laws.overtraining import CONSTANTS, OVERTRAINING


@pytest.fixture
def gadre(published):
    """gadre(train_set) -> (the five small runs, the large ones), scored on C4."""
    table = published("gadre104.csv").rename(columns={"N": "params", "D": "tokens", "loss_c4_val": "loss"})

    def split(train_set):
        runs = table[table["train_set"] == train_set]
        small = ((runs["tok_mult"] == 20) & (runs["params"] < 4.2e8)) | (
            (runs["tok_mult"] == 320) & (runs["params"] < 2e7)
        )
        return runs[small], runs[runs["params"] > 1e9].set_index(["model", "tok_mult"])

    return split


def reference_form(fitted) -> list[float]:
    """a, c, b, E of L = a N**b + c 6**(b/2) (M N)**b + E."""
    p = fitted.params
    return [p.a / 6**p.eta, p.b, -2 * p.eta, p.E]


# half a unit in the last digit given
@pytest.mark.parametrize(
    ("train_set", "expected", "errors"),
    [
        (
            "c4_original",
            [(113.693, 5e-4), (189.516, 5e-4), (-0.242472, 5e-7), (1.508260, 5e-7)],
            {("open_lm_1b", 80): 1.498, ("open_lm_7b", 20): 4.295},
        ),
        (
            "rw_original",
            [(125.096, 5e-4), (246.207, 5e-4), (-0.254395, 5e-7), (1.734462, 5e-7)],
            {("open_lm_1b", 320): 0.005, ("open_lm_7b", 20): 1.619},
        ),
    ],
)
def test_five_small_runs_reproduce_the_published_extrapolation(gadre, train_set, expected, errors):
    small, large = gadre(train_set)
    assert len(small) == 5
    fitted = fit(OVERTRAINING, small)
    for value, (target, digit) in zip(reference_form(fitted), expected, strict=True):
        assert value == pytest.approx(target, abs=digit)
    for run, percent in errors.items():
        row = large.loc[run]
        predicted = float(OVERTRAINING(fitted.params, params=row["params"], tokens=row["tokens"]))
        assert abs(predicted / row["loss"] - 1) * 100 == pytest.approx(percent, abs=5e-4)
    assert not fitted.certificate.supports_interval, "five points for four parameters support no interval"


def test_it_is_chinchilla_with_equal_exponents():
    p = CONSTANTS[OVERTRAINING.name]
    params, tokens = np.array([1e7, 1e9]), np.array([1e10, 2e10])
    same = TIED_CHINCHILLA(
        dict(A=p["a"] * 6 ** -p["eta"], B=p["b"] * 6 ** -p["eta"], E=p["E"], alpha=2 * p["eta"]),
        params=params,
        tokens=tokens,
    )
    assert OVERTRAINING(p, params=params, tokens=tokens) == pytest.approx(same, rel=1e-12)
