"""Gemstones: at every published fit we are never above, and where it had stalled we are below."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.laws import CHINCHILLA, fit
from scaling.laws.gemstones import GEMSTONES

COEFFICIENTS = {
    "N,D": (CHINCHILLA, ("A", "B"), ("alpha", "beta")),
    "w,l,N,D": (GEMSTONES, ("W", "K", "A", "B"), ("omega", "kappa", "alpha", "beta")),
}


@pytest.mark.parametrize("form", list(COEFFICIENTS))
@pytest.mark.parametrize("delta", [1e-3, 1e-4])
def test_objectives_are_never_above_the_published_ones(published, form, delta):
    runs = published("gemstones.csv").rename(columns={"N": "params", "D": "tokens"})
    fits = published("gemstones_published_fits.csv")
    fits = fits[(fits["law"] == form) & (fits["delta"] == delta) & fits["subset"].isin(runs["subset"])]
    assert len(fits) >= 2
    law, scales, powers = COEFFICIENTS[form]
    for row in fits.itertuples():
        table = runs.loc[runs["subset"] == row.subset, [*law.inputs, "loss"]]
        fitted = fit(law, table, delta=delta)
        theirs = {
            **dict(zip(scales, np.exp([float(v) for v in row.log_coefs.split()]), strict=True)),
            **dict(zip(powers, [float(v) for v in row.exponents.split()], strict=True)),
            "E": np.exp(row.log_E),
        }
        z = law.coordinates.to_z(np.array([theirs[name] for name in law.parameters]))
        published_value = fitted.estimator.value(z[None])[0]
        assert published_value == pytest.approx(row.huber_sum, rel=1e-5), "parameters and sum belong together"
        assert fitted.certificate.objective <= min(row.huber_sum, published_value) * (1 + 1e-9), row.subset
        assert fitted.certificate.gradient_norm < 1e-4


def test_a_stalled_published_fit_is_improved(published):
    runs = published("gemstones.csv").rename(columns={"N": "params", "D": "tokens"})
    thin = runs.loc[runs["subset"] == "slim_chinchilla", ["params", "tokens", "loss"]]
    assert fit(CHINCHILLA, thin, delta=1e-4).certificate.objective < 0.98 * 1.33978e-5
