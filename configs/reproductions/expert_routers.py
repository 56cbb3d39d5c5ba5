"""Routers of a mixture of experts against each other and against a dense block of equal active parameters.

    python -m launch.reproduce expert_routers --workdir runs/reproductions/expert_routers

Expert choice and soft slots read later tokens; their losses with those hidden are in the details, and count.
"""

import dataclasses
from collections.abc import Sequence

from models.channels import Experts
from models.config import ModelConfig
from models.routers import ExpertChoice, Hashed, Soft
from scaling import arms
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig

MODEL = ModelConfig(d_model=64, n_layers=3, n_heads=4, d_ff=128)  # two experts of 64 are as wide as its block
TOP_K = Experts(8, 2, 64)
PAIR = {"dense": MODEL, "top_k": dataclasses.replace(MODEL, moe=TOP_K)}
SEEDS = 10  # of the pair: pairs differ by a standard deviation of 1 %
EXPERTS = {
    "sigmoid_bias": dataclasses.replace(TOP_K, score="sigmoid", bias_rate=1e-2, balance_coefficient=0.0),
    "hashed": dataclasses.replace(TOP_K, router=Hashed()),
    "expert_choice": dataclasses.replace(TOP_K, router=ExpertChoice()),
    "soft": dataclasses.replace(TOP_K, router=Soft(16)),
}
OTHERS = {name: dataclasses.replace(MODEL, moe=moe) for name, moe in EXPERTS.items()}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="expert_routers", methods=(142,), smallest_effect=0.5, minutes=10,
        claim="the best two of 8 experts have a lower loss than a dense block of equal active parameters",
        source="survey of routers; Fedus et al. 2022, DeepSeek-V3, Roller et al. 2021, Zhou et al. 2022, "
        "Puigcerver et al. 2023", unit="per cent of loss that the dense block lies above the experts",
        not_covered="more than 3 layers of width 64 and 250 steps; tasks in which later tokens are given; ten seeds "
        "where four could not tell",
        simulated=False, run=run, sweeps=planned,
    )  # fmt: skip


def base(quick: bool, seeds: int = 4) -> SweepConfig:
    train = TrainConfig(steps=20 if quick else 250, batch_size=8, seq_len=64, learning_rate=3e-3)
    return SweepConfig(train=train, seeds=2 if quick else seeds, workers=1)


def planned(quick: bool) -> Sequence[SweepConfig]:
    return [*arms.sweeps(base(quick, SEEDS), PAIR), *arms.sweeps(base(quick), OTHERS)]


def run(work: Workspace) -> Measured:
    pair = arms.train(work, base(work.quick, SEEDS), PAIR)
    others = arms.train(work, base(work.quick), OTHERS)
    every = arms.Arms(pair.losses | others.losses, pair.flops + others.flops)
    excess = pair.excess("dense", "top_k")
    details = every.details() | {"routers": work.keep("routers", lambda: measured(work))}
    return Measured(float(excess.mean()), t_interval(excess), every.flops, details)


def measured(work: Workspace) -> JSON:
    """Of the first seed: balance, drops and what hiding later tokens costs, on held-out windows."""
    table = {}
    for config in planned(work.quick)[1:]:
        params, tokens = arms.trained(work, config)[0], arms.heldout(config, 8)
        loss, hidden = arms.losses_without_later_tokens(config.model, params, tokens)
        table[config.name] = arms.routing(config.model, params, tokens) | {"loss": loss, "loss_hidden": hidden}
    return table
