"""A model that is tuned to one domain, pruned and quantised is better there and worse everywhere else.

    python -m launch.reproduce fragile_mastery --workdir runs/reproductions/fragile_mastery

Three minutes on one core. General models of 0.03M weights are tuned to each of four domains; a third of each matrix's
entries is then set to 0 and the rest rounded to 8 bits. Indices of every stage, and who helps whom, are among the
details. Three seeds could not tell (0.130 [0.050, 0.209] against 0.05), so there are twice as many.
"""

from functools import partial

import numpy as np

from configs.reproductions import _domains as domains
from models.prune import prune
from models.quantize import quantize
from scaling.evaluate.measures.specialisation import generalisation_gap, specialisation_index, transfer
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval

MODEL = domains.model(32)
GENERAL, TUNED = domains.train_config(4e-3), domains.train_config(2e-3)
PRUNED = 0.3
STAGES = ("tuned", "pruned", "quantised")  # each after the one before


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="fragile_mastery",
        methods=(219,),
        claim="Tuned to a domain, pruned and quantised, a small model has a lower perplexity there and a lower general "
        "score",
        source="Jha and Paudel 2025, Fragile Mastery, arXiv:2503.22698",
        smallest_effect=0.05,
        unit="the lesser of: fall of the target's nats per token; fall of accuracy on the other domains",
        minutes=4,
        not_covered="language; larger models; the published indices (these are our own forms) and architecture; "
        "tuning after pruning; 4 bits; replay, which would keep more",
        simulated=False,
        run=run,
    )


def one(seed: int, general: int, tuned: int, problems: int) -> dict:
    """Losses and accuracies `[domain]` of a general model, and of every stage `[specialised to][domain]`."""
    base = domains.trained(MODEL, GENERAL, domains.mixture(), general, seed)
    found: dict = {"general": domains.judged(MODEL, base, problems), **{stage: [] for stage in STAGES}}
    for domain in range(len(domains.DOMAINS)):
        params = domains.trained(MODEL, TUNED, domains.rows(domain), tuned, seed, base)
        sparse = prune(params, MODEL, PRUNED)
        for stage, made in zip(STAGES, (params, sparse, quantize(sparse, MODEL, "int8")), strict=True):
            found[stage].append(domains.judged(MODEL, made, problems))
    return found


def summary(found: dict, stage: str) -> dict:
    """What one stage did, mean over the domains that a model was specialised to."""
    n = len(domains.DOMAINS)
    before = {name: np.array(found["general"][name]) for name in ("loss", "accuracy")}
    after = {name: np.array([x[name] for x in found[stage]]) for name in before}
    others = ~np.eye(n, dtype=bool)
    gained = transfer(before["loss"], after["loss"])
    gain, lost = np.diag(gained), np.array([-gained[i][others[i]].mean() for i in range(n)])
    fell = [(before["accuracy"] - after["accuracy"][i])[others[i]].mean() for i in range(n)]
    return {
        "target_nats": float(gain.mean()), "general_accuracy": float(np.mean(fell)), "transfer": gained.tolist(),
        "index": float(np.mean([specialisation_index(a, b) for a, b in zip(gain, lost, strict=True)])),
        "gap": float(np.mean([generalisation_gap(after["loss"][i], i) for i in range(n)])),
    }  # fmt: skip


def run(work: Workspace) -> Measured:
    seeds, general, tuned, problems = (2, 100, 100, 20) if work.quick else (6, 1200, 200, 300)
    every = []
    for seed in range(seeds):
        work.say(f"seed {seed}: a general model, and one for each domain")
        every.append(work.keep(f"seed{seed}", partial(one, seed, general, tuned, problems)))
    stages = {stage: [summary(found, stage) for found in every] for stage in STAGES}
    last = stages[STAGES[-1]]
    sides = {name: [x[name] for x in last] for name in ("target_nats", "general_accuracy")}
    least = min(sides.values(), key=lambda values: float(np.mean(values)))
    numbers = ("target_nats", "general_accuracy", "index", "gap")
    details = {
        "general": [x["general"] for x in every],
        "stages": {s: {k: float(np.mean([x[k] for x in found])) for k in numbers} for s, found in stages.items()},
        "intervals": {name: t_interval(values) for name, values in sides.items()},
        "nats that a domain [row: specialised to] gained": np.mean([x["transfer"] for x in last], 0).tolist(),
        "domains": [task.name for task in domains.DOMAINS],
    }
    flops = domains.flops(MODEL, GENERAL, general) + len(domains.DOMAINS) * domains.flops(MODEL, TUNED, tuned)
    return Measured(float(np.mean(least)), t_interval(least), seeds * flops, details)
