"""Estimates ask every layer: what a layer of one kind does is never taken for what another does."""

from __future__ import annotations

import dataclasses

import pytest

from models.channels.dense import Dense
from models.channels.experts import Experts
from models.config import ModelConfig
from models.devices import DEVICES
from models.layer import Layer
from models.mixers import Attention, Latent, Mamba2
from models.sharding import MeshConfig
from scaling.train.config import TrainConfig
from scaling.train.layers import Widths, widths
from scaling.train.memory import estimate_memory
from scaling.train.step_time import estimate_step
from scaling.train.traffic import expected_traffic
from tests.models.parts import PARTS

MODEL = ModelConfig(d_model=32, n_layers=4, n_heads=4, n_kv_heads=2, d_ff=96, vocab_size=64)
TRAIN = TrainConfig(batch_size=8, seq_len=64)
EXPERTS = Experts(experts=4, top_k=2, d_ff=16, shared=1)
STATE = Mamba2(head_dim=8, state=8, block=16)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Layer(), Widths(4, 4 * 8, 2 * 2 * 8, 96)),
        (Layer(Attention(heads=8, kv_heads=4, head_dim=4), EXPERTS), Widths(8, 8 * 4, 2 * 4 * 4, 56)),
        (Layer(Latent(rank=8, key_dim=4, rotary_dim=2, value_dim=6), None), Widths(4, 4 * 6, 4 * 6 + 4 * 6, 0)),
        (Layer(STATE, Dense(40)), Widths(0, 0, 0, 40)),
    ],
)  # fmt: skip
def test_the_widths_of_a_layer_are_those_of_its_parts(layer: Layer, expected: Widths) -> None:
    """56 features: of two choices with a quarter of empty slots beside them and the shared expert, 16 each."""
    model = dataclasses.replace(MODEL, positions="rope", pattern=(layer,)).resolved()
    assert widths(model, model.layers[0]) == expected


def sent(pattern: tuple[Layer, ...], axis: str) -> dict[str, int]:
    model = dataclasses.replace(MODEL, positions="rope", pattern=pattern)
    found = expected_traffic(model, TRAIN, MeshConfig(**{axis: 2}))
    return {t.purpose: t.bytes for t in found if t.axis == axis}


@pytest.mark.parametrize("name", PARTS)
def test_every_model_of_the_contract_suite_is_estimated(name: str) -> None:
    memory = estimate_memory(PARTS[name], TRAIN, MeshConfig(fsdp=2), "cpu")
    step = estimate_step(PARTS[name], TRAIN, MeshConfig(fsdp=2), DEVICES["v5e"])
    assert memory.saved > 0 and memory.block > 0 and step.elementwise > 0 and "fsdp" in step.exposed


@pytest.mark.parametrize(("axis", "purpose"), [("context", "keys and values"), ("expert", "tokens of experts")])
def test_only_layers_that_move_something_count(axis: str, purpose: str) -> None:
    moves, rests = Layer(Attention(), EXPERTS), Layer(STATE, Dense())
    every, half = sent((moves,), axis), sent((moves, rests), axis)
    assert every[purpose] == 2 * half[purpose] > 0
    assert purpose not in sent((rests,), axis)


def test_weights_of_every_kind_of_layer_travel() -> None:
    a, b = Layer(channel=Dense(96)), Layer(channel=Dense(192))
    of = {pattern: sent(pattern, "fsdp")["parameters of blocks"] for pattern in ((a,), (b,))}
    kinds = expected_traffic(dataclasses.replace(MODEL, pattern=(a, b)), TRAIN, MeshConfig(fsdp=2))
    assert 2 * sum(t.bytes for t in kinds if t.purpose == "parameters of blocks") == sum(of.values())


def test_memory_of_two_kinds_lies_between_that_of_either_and_its_peak_is_that_of_the_larger() -> None:
    model = dataclasses.replace(MODEL, remat="dots")
    kinds = (Layer(channel=Dense(96)),), (Layer(channel=Dense(192)),)
    small, large, both = (
        estimate_memory(dataclasses.replace(model, pattern=pattern), TRAIN, MeshConfig(), "cpu")
        for pattern in (*kinds, kinds[0] + kinds[1])
    )
    assert small.saved + large.saved == 2 * both.saved and small.saved < large.saved
    assert small.block < large.block == both.block
