"""Grouped experts (MoGE) against the best two of all, in pairs of seeds.

    python -m launch.reproduce grouped_experts --workdir runs/reproductions/grouped_experts

Their load per group is equal by construction (tests/models/test_routers.py); this asks what the equal load costs.
"""

import dataclasses
from collections.abc import Sequence

from configs.reproductions.expert_routers import MODEL, TOP_K, base
from models.routers import Grouped
from scaling import arms
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig

GROUPED = dataclasses.replace(TOP_K, router=Grouped(2))
MODELS = {"top_k": dataclasses.replace(MODEL, moe=TOP_K), "grouped": dataclasses.replace(MODEL, moe=GROUPED)}
SEEDS = 10  # pairs differ by a standard deviation of 1 %


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="grouped_experts", methods=(98,), smallest_effect=0.0, minutes=12,
        claim="one expert of each of two groups has a loss within 1 % of the best two of all",
        source="Tang et al. 2025, arXiv:2505.21411", unit="percentage points of loss below the 1 % that it may cost",
        not_covered="more than 8 experts, 3 layers of width 64 and 250 steps; the time that equal loads save; ten "
        "seeds where four could not tell",
        simulated=False, run=run, sweeps=planned,
    )  # fmt: skip


def planned(quick: bool) -> Sequence[SweepConfig]:
    return arms.sweeps(base(quick, SEEDS), MODELS)


def run(work: Workspace) -> Measured:
    found = arms.train(work, base(work.quick, SEEDS), MODELS)
    margin = 1 - found.excess("grouped", "top_k")
    return Measured(float(margin.mean()), t_interval(margin), found.flops, found.details())
