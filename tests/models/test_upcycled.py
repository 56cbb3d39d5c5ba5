"""Experts made of fine-tunes: a forced router gives each of them back, and what they share stays."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from models import counts, transformer
from models.channels import Dense, Experts
from models.config import Layer, ModelConfig
from models.errors import ConfigError
from models.routers import TopK
from models.upcycled import CHANNELS, ROUTERS, with_fine_tunes
from models.weight import walk
from scaling.train.adaptation import Only
from tests.models.test_parts import quick

MODEL = ModelConfig(vocab_size=32, d_model=16, n_layers=2, n_heads=4, d_ff=24, bias="all", scan_layers=True)
EXPERTS = Experts(3, 2, dispatch="dropless", router=TopK(offset=True))
TOKENS = np.random.default_rng(0).integers(0, 32, (2, 9))
CLOSE = {"rtol": 1e-6, "atol": 2e-6}  # float32: ragged products sum in another order


def drawn(model: ModelConfig, seed: int = 0) -> dict[str, Any]:
    """Parameters of a model, all of them away from zero."""
    rng = np.random.default_rng(seed)
    declared = walk(transformer.weights(model))
    return unflatten_dict({path: np.float32(0.3 * rng.standard_normal(w.shape)) for path, w in declared})


def fine_tunes(model: ModelConfig, count: int = 3) -> list[dict[str, Any]]:
    """Those that train what `CHANNELS` matches."""
    base, part = drawn(model), Only(CHANNELS)
    return [part.join(model, drawn(model, 1 + i), base) for i in range(count)]


run_dense = quick(partial(transformer.apply, MODEL))


def forced(params: dict[str, Any], expert: int) -> dict[str, Any]:
    """A router that sends everything to one expert: its score is 1, and the others' underflow to 0."""
    block = params["blocks"]["feedforward"]
    offset = np.zeros((2, 3), np.float32)
    offset[:, expert] = 1e4
    block = block | {"router": 0 * block["router"], "router_offset": offset}
    return params | {"blocks": params["blocks"] | {"feedforward": block}}


def test_a_forced_router_is_each_fine_tune_and_equal_ones_are_the_dense_model_under_any_router() -> None:
    tuned = fine_tunes(MODEL)
    config, params = with_fine_tunes(MODEL, tuned, EXPERTS)
    assert config == dataclasses.replace(MODEL.resolved(), moe=dataclasses.replace(EXPERTS, d_ff=24))
    declared = {path: w.shape for path, w in walk(transformer.weights(config))}
    assert {path: x.shape for path, x in flatten_dict(params).items()} == declared
    run = quick(partial(transformer.apply, config))
    wanted = [np.asarray(run_dense(one, TOKENS)) for one in tuned]
    for expert, want in enumerate(wanted):
        np.testing.assert_allclose(run(forced(params, expert), TOKENS), want, **CLOSE)
    assert min(abs(wanted[i] - wanted[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.1
    same = with_fine_tunes(MODEL, tuned[:1] * 3, EXPERTS, seed=5)[1]
    found = run(same, TOKENS)
    np.testing.assert_allclose(found, wanted[0], **CLOSE)
    assert abs(same["blocks"]["feedforward"]["router"]).min() > 0  # any router: it was drawn


def test_every_fine_tune_adds_a_blocks_parameters_and_every_choice_its_flops() -> None:
    config = with_fine_tunes(MODEL, fine_tunes(MODEL), EXPERTS)[0]
    block, routers = 3 * 16 * 24 + 2 * 24 + 16, 16 * 3 + 3  # per layer
    assert counts.params(config) - counts.params(MODEL) == 2 * (2 * block + routers)
    more = counts.forward_flops(config, 9) - counts.forward_flops(MODEL, 9)
    assert more == 2 * 9 * 2 * (3 * 16 * 24 + 16 * 3)


def test_layers_of_a_pattern_keep_their_widths_and_what_differs_beside_channels_is_a_mean() -> None:
    model = ModelConfig(32, 16, 3, 4, activation="gelu", prologue=(Layer(channel=Dense(8)),), pattern=(Layer(),))
    one, other = fine_tunes(model, 2)
    other = other | {"tokens": other["tokens"] + 1}
    experts = dataclasses.replace(EXPERTS, experts=2)
    config, params = with_fine_tunes(model, (one, other), experts, rest="mean")
    assert [layer.channel for layer in config.layers] == [dataclasses.replace(experts, d_ff=w) for w in (8, 64, 64)]
    assert {path: x.shape for path, x in flatten_dict(params).items()} == {
        path: w.shape for path, w in walk(transformer.weights(config))
    }
    np.testing.assert_allclose(params["tokens"], one["tokens"] + 0.5, atol=1e-6)
    for i, name in ((0, "up"), (2, "down")):
        found, (a, b) = params[f"block_{i}"]["feedforward"], (x[f"block_{i}"]["feedforward"] for x in (one, other))
        np.testing.assert_array_equal(found[name], np.stack([a[name], b[name]]))


def test_the_mask_trains_routers_alone() -> None:
    config, params = with_fine_tunes(MODEL, fine_tunes(MODEL), EXPERTS)
    part = Only(ROUTERS)
    trained = part.begun(config, params)
    names = {("blocks", "feedforward", "router"), ("blocks", "feedforward", "router_offset")}
    assert {path for path, _ in walk(part.weights(config))} == names == set(flatten_dict(trained))
    moved = unflatten_dict({path: x + 1 for path, x in flatten_dict(trained).items()})
    before, after = flatten_dict(params), flatten_dict(part.join(config, moved, params))
    assert {path for path in before if after[path] is not before[path]} == names


def test_what_cannot_become_experts_is_said_in_one_line() -> None:
    tuned = fine_tunes(MODEL)
    odd = [*tuned[:2], tuned[2] | {"tokens": tuned[2]["tokens"] + 1}]
    small = [*tuned[:2], tuned[2] | {"tokens": tuned[2]["tokens"][:5]}]
    own = ModelConfig(32, 16, 2, 4, pattern=(Layer(channel=Dense(8, "gelu")),))
    mixed = dataclasses.replace(MODEL, moe=EXPERTS)
    for model, params, experts, told in (
        (MODEL, tuned[:2], EXPERTS, "experts.experts: are 3 for 2 fine-tunes: set experts to 2, and give 2 or more"),
        (MODEL, tuned, dataclasses.replace(EXPERTS, d_ff=9), "experts.d_ff: asks for weights that no fine-tune has: "
         "leave it None"),
        (MODEL, tuned, Experts(3, 2, shared=1), "experts.shared: asks for weights that no fine-tune has: leave it 0"),
        (MODEL, odd, EXPERTS, "fine_tunes: differ in tokens, which is no feed-forward block: train feed-forward "
         "blocks alone, or set rest to mean"),
        (MODEL, small, EXPERTS, "fine_tunes[2]: has tokens of shape (5, 16), not (32, 16): give parameters of the "
         "model that they are fine-tunes of"),
        (own, tuned, EXPERTS, "model.activation: is gelu in a block of its own, which experts do not have: use the "
         "model's, swiglu"),
        (dataclasses.replace(mixed, bias="none"), tuned, EXPERTS, "model: has experts: give a model whose blocks are "
         "dense"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            with_fine_tunes(model, params, experts)
        assert str(error.value) == told
