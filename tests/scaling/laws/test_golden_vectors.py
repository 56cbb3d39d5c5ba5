"""Values of inference laws that were computed independently of this package (read from ISOFLOP_DATA)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from scaling.laws import fit
from scaling.laws.coverage import pass_at_k
from scaling.laws.imperfect_verifier import VERIFIED_ACCURACY, gaussian_best_of_n
from scaling.laws.kinetics import B200_INTENSITY, decoding_cost
from scaling.laws.saturation import SATURATION, saturation_point
from scaling.laws.speculative import TOKENS_PER_PASS


@pytest.fixture
def vectors(request):
    """vectors(name) -> the parsed file; a skip says what is missing."""

    def read(name: str):
        folder = os.environ.get("ISOFLOP_DATA")
        file = Path(folder or ".") / "testtime" / name
        if not folder or not file.exists():
            pytest.skip(f"ISOFLOP_DATA {'has no ' + name if folder else 'is not set'}")
        return json.loads(file.read_text())

    return read


def test_pass_at_k(vectors):
    for case in vectors("golden_vectors.json")["pass_at_k"]:
        value = pass_at_k(case["n"], case["c"], case["k"])
        if case["v"] is None:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(case["v"], abs=1e-11)


def test_saturation_points_and_gains(vectors):
    for case in vectors("golden_vectors.json")["ttspm"]:
        truth = dict(Fmax=case["Fmax"], p=case["p"])
        n = saturation_point(**truth, gain=case["eps"])
        assert n == case["Nstar"]
        gain = np.diff(SATURATION(truth, samples=np.array([n - 1.0, n, n + 1])))
        assert gain == pytest.approx([case["gain_before"], case["gain_at"]], rel=1e-10)


def test_speculative_tokens_per_pass(vectors):
    case = vectors("golden_vectors.json")["speculative"]
    tokens = TOKENS_PER_PASS(dict(alpha=case["accept_rate"]), draft_length=4)
    assert tokens == pytest.approx(case["expected_tokens_gamma4"], abs=5e-5)


def test_best_of_n_with_a_gaussian_verifier(vectors):
    for name, values in vectors("golden_vectors.json")["bon_gaussian_verifier"].items():
        p, d = (float(part.split("=")[1]) for part in name.split(","))
        n = np.array([int(key) for key in values])
        assert gaussian_best_of_n(p, d, n) == pytest.approx(list(values.values()), abs=6e-7)


def test_kinetics_costs(vectors):
    document = vectors("kinetics_vectors.json")
    assert document["I_flops_per_byte"] == B200_INTENSITY
    for v in document["vectors"]:
        cost = decoding_cost(
            v["params"], v["layers"], v["heads"], v["kv_heads"], v["head_dim"], v["L_in"], v["L_out"], v["N"]
        )
        assert cost.flops / 1e12 == pytest.approx(v["compute_TFLOP"], abs=6e-7)
        assert cost.eflops / 1e12 == pytest.approx(v["eFLOPs_T"], abs=6e-7)
        share = cost.bytes * B200_INTENSITY / cost.eflops
        assert share == pytest.approx(v["mem_share"], abs=5.1e-5)


def test_imperfect_verifier_regression_and_law(published):
    runs = published("testtime/flaws_humanevalplus_conditional_accuracy.csv")
    x, y = runs["single_sample_accuracy_plus"], runs["accuracy_given_base_tests_pass"]
    slope, intercept = np.polyfit(x, y, 1)
    assert [np.corrcoef(x, y)[0, 1], slope, intercept] == pytest.approx([0.944, 0.218, 0.725], abs=5.1e-4)
    # Bayes' rule with one error ratio is worse than the line here: the tests' errors depend on the task's difficulty
    law = fit(VERIFIED_ACCURACY, dict(pass_rate=x, accepted_accuracy=y))
    line = np.sum((y - slope * x - intercept) ** 2)
    assert np.sum((y - law.law(law.params, pass_rate=x.to_numpy())) ** 2) > line
