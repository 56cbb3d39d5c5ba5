"""Every law of the catalogue: its card is complete, and the estimator finds its parameters in the law's own values."""

from __future__ import annotations

import re
import sys

import numpy as np
import pandas as pd
import pytest

from scaling.fitting.derivatives import value_of
from scaling.fitting.objectives import OBJECTIVES, Objective
from scaling.laws import CATALOGUE, fit

# Laws whose file documents no constants: plausible ones, and where to measure. Shares and scores are not log-uniform.
CONSTANTS = {
    "chinchilla": dict(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28),
    "coverage_power": dict(a=-2.5, b=-0.4),
    "coverage_beta": dict(alpha=0.4, beta=3.0),
    "densing": dict(A=2.5, B=-0.3),
    "densing_loss": dict(a=30.0, alpha=0.08, beta=0.05),
    "difficulty_cluster": dict(C0=3e20, b=0.4, c=0.05, g=0.25),
    "gadre_error": dict(eps=0.86, k=2.0, gamma=0.75),
    "task_sigmoid": dict(a=-0.7, x0=0.9, k=7.0, b=0.95),
    "genrm_solutions": dict(G=0.8, a=0.57),
    "genrm_verifications": dict(G=0.5, a=0.39),
    "verified_accuracy": dict(f=0.2),
    "verified_resampling": dict(c=0.8, s=0.15),
    "cost_accuracy": dict(Amax=0.8, a=20.0, b=0.3),
    "knowledge_capacity": dict(R=2.0),
    "capability_1": dict(h=0.9, w1=1.3, b0=-0.4),
    "capability_2": dict(h=0.9, w1=1.3, w2=-0.5, b0=-0.4),
    "capability_3": dict(h=0.9, w1=1.3, w2=-0.5, w3=0.4, b0=-0.4),
    "pass_until": dict(N0=2e9, alpha=0.35),
    "retrieval": dict(
        a_documents=0.2, a_shots=0.1, a_iterations=0.15, b_documents=0.05, b_shots=-0.03, b_iterations=0.08, c=-0.9
    ),
    "rl_compute": dict(A=0.7, R0=0.2, Cmid=2e20, B=0.9),
    "saturation": dict(Fmax=0.85, p=0.06),
    "speculative_acceptance": dict(a=0.1, b=0.02, c=0.01),
    "speculative_throughput": dict(a=500.0, b=900.0),
    "speculative_tokens": dict(alpha=0.75),
}
RANGES = dict(
    params=(5e7, 1e10),
    tokens=(1e9, 3e11),
    flops=(1e18, 1e23),
    loss=(1.8, 3.5),
    bpb=(0.5, 1.6),
    samples=(1, 500),
    time=(0, 3),
    budget=(4, 4000),
    pass_rate=(0.05, 0.9),
    cost=(1e5, 1e8),
    data_bits=(1e8, 5e10),
    documents=(1, 100),
    shots=(1, 60),
    iterations=(1, 5),
    batch_size=(1, 256),
    draft_length=(1, 16),
    pc1=(-2, 2),
    pc2=(-2, 2),
    pc3=(-2, 2),
    i_documents=(0, 1),
    i_shots=(0, 1),
    i_iterations=(0, 1),
)


FAMILIES = [
    module
    for name, module in sorted(sys.modules.items())
    if name.startswith("scaling.laws.") and hasattr(module, "LAWS")
]


def family(law):
    """The file that offers the law, whichever helper built it; None for one that stands alone."""
    return next((module for module in FAMILIES if law in module.LAWS), None)


def constants_of(law) -> dict[str, float]:
    documented = getattr(family(law), "CONSTANTS", {}).get(law.name) or CONSTANTS.get(law.name)
    assert documented is not None, f"{law.name}: give CONSTANTS in its file"
    return documented


def design(law, rows: int, seed: int = 0) -> pd.DataFrame:
    """Inputs drawn where the source measured: log-uniform over more than a decade, else uniform."""
    ranges, rng = RANGES | getattr(family(law), "RANGES", {}), np.random.default_rng(seed)
    columns = {}
    for name in law.inputs:
        low, high = ranges[name]
        if low > 0 and high / low > 20:
            columns[name] = np.exp(rng.uniform(np.log(low), np.log(high), rows))
        else:
            columns[name] = rng.uniform(low, high, rows)
    return pd.DataFrame(columns)


@pytest.fixture(params=CATALOGUE, ids=lambda law: law.name)
def law(request):
    return request.param


def test_names_are_unique_and_fit_a_command_line():
    names = [law.name for law in CATALOGUE]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)


def test_card_is_complete(law):
    assert law.source, "where the formula is from"
    for column in (*law.inputs, law.output):
        assert law.units.get(column), f"the unit of {column}"
    for name, (low, high) in law.bounds.items():
        stem = name.split("_")[0]  # a_documents stands in a formula of vectors as a
        mentions = rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])|(?<![A-Za-z0-9]){re.escape(stem)}(?![A-Za-z0-9])"
        assert re.search(mentions, law.formula), f"the formula does not mention {name}"
        starts = law.starts(name)
        assert np.all(np.isfinite(starts)), name
        if name not in law.linear:
            assert np.all(starts >= (-np.inf if low is None else low)), f"{name} starts below its bound"
            assert np.all(starts <= (np.inf if high is None else high)), f"{name} starts above its bound"
            if (low is None) != (high is None):  # a logarithm of the distance: no step leaves the bound
                assert not np.any(np.isin(starts, [low if high is None else high])), f"{name} starts on its bound"
    assert law.objective in OBJECTIVES


def test_documented_constants_are_parameters_inside_their_bounds(law):
    constants = constants_of(law)
    assert set(constants) == set(law.parameters)
    for name, (low, high) in law.bounds.items():
        assert (low is None or constants[name] >= low) and (high is None or constants[name] <= high), name


def test_declared_linear_parameters_are_linear(law):
    """Doubling the linear parameters doubles the prediction's part that depends on them: variable projection rests on
    it. 1e-9 is float64 after a handful of powers."""
    constants, inputs = constants_of(law), {k: v.to_numpy() for k, v in design(law, 12).items()}
    if law.linear:
        zero, one, two = (
            law({**constants, **{name: factor * constants[name] for name in law.linear}}, **inputs)
            for factor in (0.0, 1.0, 2.0)
        )
        assert two - zero == pytest.approx(2 * (one - zero), rel=1e-9, abs=1e-9 * np.abs(one).max())


def test_exact_derivatives_match_finite_differences(law):
    """Central differences of gradients at a step of 1e-5 are good to about 1e-7 of the largest second derivative."""
    constants, runs = constants_of(law), design(law, 8, seed=1)
    inputs = {k: v.to_numpy() for k, v in runs.items()}
    point = np.array([constants[name] for name in law.parameters])
    exact = law.evaluate(point, inputs, order=2)
    scale = np.where(point == 0, 1.0, np.abs(point))

    def row(term):
        return np.broadcast_to(term, (len(runs),))

    for k in range(len(point)):
        step = np.zeros(len(point))
        step[k] = 1e-5 * scale[k]
        above, below = (law.evaluate(point + sign * step, inputs, order=1) for sign in (1, -1))
        slope = row(value_of(above) - value_of(below)) / (2 * step[k])
        floor = 1e-7 * np.abs(exact.value).max() / scale[k]
        assert row(exact.gradient.get(k, 0.0)) == pytest.approx(slope, rel=1e-5, abs=floor), law.parameters[k]
        for j in range(len(point)):
            ends = row(above.gradient.get(j, 0.0)), row(below.gradient.get(j, 0.0))
            largest = max(np.abs(ends[0]).max() / scale[k], floor / scale[j])
            second = row(exact.hessian.get((min(j, k), max(j, k)), 0.0))
            assert second == pytest.approx((ends[0] - ends[1]) / (2 * step[k]), rel=1e-4, abs=1e-5 * largest), (j, k)


def test_noiseless_values_give_the_parameters_back(law):
    """Relative error 1e-6, for laws with a normal matrix of condition up to 1e8 (in the estimator's frame): rounding of
    1e-16 in the values becomes sqrt(1e8) x 1e-16 x (parameters per decade of the inputs), far below; a start that ends
    elsewhere is off by more than 1e-2."""
    constants = constants_of(law)
    runs = design(law, max(60, 6 * len(law.parameters)))
    runs[law.output] = law(constants, **{name: runs[name].to_numpy() for name in law.inputs})
    counts = Objective(law.objective, law.space).counts
    fitted = fit(law, runs.assign(trials=200) if counts else runs, trials="trials" if counts else None)
    assert fitted.certificate.condition < 1e8, "the inputs do not determine these parameters"
    for name, value in constants.items():
        assert fitted.params[name] == pytest.approx(value, rel=1e-6, abs=1e-6 if value == 0 else 0), name
    assert not fitted.certificate.not_identified
