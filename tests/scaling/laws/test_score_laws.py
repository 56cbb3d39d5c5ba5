"""Laws of task scores and inference compute in other regimes and units: their start grids must reach there."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.laws import fit
from scaling.laws.coverage import COVERAGE_BETA, COVERAGE_POWER
from scaling.laws.difficulty import COD
from scaling.laws.downstream import GADRE_ERROR, TASK_SIGMOID
from scaling.laws.imperfect_verifier import VERIFIED_ACCURACY
from scaling.laws.kinetics import COST_ACCURACY
from scaling.laws.pass_until import PASS_UNTIL
from scaling.laws.rl_compute import RL_COMPUTE
from scaling.laws.saturation import SATURATION

COUNTS = np.unique(np.geomspace(1, 1000, 16).round())
CASES = [
    (GADRE_ERROR, dict(eps=0.7, k=3.0, gamma=2.2), dict(loss=np.linspace(0.6, 2.0, 15))),  # bits per byte
    (GADRE_ERROR, dict(eps=0.9, k=1.1, gamma=0.2), dict(loss=np.linspace(2.0, 9.0, 15))),
    (TASK_SIGMOID, dict(a=-0.5, x0=2.9, k=1.4, b=0.8), dict(bpb=np.linspace(1.5, 6, 30))),  # nats per token
    (TASK_SIGMOID, dict(a=-0.25, x0=0.35, k=30.0, b=0.5), dict(bpb=np.linspace(0.2, 0.6, 30))),
    (PASS_UNTIL, dict(N0=2e5, alpha=1.1), dict(params=np.geomspace(1e4, 1e7, 12))),
    (PASS_UNTIL, dict(N0=5e12, alpha=0.15), dict(params=np.geomspace(1e8, 1e11, 12))),
    (COD, dict(C0=2e15, b=0.8, c=0.0, g=0.1), dict(flops=np.geomspace(1e14, 1e18, 20))),
    (COVERAGE_POWER, dict(a=-6.0, b=-0.12), dict(samples=COUNTS)),
    (COVERAGE_POWER, dict(a=-0.2, b=-1.3), dict(samples=COUNTS)),
    (COVERAGE_BETA, dict(alpha=0.05, beta=60.0), dict(samples=COUNTS)),
    (COVERAGE_BETA, dict(alpha=3.0, beta=1.5), dict(samples=np.arange(1.0, 9))),
    (VERIFIED_ACCURACY, dict(f=1e-3), dict(pass_rate=np.geomspace(1e-4, 0.5, 10))),
    (SATURATION, dict(Fmax=0.3, p=0.6), dict(samples=np.arange(1.0, 9))),
    (SATURATION, dict(Fmax=0.9, p=2e-4), dict(samples=np.geomspace(1, 1e5, 16))),
    (COST_ACCURACY, dict(Amax=0.6, a=0.5, b=0.4), dict(cost=np.geomspace(1, 1e4, 20))),  # samples
    (RL_COMPUTE, dict(A=0.95, R0=0.0, Cmid=2e14, B=0.4), dict(flops=np.geomspace(1e11, 1e19, 30))),
]


@pytest.mark.parametrize(("law", "truth", "inputs"), CASES, ids=[f"{case[0].name}{i}" for i, case in enumerate(CASES)])
def test_law_recovers_parameters_of_another_regime(law, truth, inputs):
    runs = {**inputs, law.output: law(truth, **inputs)}
    counts = {}
    if law.objective == "binomial":
        runs["trials"], counts = np.full(len(runs[law.output]), 1e4), dict(trials="trials")
    fitted = fit(law, runs, **counts)
    for name, value in truth.items():
        assert fitted.params[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name


def test_step_zero_of_reinforcement_learning_has_the_reward_it_began_with():
    truth = dict(A=0.7, R0=0.2, Cmid=2e20, B=0.9)
    flops = np.array([0.0, *np.geomspace(1e18, 1e22, 12)])
    reward = RL_COMPUTE(truth, flops=flops)
    assert reward[0] == 0.2 and np.all(np.diff(reward) > 0)
    fitted = fit(RL_COMPUTE, {"flops": flops, "reward": reward})
    assert fitted.params == pytest.approx(truth, rel=1e-4)
