"""Stacks of one shape share their compiled programs, which give what programs of their own would give."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from models.sharding import MeshConfig, make_mesh
from scaling.train.config import TRACED, TrainConfig, hyperparameters
from scaling.train.programs import Programs, programs
from tests.scaling.sweep import tiny

MODEL = tiny.MODEL.resolved()
TRAIN = TrainConfig(steps=9, batch_size=2, seq_len=8, seed=5, learning_rate=0.02, beta1=0.8, weight_decay=0.3)
OTHER: dict[str, Any] = {"steps": 50, "seed": 7, "warmup_steps": 3, "grad_clip": 0.1, "beta2": 0.5}


def made(train: TrainConfig) -> Programs:
    return programs(MODEL, train, "map", make_mesh(MeshConfig(), jax.devices()[:1]), 2)


def trained(found: Programs, train: TrainConfig) -> list[np.ndarray]:
    """Two trials of this config, trained for 4 steps on random tokens by the given programs."""
    draw = np.random.default_rng(0)
    hyper = jax.tree.map(lambda x: np.stack([x, x]), hyperparameters(train))
    tokens = draw.integers(0, MODEL.vocab_size, (2, 4, train.batch_size, train.seq_len + 1), np.int32)
    first, stop = np.zeros(2, np.int32), np.array([4, 3], np.int32)
    arguments = (found.initial(np.array([5, 6], np.uint32), hyper), {"tokens": tokens}, hyper, first, stop)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(found.advance(*arguments)(*arguments))]


@pytest.mark.parametrize("field", TRACED)
def test_what_is_traced_makes_no_other_programs(field: str) -> None:
    assert made(dataclasses.replace(TRAIN, **{field: OTHER.get(field, 0.25)})) is made(TRAIN)


@pytest.mark.parametrize("change", [{"optimizer": "muon"}, {"batch_size": 4}, {"spike_factor": 3.0}, {"log_every": 7}])
def test_what_is_not_traced_does(change: dict[str, Any]) -> None:
    assert made(dataclasses.replace(TRAIN, **change)) is not made(TRAIN)


def test_shared_programs_give_the_bits_of_programs_made_for_one_config() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    shared = made(dataclasses.replace(TRAIN, **OTHER))
    alone = Programs(MODEL, TRAIN, "map", mesh, 2)
    for one, other in zip(trained(shared, TRAIN), trained(alone, TRAIN), strict=True):
        np.testing.assert_array_equal(one, other)
