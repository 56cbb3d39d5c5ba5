"""Heads further ahead leave the model as it is, and read, predict and score the tokens that they should."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from models import counts, several_tokens, transformer
from models.channels import Experts
from models.config import ModelConfig
from models.errors import ConfigError
from models.weight import walk
from models.wiring import Ladder
from tests.models.test_parts import quick

CONFIG = ModelConfig(13, d_model=8, n_layers=1, n_heads=2, d_ff=12).resolved()
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 13, (2, 10)).astype(np.int32)
SEGMENTS = np.repeat(np.int32([[0, 0, 0, 0, 0, 0, 1, 1, 1, 1]]), 2, axis=0)
PARAMS = unflatten_dict({
    path: np.float32(RNG.standard_normal(w.shape) * 0.4) for path, w in walk(several_tokens.weights(CONFIG, 2))
})  # fmt: skip


@functools.cache
def seen():
    """Everything that is tested, in one program."""

    @quick
    def run(params):
        inputs, main = TOKENS[:, :-1], params["model"]
        own, ahead = several_tokens.forward(CONFIG, params, inputs)
        plain = transformer.forward(CONFIG, main, inputs)
        at = np.arange(9)[None]
        x, _ = transformer.run_layers(CONFIG, main, transformer.embed(CONFIG, main, inputs, at), at, None, inputs)
        losses = several_tokens.losses
        apart = [losses(CONFIG, params, part) for part in (TOKENS[:, :6], TOKENS[:, 6:])]
        whole = losses(CONFIG, params, TOKENS), losses(CONFIG, params, TOKENS, SEGMENTS)
        return own, [a.hidden for a in ahead], plain, x, whole, apart, several_tokens.forecast(CONFIG, params, inputs)

    own, ahead, plain, x, whole, apart, drafts = run(PARAMS)
    return own, ahead, plain, np.float64(x), whole, apart, drafts


def normed(x, gain):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.norm_eps) * gain


def test_the_model_itself_is_what_it_was_to_the_last_bit():
    own, _, plain, *_ = seen()
    np.testing.assert_array_equal(own.hidden, plain.hidden)
    np.testing.assert_array_equal(own.head, plain.head)


def test_every_depth_is_its_definition_and_scores_the_token_after_the_one_it_reads():
    own, found, _, x, ((total, weight), _), _, (drafted, said) = seen()
    for k, w in ((1, PARAMS["ahead"]["1"]), (2, PARAMS["ahead"]["2"])):
        told = normed(np.float64(PARAMS["model"]["tokens"][TOKENS[:, k:9]]), w["token_norm"]["gain"])
        state = normed(x[:, : 9 - k], w["state_norm"]["gain"])
        x = told @ w["join"][0] + state @ w["join"][1]
        at = np.arange(9 - k)[None]
        layer = quick(lambda w, x, at=at: transformer.run_layer(CONFIG, CONFIG.layers[-1], w, x, at, None, TOKENS)[0])
        x = np.float64(layer(w["layer"], np.float32(x)))
        hidden = normed(x, w["norm"]["gain"])
        np.testing.assert_allclose(found[k - 1], hidden, rtol=1e-4, atol=1e-5)
        scores = hidden @ np.float64(own.head)
        said_of = np.take_along_axis(scores, TOKENS[:, k + 1 :, None], -1)[..., 0]
        np.testing.assert_allclose(total[k], (np.log(np.exp(scores).sum(-1)) - said_of).sum(), rtol=1e-5)
        assert weight[k] == 2 * (9 - k)
        if k == 1:
            np.testing.assert_array_equal(drafted, scores.argmax(-1))
    np.testing.assert_array_equal(said, (np.asarray(own.hidden) @ np.asarray(own.head)).argmax(-1)[:, 1:])


def test_packed_documents_lose_what_they_lose_apart():
    *_, (_, (total, weight)), apart, _ = seen()
    np.testing.assert_allclose(total, sum(np.asarray(part[0]) for part in apart), rtol=1e-5)
    np.testing.assert_array_equal(weight, [2 * (5 + 3), 2 * (4 + 2), 2 * (3 + 1)])


def test_a_depth_weighs_a_layer_a_joint_and_three_norms():
    own = sum(w.size for _, w in walk(several_tokens.weights(CONFIG, 2)["ahead"]))
    layer = counts.params(dataclasses.replace(CONFIG, n_layers=2)) - counts.params(CONFIG)
    assert own == 2 * (layer + 2 * 8 * 8 + 3 * 8)


def test_what_cannot_be_is_said_in_one_line():
    for change, depths, told in (
        ({}, 0, "depths: are 0: give 1 or more"),
        ({"wiring": Ladder()}, 1, "model.wiring: hands on more than one stream: use PreNorm"),
        ({"moe": Experts(4, 2, 8)}, 1, "model.moe: routes tokens, whose penalty no depth counts: use dense channels"),
    ):
        with pytest.raises(ConfigError) as error:
            several_tokens.weights(dataclasses.replace(CONFIG, **change), depths)
        assert str(error.value) == told
