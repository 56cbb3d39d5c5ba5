"""ParScale on the published Stack-Python losses."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.laws import fit
from scaling.laws.parscale import PARSCALE


@pytest.fixture
def streams(published):
    return published("parscale.csv").rename(
        columns={"P": "streams", "N_nonembed": "params_nonembed", "loss_stack_python": "loss"}
    )


def test_point_fit_reproduces_the_reference(streams):
    fitted = fit(PARSCALE, streams)
    assert fitted.certificate.objective <= 3.67674055e-5 * (1 + 2e-9), "the reference has nine digits"
    assert pytest.approx(0.691207, abs=5e-7) == fitted.params.E
    assert pytest.approx(1.13071e7, abs=50) == fitted.params.A
    assert fitted.params.alpha == pytest.approx(0.189358, abs=5e-7)
    assert fitted.params.k == pytest.approx(0.393457, abs=5e-7)


def test_fewer_streams_predict_eight(streams):
    few, eight = streams[streams["streams"] < 8], streams[streams["streams"] == 8]
    fitted = fit(PARSCALE, few)
    predicted = PARSCALE(fitted.params, params_nonembed=eight["params_nonembed"], streams=eight["streams"])
    assert np.mean(np.abs(predicted / eight["loss"] - 1)) * 100 == pytest.approx(0.28, abs=5e-3)
