"""Layers that a token may stop after: probabilities, loss and exits are those of a loop over layers."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from models import pondering, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.pondering import Pondered
from models.weight import walk
from tests.models.test_parts import quick

LAYERS = 3
RNG = np.random.default_rng(0)
SCORES = np.float32(RNG.standard_normal((LAYERS, 2, 5)))


def halting(scores):
    p, left = [], 1.0
    for layer, score in enumerate(scores):
        share = 1.0 if layer == len(scores) - 1 else 1 / (1 + np.exp(-np.float64(score)))
        p.append(left * share)
        left = left * (1 - share)
    return np.array(p)


def test_probabilities_are_products_and_sum_to_one():
    found = np.exp(np.float64(pondering.log_halting(SCORES)))
    np.testing.assert_allclose(found, halting(SCORES), rtol=1e-5)
    np.testing.assert_allclose(found.sum(0), 1, rtol=1e-5)
    np.testing.assert_allclose(pondering.geometric(0.3, 4), [0.3, 0.21, 0.147, 0.343])


def test_the_loss_is_the_expected_one_with_the_priors_divergence_and_stays_finite():
    logits, targets = np.float32(RNG.standard_normal((LAYERS, 2, 5, 7))), RNG.integers(0, 7, (2, 5))

    @quick
    @jax.value_and_grad
    def run(scores):
        return pondering.loss(Pondered(logits, pondering.log_halting(scores)), targets, 0.2, 0.5)

    p, prior, want = halting(SCORES), pondering.geometric(0.2, LAYERS), 0.0
    for b, t in np.ndindex(2, 5):
        for layer in range(LAYERS):
            shown = np.float64(logits[layer, b, t])
            missed = np.log(np.exp(shown).sum()) - shown[targets[b, t]]
            want += p[layer, b, t] * missed + 0.5 * prior[layer] * np.log(prior[layer] / p[layer, b, t])
    np.testing.assert_allclose(run(SCORES)[0], want / 10, rtol=1e-5)
    loss, gradient = run(SCORES * 1e4)  # a probability underflows
    assert np.isfinite(loss) and np.isfinite(gradient).all()


def test_exits_are_where_the_sum_reaches_q_or_drawn_from_the_probabilities():
    log_p, p = np.log(halting(SCORES)), halting(SCORES)
    for q in (0.0, 0.3, 0.6, 1.0):
        want = [[next((i for i in range(LAYERS) if p[: i + 1, b, t].sum() >= q - 1e-9), LAYERS - 1) for t in range(5)]
                for b in range(2)]  # fmt: skip
        np.testing.assert_array_equal(pondering.q_exit(jnp.float32(log_p), q), want)
    drawn = pondering.sampled_exit(jax.random.key(0), jnp.broadcast_to(jnp.float32(log_p[:, 0, :1]), (LAYERS, 20_000)))
    np.testing.assert_allclose(np.bincount(drawn, minlength=LAYERS) / 20_000, p[:, 0, 0], atol=0.015)  # 4 deviations


def test_what_is_said_after_the_last_layer_is_the_model_and_the_head_reads_stream_and_code():
    config = ModelConfig(32, d_model=16, n_layers=2, n_heads=4)
    both = {"model": transformer.weights(config), "halt": pondering.weights(config)}
    params = unflatten_dict({path: np.float32(0.3 * RNG.standard_normal(w.shape)) for path, w in walk(both)})
    tokens = RNG.integers(0, 32, (2, 6))

    @quick
    def run(params):
        return pondering.apply(config, params, tokens), transformer.apply(config, params["model"], tokens)

    found, want = run(params)
    np.testing.assert_allclose(found.logits[-1], want, rtol=2e-5, atol=2e-5)
    without = run(params | {"halt": params["halt"] | {"code": 0 * params["halt"]["code"]}})[0]
    scores = [np.log(p / (1 - p)) for p in (np.exp(np.float64(x.log_p[0])) for x in (found, without))]
    by_code = (params["halt"]["code"][0] @ params["halt"]["read"])[0]
    np.testing.assert_allclose(scores[0] - scores[1], by_code, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.log_p[1], np.log1p(-np.exp(found.log_p[0])), rtol=1e-3, atol=1e-5)


def test_what_cannot_be_is_said_in_one_line():
    scanned = ModelConfig(scan_layers=True)
    for make, told in (
        (partial(pondering.geometric, 1.0, 3), "rate: is 1.0: give a probability between 0 and 1"),
        (partial(pondering.apply, scanned, {"halt": {}}, None), "model.scan_layers: is set, but every layer is read: "
         "leave it False"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            make()
        assert str(error.value) == told
