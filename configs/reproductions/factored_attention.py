"""Factored attention (MFA) with half of the cache against grouped queries of as many parameters, in pairs of seeds.

    python -m launch.reproduce factored_attention --workdir runs/reproductions/factored_attention

Five heads read from a latent of 32 share one head of keys and values; four heads of their own share two.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from models import counts
from models.config import Layer, ModelConfig
from models.mixers import Factored
from scaling import arms
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig

GROUPED = ModelConfig(d_model=64, n_layers=3, n_heads=4, n_kv_heads=2, d_ff=128)
FACTORED = dataclasses.replace(GROUPED, n_kv_heads=None, pattern=(Layer(Factored(heads=5, query_rank=32)),))
MODELS = {"grouped": GROUPED, "factored": FACTORED}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="factored_attention", methods=(70,), smallest_effect=0.0, minutes=8,
        claim="with half of the cache and no more parameters the loss is within 1 % of grouped-query attention's",
        source="Step-3, arXiv:2507.19427; Hu et al. 2024, arXiv:2412.19255",
        unit="percentage points of loss below the 1 % that it may cost",
        not_covered="more than 3 layers of width 64 and 250 steps, long contexts; pools on machines of their own, "
        "whose logits and bytes are those of tests/models/test_factored.py", simulated=False, run=run, sweeps=planned,
    )  # fmt: skip


def planned(quick: bool) -> Sequence[SweepConfig]:
    train = TrainConfig(steps=20 if quick else 250, batch_size=8, seq_len=64, learning_rate=3e-3)
    return arms.sweeps(SweepConfig(train=train, seeds=2 if quick else 8, workers=1, stack_size=2), MODELS)


def run(work: Workspace) -> Measured:
    found = arms.train(work, planned(work.quick)[0], MODELS)
    margin = 1 - found.excess("factored", "grouped")
    details = found.details() | {
        "params": {name: counts.params(model) for name, model in MODELS.items()},
        "kept bytes per token": {name: counts.kv_cache_bytes_per_token(model) for name, model in MODELS.items()},
    }
    return Measured(float(np.mean(margin)), t_interval(margin), found.flops, details)
