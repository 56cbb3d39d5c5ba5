"""A shared block that tokens run as often as a router says: a loop over tokens and lists of keys is the oracle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from models import counts, recursion
from models.config import ModelConfig
from models.errors import ConfigError
from models.recursion import Recursed, Recursion
from models.weight import walk
from tests.models.jaxprs import jaxpr_flops
from tests.models.test_parts import quick

CONFIG, MANY, SEQ = ModelConfig(32, d_model=16, n_layers=3, n_heads=4, d_ff=24), Recursion(3, ends=1, scale=0.5), 7
RNG = np.random.default_rng(0)
DECLARED = recursion.weights(CONFIG, MANY)
PARAMS = unflatten_dict({path: np.float32(0.5 * RNG.standard_normal(w.shape)) for path, w in walk(DECLARED)})
TOKENS = RNG.integers(0, 32, (2, SEQ))


@quick
def read(params, tokens, memory):
    return recursion.read(CONFIG, MANY, params, tokens, memory)


@quick
def trained(params, tokens):
    return recursion.apply(CONFIG, MANY, params, tokens)


def normed(x, gain):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.norm_eps) * gain


def rotated(x, at):
    angle = at * 1e4 ** (-np.arange(2) / 2)
    a, b = x[..., :2], x[..., 2:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


def layer(w, x, at, keys):
    """x `[16]` at place `at` through one layer; keys: (k, v) of the tokens that ran it before, and then its own."""
    q, k, v = np.moveaxis(np.einsum("d,dhfk->hfk", normed(x, w["attention_norm"]["gain"]), w["attention"]["qkv"]), 1, 0)
    keys.append((rotated(k, at), v))
    scores = np.array([(rotated(q, at) * k).sum(-1) / 2 for k, _ in keys])  # [tokens, heads]
    p = np.exp(scores - scores.max(0))
    y = np.einsum("th,thk->hk", p / p.sum(0), np.array([v for _, v in keys]))
    x = x + np.einsum("hk,hkd->d", y, w["attention"]["out"][:, 0])
    gate, up = np.moveaxis(np.tensordot(normed(x, w["feedforward_norm"]["gain"]), w["feedforward"]["gate_up"], 1), 0, 0)
    return x + (gate / (1 + np.exp(-gate)) * up) @ w["feedforward"]["down"]


def walked(tokens, goes):
    """(logits, who ran each step) of one sequence, token by token; goes(step, place, score) -> bool."""
    model, logits = PARAMS["model"], []
    keys = {name: [] for name in ("first", "last", *range(3))}
    ran = np.zeros((3, len(tokens)), bool)
    for at, token in enumerate(tokens):
        x = layer(model["block_0"], model["tokens"][token], at, keys["first"])
        for r in range(3):
            score = x @ PARAMS["router"][r]
            if not goes(r, at, score):
                break
            ran[r, at] = True
            x = x + 0.5 / (1 + np.exp(-score)) * layer(model["block_1"], x, at, keys[r])
        x = layer(model["block_2"], x, at, keys["last"])
        logits.append(normed(x, model["final_norm"]["gain"]) @ model["tokens"].T)
    return np.array(logits), ran


def test_tokens_go_on_by_their_own_scores_as_in_a_loop_that_drops_the_others_keys():
    found, _ = read(PARAMS, TOKENS, recursion.empty(CONFIG, MANY, 2, SEQ))
    for row, tokens in enumerate(TOKENS):
        logits, ran = walked(tokens, lambda r, at, score: r == 0 or score > 0)
        np.testing.assert_array_equal(found.ran[:, row], ran)
        np.testing.assert_allclose(found.logits[row], logits, rtol=1e-4, atol=1e-4)
    assert 0 < found.ran[2].sum() < found.ran[1].sum() < found.ran[0].sum() == TOKENS.size


def test_tokens_read_one_by_one_are_scored_as_the_whole_sequence_and_keep_what_they_ran():
    whole, _ = read(PARAMS, TOKENS, recursion.empty(CONFIG, MANY, 2, SEQ))
    memory = recursion.empty(CONFIG, MANY, 2, SEQ)
    for at in range(SEQ):
        found, memory = read(PARAMS, TOKENS[:, at : at + 1], memory)
        np.testing.assert_allclose(found.logits[:, 0], whole.logits[:, at], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(memory.used, whole.ran.sum(-1))
    for row in range(2):
        written = sum(int(np.any(np.asarray(x)[row] != 0, (0, 2)).sum()) for s in memory.stores for x in s.values())
        ran = np.asarray(memory.used)[:, row].tolist()
        assert written * 4 * 4 * 4 == recursion.kept_bytes(CONFIG, MANY, ran)  # heads, features, bytes


def test_in_training_the_best_of_those_left_go_on_and_a_later_token_can_send_another_away():
    found = trained(PARAMS, TOKENS)
    left = np.ones(TOKENS.shape, bool)
    for r, count in enumerate((7, 5, 3)):
        score = np.where(left, found.scores[r], -np.inf)
        left = score >= np.sort(score, axis=1)[:, -count, None]
        np.testing.assert_array_equal(found.ran[r], left)
    for row, tokens in enumerate(TOKENS):
        logits, _ = walked(tokens, lambda r, at, score, row=row: found.ran[r, row, at])
        np.testing.assert_allclose(found.logits[row], logits, rtol=1e-4, atol=1e-4)

    def differ(logits, other):
        return not np.allclose(logits[:, :-1], other[:, :-1], atol=1e-4)

    new = [np.concatenate([TOKENS[:, :-1], np.full((2, 1), token)], axis=1) for token in range(8)]
    assert any(differ(found.logits, trained(PARAMS, tokens).logits) for tokens in new)
    own = [read(PARAMS, tokens, recursion.empty(CONFIG, MANY, 2, SEQ))[0].logits for tokens in new]
    assert not any(differ(own[0], other) for other in own)


def test_weights_and_flops_are_those_of_the_arrays_and_products():
    drawn = jax.eval_shape(lambda key: recursion.init(CONFIG, MANY, key), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(drawn)) == counts.params(CONFIG) + 3 * 16
    jaxpr = jax.make_jaxpr(lambda p, t: recursion.apply(CONFIG, MANY, p, t))(PARAMS, TOKENS[:1]).jaxpr
    assert MANY.capacities(SEQ) == [7, 5, 3]
    assert jaxpr_flops(jaxpr) == recursion.flops(CONFIG, MANY, [7, 5, 3], causal=False)


def test_the_loss_teaches_scores_the_threshold_that_reading_has():
    scores, ran = RNG.standard_normal((2, 1, 4)), np.array([[[1, 1, 1, 0]], [[0, 1, 0, 0]]], bool)
    logits, targets = RNG.standard_normal((1, 4, 5)), np.array([[0, 1, 2, 3]])
    nats = np.mean([np.log(np.exp(logits[0, t]).sum()) - logits[0, t, t] for t in range(4)])
    p = 1 / (1 + np.exp(-scores[1, 0, :3]))  # of those that ran the step before
    want = nats - 0.3 * np.mean([np.log(1 - p[0]), np.log(p[1]), np.log(1 - p[2])])
    found = recursion.loss(Recursed(*map(jnp.asarray, (logits, scores, ran))), targets, 0.3)
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_a_model_without_a_shared_block_is_refused():
    with pytest.raises(ConfigError) as error:
        recursion.weights(CONFIG, Recursion(ends=2))
    assert str(error.value) == "ends: is 2 of 3 layers: use 0 to 1"
