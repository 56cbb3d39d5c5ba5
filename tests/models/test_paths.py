"""Paths of small, big and no blocks: those of one kind are models of it, and the oracle's are the best at its price."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from models import paths, transformer
from models.channels import Dense
from models.config import Layer, ModelConfig
from models.errors import ConfigError
from models.mixers import Attention
from models.weight import walk
from tests.models.test_parts import quick

CONFIG, TINY = ModelConfig(32, d_model=16, n_layers=1, n_heads=4, d_ff=24), Dense(8)


def test_paths_of_one_kind_are_models_of_it_and_tokens_may_go_apart():
    rng = np.random.default_rng(0)
    declared = paths.weights(CONFIG, TINY)
    params = unflatten_dict({path: np.float32(0.3 * rng.standard_normal(w.shape)) for path, w in walk(declared)})
    tokens, mixed = rng.integers(0, 32, (2, 6)), rng.integers(0, 3, (1, 2, 6))
    model = params["model"]
    mixer_alone = {slot: w for slot, w in model["block_0"].items() if "attention" in slot}

    @quick
    def run(params):
        plain = dataclasses.replace(CONFIG, pattern=(Layer(Attention(), None),))
        smaller = dataclasses.replace(CONFIG, pattern=(Layer(Attention(), TINY),))
        want = [
            transformer.apply(plain, model | {"block_0": mixer_alone}, tokens),
            transformer.apply(smaller, model | {"block_0": mixer_alone | params["small"]["block_0"]}, tokens),
            transformer.apply(CONFIG, model, tokens),
        ]
        chosen = [paths.given(jnp.full((1, 1, 1), kind)) for kind in range(3)] + [paths.given(mixed)]
        router = paths.routed(params["router"])
        x = []

        def seen(i, stream):
            x.append(stream)
            return router(i, stream)

        found = [paths.apply(CONFIG, TINY, params, tokens, choose) for choose in (*chosen, seen)]
        return want, found, x[0] @ params["router"][0]

    want, found, scores = run(params)
    for kind in range(3):
        np.testing.assert_allclose(found[kind], want[kind], rtol=2e-5, atol=2e-5)
    for apart, by_token in ((found[3], mixed[0]), (found[4], np.argmax(scores, -1))):
        each = np.take_along_axis(np.array(want), by_token[None, ..., None], axis=0)[0]
        np.testing.assert_allclose(apart, each, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(paths.flops(CONFIG, TINY), [[0, 2 * 3 * 16 * 8, 2 * 3 * 16 * 24]])


def test_the_oracle_takes_the_best_of_all_paths_at_the_least_price_that_fits():
    rng = np.random.default_rng(1)
    every = paths.every(3)
    assert len(np.unique(every, axis=0)) == len(every) == 27
    costs, losses = every.sum(1), rng.standard_normal((27, 40))
    np.testing.assert_array_equal(paths.oracle(losses, costs, 6), losses.argmin(0))
    for budget in (0, 1.0, 2.5):
        chosen, rows = paths.oracle(losses, costs, budget), np.arange(40)
        assert costs[chosen].mean() <= budget
        cost, loss = costs[chosen].sum(), losses[chosen, rows].sum()
        for price in np.linspace(0, 5, 101):  # nobody who pays no more has less: the choice lies on the lower hull
            other = (losses + price * costs[:, None]).argmin(0)
            assert costs[other].sum() > cost or losses[other, rows].sum() >= loss - 1e-9


def test_paths_are_judged_by_their_means_and_texts_by_their_oracle():
    losses = np.arange(9.0)[:, None] + np.array([0, 10])  # of two layers: skip small big, the last fastest
    losses[8, 1] = 0
    found = paths.judged(losses, paths.every(2).sum(1), 2.0)
    assert found["oracle"] == {"loss": 0.0, "cost": 2.0} and found["oracle of any cost"] == 0
    assert found["one path for all texts"] == {"loss": 5.0, "path": [0, 0]}
    assert (found["all big"], found["all small"], found["at most one big"]) == (4.0, 9.0, 5.0)
    assert found["difficulty of texts, quartiles"] == [6.5, 9.0, 11.5]  # 4 - 0 and 14 - 0


def test_what_cannot_be_is_said_in_one_line():
    for make, told in (
        (lambda: paths.every(7), "layers: are 7, which have 3^7 paths: use 1 to 6 to try all"),
        (lambda: paths.oracle(np.zeros((1, 2)), np.array([3]), 2),
         "budget: is 2: give at least 3, what the cheapest costs"),
        (lambda: paths.weights(dataclasses.replace(CONFIG, scan_layers=True), TINY), "model: has layers without a path "
         "of their own: use PreNorm, layers that are not scanned, and a channel in each"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            make()
        assert str(error.value) == told
