"""Where a factor of compute goes decides how much is kept for the gradient: least where it goes to the width.

    python -m launch.reproduce compound_shapes --workdir runs/reproductions/compound_shapes

A minute on one core: counts of FLOPs and of the shapes that JAX keeps; nothing is trained.
"""

import itertools
from typing import Literal

import numpy as np

from models import counts
from models.config import ModelConfig
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, bootstrap_interval
from scaling.sweep.shapes import ShapeRule, kept_bytes

RULES = {
    "width": ShapeRule(width=1.0), "fast": ShapeRule.fast(), "uniform": ShapeRule(1 / 3, 1 / 3, 1 / 3),
    "depth": ShapeRule(depth=1.0), "length": ShapeRule(length=1.0),
    "depth and length": ShapeRule(depth=0.5, length=0.5),
}  # fmt: skip
FACTORS = (1, 4, 16, 64)


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="compound_shapes",
        methods=(15,),
        claim="Kept activations grow much slower with FLOPs where mostly the width grows than under uniform scaling",
        source="Dollar, Singh & Girshick 2021, arXiv:2103.06877, table 1",
        smallest_effect=0.1,
        unit="exponent of kept bytes in FLOPs, uniform scaling less the fast rule",
        minutes=2,
        not_covered="losses of the scaled models and their run time, which the paper finds alike and in step with "
        "activations; images; kernels that keep no scores (scores of attention are kept here where JAX keeps them)",
        simulated=False,
        run=run,
    )


def bases(quick: bool) -> list[tuple[ModelConfig, int]]:
    """Small transformers of several proportions, with the length of their sequences."""
    activations: tuple[Literal["gelu", "swiglu"], ...] = ("gelu", "swiglu")
    shapes = itertools.product((2, 4), (4, 8), (64, 256), activations)
    found = [(ModelConfig(256, d_model=32 * heads, n_layers=layers, n_heads=heads, activation=activation), length)
             for layers, heads, length, activation in shapes]  # fmt: skip
    return found[:2] if quick else found


def exponents(quick: bool) -> dict[str, JSON]:
    """Rule -> slope of log kept bytes in log FLOPs of a sequence, for every base."""
    found = {}
    for name, rule in RULES.items():
        slopes = []
        for model, length in bases(quick):
            scaled = [rule.scaled(model, length, factor) for factor in FACTORS]
            flops = [counts.train_flops(one, tokens, tokens) for one, tokens in scaled]
            slopes.append(float(np.polyfit(np.log(flops), np.log([kept_bytes(*one) for one in scaled]), 1)[0]))
        found[name] = slopes
    return found


def run(work: Workspace) -> Measured:
    found = work.keep("exponents", lambda: exponents(work.quick))
    gain = np.array(found["uniform"]) - found["fast"]
    rows = [{"rule": name, "exponent": float(np.mean(found[name])), "least": min(found[name]), "most": max(found[name]),
             "of matrices alone": rule.growth} for name, rule in RULES.items()]  # fmt: skip
    return Measured(float(gain.mean()), bootstrap_interval(gain), 0.0, {"rules": rows, "bases": len(gain)})
