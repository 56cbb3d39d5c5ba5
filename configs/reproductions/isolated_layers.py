"""Layers that no gradient crosses: auxiliary nets of later layers' form close most of the gap to backpropagation.

    python -m launch.reproduce isolated_layers --workdir runs/reproductions/isolated_layers

Three minutes on one core. Six layers of width 24 read bytes, trained by backpropagation, by a norm and a head behind
every layer, and by nets of two layers and fewer behind every layer; pairs of seeds. What a gradient holds at once is
read from the compiled program.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

from models.config import ModelConfig
from scaling import arms
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig
from scaling.train.objectives import AnyObjective, Isolated, NextToken

MODEL = ModelConfig(d_model=24, n_layers=6, n_heads=4, tied_embeddings=False)
OBJECTIVES: dict[str, AnyObjective] = {
    "backpropagation": NextToken(), "heads": Isolated(depth=0), "nets": Isolated(depth=2)
}  # fmt: skip


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="isolated_layers", methods=(220,), smallest_effect=0.5, minutes=6,
        claim="gradient-isolated layers with auxiliary nets of up to two layers close more than half of the gap "
        "between the losses of plain local learning and of backpropagation, with some 40 % less held at once",
        source="Ma et al. 2024, AugLocal, arXiv:2402.17318",
        unit="share of the gap between plain local losses and backpropagation that is closed",
        not_covered="images and convolutions; more than six layers of width 24 and 400 steps; equal FLOPs (nets of two "
        "layers cost 2.5 times those of backpropagation); layers trained side by side on several devices",
        simulated=False, run=run, sweeps=planned,
    )  # fmt: skip


def planned(quick: bool) -> Sequence[SweepConfig]:
    train = TrainConfig(
        steps=20 if quick else 400, batch_size=8, seq_len=48, learning_rate=4e-3, weight_decay=0.0, checkpoint_every=0
    )
    base = SweepConfig(model=MODEL, train=train, seeds=2 if quick else 5, workers=1)
    return [
        dataclasses.replace(base, name=name, train=dataclasses.replace(train, objective=objective))
        for name, objective in OBJECTIVES.items()
    ]


def held_at_once() -> dict[str, int]:
    """Bytes beside arguments and results that the compiled gradient of each arm takes."""
    import jax
    import numpy as np

    from models import transformer
    from scaling.train.step import measured_gradient

    found, model = {}, MODEL.resolved()
    for config in planned(False):
        train = config.train
        params = jax.eval_shape(partial(transformer.drawn, model, train.weights(model)), jax.random.key(0))
        batch = {"tokens": jax.ShapeDtypeStruct((train.batch_size, train.seq_len + 1), np.int32)}
        program = jax.jit(partial(measured_gradient, model, train)).lower(params, batch).compile()
        analysis = program.memory_analysis()
        assert analysis is not None
        found[config.name] = int(analysis.temp_size_in_bytes)
    return found


def run(work: Workspace) -> Measured:
    every = arms.train_sweeps(work, planned(work.quick))
    held = work.keep("held", held_at_once)
    loss = every.losses
    closed = (loss["heads"] - loss["nets"]) / (loss["heads"] - loss["backpropagation"])
    less = {name: round(1 - held[name] / held["backpropagation"], 3) for name in ("heads", "nets")}
    details = every.details() | {"bytes held at once": held, "less than backpropagation": less}
    return Measured(float(closed.mean()), t_interval(closed), every.flops, details)
