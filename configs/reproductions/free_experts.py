"""Zero, copy and constant experts beside those with products (MoE++), in pairs of seeds.

    python -m launch.reproduce free_experts --workdir runs/reproductions/free_experts
"""

import dataclasses
from collections.abc import Sequence

from configs.reproductions.expert_routers import MODEL, TOP_K, base
from models.channels.free import Free
from scaling import arms
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig

FREE = dataclasses.replace(TOP_K, free=Free(zero=1, copy=1, constant=2))
MODELS = {"top_k": dataclasses.replace(MODEL, moe=TOP_K), "free": dataclasses.replace(MODEL, moe=FREE)}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="free_experts", methods=(107,), smallest_effect=-0.5, minutes=5,
        claim="with free experts the loss is no higher, though fewer tokens pass through an expert with products",
        source="Jin et al. 2024, arXiv:2410.07348", unit="per cent of loss that it lies below top-k's",
        not_covered="residuals between the router logits of layers; more than 8 experts, 3 layers of width 64 and 250 "
        "steps", simulated=False, run=run, sweeps=planned,
    )  # fmt: skip


def planned(quick: bool) -> Sequence[SweepConfig]:
    return arms.sweeps(base(quick), MODELS)


def run(work: Workspace) -> Measured:
    found = arms.train(work, base(work.quick), MODELS)
    config = planned(work.quick)[1]
    params, tokens = arms.trained(work, config), arms.heldout(config, 32)
    routers = work.keep("routers", lambda: [arms.routing(config.model, p, tokens) for p in params])
    below = -found.excess("free", "top_k")
    return Measured(float(below.mean()), t_interval(below), found.flops, found.details() | {"routers": routers})
