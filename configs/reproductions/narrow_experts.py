"""Experts behind a shared bottleneck (BigMac) against plain ones of equal parameters, in pairs of seeds.

    python -m launch.reproduce narrow_experts --workdir runs/reproductions/narrow_experts

A quarter of the bytes go to experts and back (tests/models/test_routers.py reads that from a compiled program).
"""

import dataclasses
from collections.abc import Sequence

from configs.reproductions.expert_routers import MODEL, TOP_K, base
from scaling import arms
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig

NARROW = dataclasses.replace(TOP_K, bottleneck=16, d_ff=250)  # 8 x 3 x 16 x 250 + 2 x 64 x 16 = 8 x 3 x 64 x 64 - 256
MODELS = {"top_k": dataclasses.replace(MODEL, moe=TOP_K), "narrow": dataclasses.replace(MODEL, moe=NARROW)}
SEEDS = 10  # pairs differ by a standard deviation of 1 %


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="narrow_experts", methods=(89,), smallest_effect=0.0, minutes=12,
        claim="at equal parameters the loss is within 2 % of plain experts' though a quarter of the bytes is sent",
        source="Jin et al. 2025, arXiv:2502.16927", unit="percentage points of loss below the 2 % that it may cost",
        not_covered="more than 8 experts, 3 layers of width 64 and 250 steps; the time that is saved; ten seeds "
        "where four could not tell",
        simulated=False, run=run, sweeps=planned,
    )  # fmt: skip


def planned(quick: bool) -> Sequence[SweepConfig]:
    return arms.sweeps(base(quick, SEEDS), MODELS)


def run(work: Workspace) -> Measured:
    found = arms.train(work, base(work.quick, SEEDS), MODELS)
    margin = 2 - found.excess("narrow", "top_k")
    return Measured(float(margin.mean()), t_interval(margin), found.flops, found.details())
