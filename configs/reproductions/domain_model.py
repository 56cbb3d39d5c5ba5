"""A small model of one domain against one of four times its parameters and more that learns all domains.

    python -m launch.reproduce domain_model --workdir runs/reproductions/domain_model
"""

from __future__ import annotations

from functools import partial

import numpy as np

from configs.reproductions._skills import ROWS, accuracy, late, model_of, nats, train_of
from models import counts
from models.config import ModelConfig
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.tasks.skills import RULES, Skills

SEEDS, STEPS = (1, 2, 3, 4), 1500
DOMAIN = Skills(("reverse", "sort", "sums"))
ARMS = {"domain": (16, DOMAIN), "mixed": (40, Skills(tuple(RULES)))}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="domain_model",
        methods=(252,),
        claim="At equal compute a model of one domain alone has a lower loss in it than one of more than four times "
        "its parameters that learns all domains",
        source="Kadosh et al. 2023, MonoCoder: domain-specific code language model for HPC, arXiv:2312.13322",
        smallest_effect=0.05,
        unit="nats of a label in the domain, by which the mixed model is worse",
        minutes=3,
        not_covered="code; mixed models that were trained for longer than the domain's, as published ones are; other "
        "shares than three skills of ten. One vocabulary serves both, so that perplexity normalised by characters is "
        "perplexity",
        simulated=False,
        run=run,
    )


def steps_of(arm: str, quick: bool) -> int:
    """As many as the compute of the domain's model pays for."""
    first, own = (counts.train_flops(model_of(ARMS[name][0]), ROWS * DOMAIN.size, DOMAIN.size)
                  for name in ("domain", arm))  # fmt: skip
    return round((20 if quick else STEPS) * first / own)


def measured(arm: str, quick: bool) -> list[dict[str, float]]:
    """Nats, perplexity and accuracy in the domain, each seed."""
    from scaling.tasks.probe import probe

    (width, kind), found = ARMS[arm], []
    model: ModelConfig = model_of(width)
    for seed in SEEDS[:2] if quick else SEEDS:
        params = probe(model, kind, train_of(steps_of(arm, quick), seed))
        test = late(DOMAIN, seed, 512)
        loss = nats(model, params, test)
        right = accuracy(model, params, test)
        found.append({"nats": loss, "perplexity": float(np.exp(loss)), "accuracy": right})
    return found


def run(work: Workspace) -> Measured:
    found = {arm: work.keep(arm, partial(measured, arm, work.quick)) for arm in ARMS}
    work.say(str({arm: one[0] for arm, one in found.items()}))
    worse = np.array([mixed["nats"] - own["nats"] for own, mixed in zip(found["domain"], found["mixed"], strict=True)])
    flops = sum(
        len(found[arm]) * counts.train_flops(model_of(width), steps_of(arm, work.quick) * ROWS * kind.size, kind.size)
        for arm, (width, kind) in ARMS.items()
    )
    details = {
        "parameters": {arm: counts.params(model_of(width)) for arm, (width, _) in ARMS.items()},
        "steps": {arm: steps_of(arm, work.quick) for arm in ARMS}, "in the domain": found,
    }  # fmt: skip
    return Measured(float(worse.mean()), t_interval(worse), flops, details)
