"""Experts put behind a bottleneck: exact where they share one, and otherwise off by the singular values left out."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from models import counts, transformer
from models.channels import Dense, Experts
from models.config import Layer, ModelConfig
from models.errors import ConfigError
from models.latent_experts import shared_map, with_latent_experts
from models.weight import walk
from tests.models.test_parts import quick

MODEL = ModelConfig(
    vocab_size=32, d_model=16, n_layers=2, n_heads=4, moe=Experts(4, 2, 8, dispatch="dropless"), scan_layers=True
)
RANK = 5


def drawn(model: ModelConfig) -> dict[str, Any]:
    """Parameters of a model, all of them away from zero."""
    rng = np.random.default_rng(2)
    declared = walk(transformer.weights(model))
    return unflatten_dict({path: np.float32(0.3 * rng.standard_normal(w.shape)) for path, w in declared})


def shapes(params: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: x.shape for path, x in flatten_dict(params).items()}


def test_experts_that_share_a_map_compute_the_same_behind_it() -> None:
    rng = np.random.default_rng(0)
    params = drawn(MODEL)
    block = params["blocks"]["feedforward"]  # a stack of two layers
    into, out = rng.standard_normal((2, 2, RANK, 16)) / 4
    block["gate_up"] = np.float32(np.einsum("lergf,lrd->ledgf", rng.standard_normal((2, 4, RANK, 2, 8)) / 2, into))
    block["down"] = np.float32(np.einsum("lefr,lrd->lefd", rng.standard_normal((2, 4, 8, RANK)) / 2, out))
    narrow, fewer = with_latent_experts(MODEL, params, RANK)
    assert narrow.moe is not None and narrow.moe.bottleneck == RANK
    assert shapes(fewer) == {path: w.shape for path, w in walk(transformer.weights(narrow))}
    assert counts.params(MODEL) - counts.params(narrow) == 2 * (3 * 4 * 8 * (16 - RANK) - 2 * RANK * 16)
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, 32)

    @quick
    def both(params, fewer):
        return transformer.apply(MODEL, params, tokens), transformer.apply(narrow, fewer, tokens)

    want, found = both(params, fewer)
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-5)


def test_the_map_is_the_best_of_its_rank_after_every_expert_was_brought_to_its_own() -> None:
    matrices = np.random.default_rng(1).standard_normal((3, 7, 6))
    a, b = shared_map(matrices, 4)
    left_out = np.linalg.svd(matrices.reshape(21, 6), compute_uv=False)[4:]
    np.testing.assert_allclose(((a @ b - matrices) ** 2).sum(), (left_out**2).sum(), rtol=1e-10)
    np.testing.assert_allclose(b @ b.T, np.eye(4), atol=1e-12)
    first = []
    for one in matrices:
        u, s, v = np.linalg.svd(one, full_matrices=False)
        first.append(u[:, :2] @ np.diag(s[:2]) @ v[:2])
    for found, want in zip(shared_map(matrices, 4, own=2), shared_map(np.array(first), 4), strict=True):
        np.testing.assert_allclose(abs(found), abs(want), atol=1e-9)  # singular vectors have either sign
    np.testing.assert_allclose(*(np.matmul(*shared_map(np.array(first), 6)), np.array(first)), atol=1e-12)


def test_layers_of_a_pattern_are_converted_where_they_have_experts() -> None:
    experts = Layer(channel=Experts(4, 2, 8, shared=1))
    model = ModelConfig(32, 16, 3, 4, pattern=(Layer(channel=Dense(8)), experts), activation="gelu")
    params = drawn(model)
    narrow, fewer = with_latent_experts(model, params, 3, own=2)
    assert narrow.pattern == (model.pattern[0], Layer(channel=dataclasses.replace(experts.channel, bottleneck=3)))
    assert shapes(fewer) == {path: w.shape for path, w in walk(transformer.weights(narrow))}
    before, after = flatten_dict(params), flatten_dict(fewer)
    new = {("block_1", "feedforward", name) for name in ("up", "down", "lowered", "raised")}
    assert new == {path for path in after if after[path] is not before.get(path)}


def test_what_cannot_be_converted_is_said_in_one_line() -> None:
    for rank, model, told in (
        (17, MODEL, "rank: is 17: use 1 to 16, the model's width"),
        (4, ModelConfig(), "model: has no experts to put behind a bottleneck: give a model with experts that have no "
         "bottleneck"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            with_latent_experts(model, {}, rank)
        assert str(error.value) == told
