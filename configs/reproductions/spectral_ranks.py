"""Ranks by one threshold on the spectra of a model's matrices, against the same share of every matrix.

    python -m launch.reproduce spectral_ranks --workdir runs/reproductions/spectral_ranks

Two minutes on one core. Models of 0.03M weights learn four domains; their hidden matrices are then cut to 60, 70, 80
and 90 per cent of their parameters by either rule, without training after it. Four
seeds could not tell (0.221 [-0.099, 0.541] against 0.02), so there are twice as many.
"""

from functools import partial

import numpy as np

from configs.reproductions import _domains as domains
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.train.adaptation.ranks import compress, threshold_ranks, uniform_ranks

MODEL, GENERAL = domains.model(32), domains.train_config(4e-3)
SHARES = (0.6, 0.7, 0.8, 0.9)
RULES = {"threshold": threshold_ranks, "uniform": uniform_ranks}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="spectral_ranks",
        methods=(111,),
        claim="Ranks by one threshold on normalised singular values lose less than equal shares of every matrix",
        source="Jaiswal et al. 2024, WeLore, arXiv:2407.11239",
        smallest_effect=0.02,
        unit="nats per token, mean of four domains and of 60 to 90 % of the parameters: uniform less threshold",
        minutes=4,
        not_covered="tuning the low-rank matrices alone; language; larger models, whose spectra fall faster",
        simulated=False,
        run=run,
    )


def one(seed: int, steps: int, problems: int) -> dict:
    """The loss of a general model, and after each rule at each share; and the ranks at the first share."""
    base = domains.trained(MODEL, GENERAL, domains.mixture(), steps, seed)
    found: dict = {"whole": float(np.mean(domains.judged(MODEL, base, problems)["loss"])), "ranks": {}}
    for name, rule in RULES.items():
        found[name] = []
        for share in SHARES:
            params, ranks = compress(base, MODEL, share, rule)
            found[name].append(float(np.mean(domains.judged(MODEL, params, problems)["loss"])))
            found["ranks"].setdefault(name, ranks)
    return found


def run(work: Workspace) -> Measured:
    seeds, steps, problems = (2, 100, 20) if work.quick else (8, 1200, 300)
    every = []
    for seed in range(seeds):
        work.say(f"seed {seed}: a general model, cut by two rules")
        every.append(work.keep(f"seed{seed}", partial(one, seed, steps, problems)))
    gain = np.array([np.subtract(x["uniform"], x["threshold"]) for x in every])  # [seed, share]
    lines = {name: {"x": list(SHARES), "y": np.mean([x[name] for x in every], 0).tolist()} for name in RULES}
    details = {
        "curves": [{"x": "share of parameters", "y": "nats per token", "log": "", "lines": lines}],
        "whole": [x["whole"] for x in every],
        "gain by share": {
            str(share): [float(g.mean()), *t_interval(g)] for share, g in zip(SHARES, gain.T, strict=True)
        },
        "ranks at the first share": every[0]["ranks"],
    }
    means = gain.mean(1)
    return Measured(float(means.mean()), t_interval(means), seeds * domains.flops(MODEL, GENERAL, steps), details)
