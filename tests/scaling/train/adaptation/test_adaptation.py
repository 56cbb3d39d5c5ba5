"""Which weights train: what is merged computes the same, what is frozen stays, and only what trains has moments."""

from __future__ import annotations

import dataclasses
import functools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from models import counts, transformer
from models.config import ModelConfig
from models.context import Lead, attention_after
from models.errors import ConfigError
from models.rounded import Rounded
from models.span import Span
from models.weight import walk
from scaling.sweep.run import trial_directory
from scaling.train.adaptation import (
    Adaptation,
    Bottleneck,
    Everything,
    Gains,
    LowPrecision,
    LowRank,
    Only,
    Prefix,
    Prompt,
    SparseLowRank,
    with_prefix,
)
from scaling.train.adaptation.adaptation import at
from scaling.train.checkpoint import load_params
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.initial import load_initial
from scaling.train.objectives.objective import BASE, Frozen
from scaling.train.placement import QUICK_COMPILE
from scaling.train.step import init_state, loss_and_gradient, train_step
from tests.scaling.sweep import tiny

MODEL = ModelConfig(vocab_size=11, d_model=8, n_layers=2, n_heads=2, d_ff=12, bias="qkv", activation="gelu").resolved()
SCANNED = dataclasses.replace(MODEL, scan_layers=True)
WAYS: dict[str, Adaptation] = {
    "lora": LowRank(rank=2, alpha=6.0, ranks={"*/down": 3}),
    "ia3": Gains(),
    "adapters": Bottleneck(width=3),
    "bitfit": Only(),
}
TOKENS = np.random.default_rng(0).integers(0, 11, (4, 6)).astype(np.int32)


@functools.cache
def base_of(model: ModelConfig) -> Any:
    unrolled = dataclasses.replace(model, scan_layers=False)
    drawn = jax.jit(partial(transformer.init, unrolled), compiler_options=QUICK_COMPILE)(jax.random.key(0))
    drawn = jax.tree.map(lambda x: x + 0.1, drawn)  # biases that are not 0
    return transformer.stack_layers(drawn, model) if model.scan_layers else drawn


def moved(way: Adaptation, model: ModelConfig) -> Any:
    """Trained weights away from where they start, equal for stacked and unrolled layers."""
    declared = transformer.drawn(model, way.weights(model), jax.random.key(1))
    start = way.begun(model, base_of(model)) or declared
    return jax.tree.map(lambda x: x + 0.3 * jnp.cos(jnp.arange(x[0].size, dtype=x.dtype)).reshape(x.shape[1:])
                        if x.ndim > 1 else x + 0.3, start)  # fmt: skip


@functools.cache
def logits() -> Any:
    return jax.jit(transformer.apply, static_argnums=0, compiler_options=QUICK_COMPILE)


@pytest.mark.parametrize("model", [MODEL, SCANNED], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_merged_logits_equal_unmerged(name: str, model: ModelConfig) -> None:
    way, trained = WAYS[name], moved(WAYS[name], model)
    apart = logits()(model, way.join(model, trained, base_of(model)), TOKENS)
    together = way.merge(model, trained, base_of(model))
    assert jax.tree.structure(together) == jax.tree.structure(base_of(model))
    np.testing.assert_allclose(logits()(model, together, TOKENS), apart, atol=2e-5)
    assert np.abs(apart - logits()(model, base_of(model), TOKENS)).max() > 0.1


@pytest.mark.parametrize("name", ["lora", "ia3", "adapters", "bitfit"])
def test_nothing_has_changed_before_the_first_step(name: str) -> None:
    way = WAYS[name]
    start = way.begun(MODEL, base_of(MODEL)) or transformer.drawn(MODEL, way.weights(MODEL), jax.random.key(1))
    np.testing.assert_allclose(
        logits()(MODEL, way.join(MODEL, start, base_of(MODEL)), TOKENS),
        logits()(MODEL, base_of(MODEL), TOKENS),
        atol=1e-6,
    )


def test_the_gradient_of_a_low_rank_is_that_of_the_whole_matrix_seen_through_it() -> None:
    """dA = dW B^T, dB = A^T dW, times the scale: computed with every weight trained, at the merged weights."""
    way, trained = WAYS["lora"], moved(WAYS["lora"], MODEL)
    batch = {"tokens": TOKENS}
    train = TrainConfig(batch_size=4, seq_len=5, trains=way, init_from="there")
    frozen = {BASE: Frozen(MODEL, base_of(MODEL))}
    gradient = jax.jit(partial(loss_and_gradient, MODEL, train), compiler_options=QUICK_COMPILE)
    found = gradient(trained, batch, frozen)
    whole = dataclasses.replace(train, trains=Everything(), init_from=None)
    full = jax.jit(partial(loss_and_gradient, MODEL, whole), compiler_options=QUICK_COMPILE)
    expected = full(way.merge(MODEL, trained, base_of(MODEL)), batch)
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-6)
    for path, scale in ((("block_0", "attention", "qkv"), 3.0), (("block_1", "feedforward", "down"), 2.0)):
        d_whole, parts, got = (at(tree, path) for tree in (expected[1], trained, found[1]))
        rank = parts["up"].shape[0]
        d_whole = np.asarray(d_whole).reshape(parts["down"].shape[0], -1)
        up, down = np.asarray(parts["up"]).reshape(rank, -1), np.asarray(parts["down"])
        np.testing.assert_allclose(got["down"], scale * d_whole @ up.T, atol=3e-6)
        np.testing.assert_allclose(np.asarray(got["up"]).reshape(rank, -1), scale * down.T @ d_whole, atol=3e-6)


def test_only_what_trains_has_a_state_and_moves() -> None:
    way = WAYS["bitfit"]
    train = TrainConfig(batch_size=4, seq_len=5, trains=way, init_from="there", warmup_steps=0)
    hyper = hyperparameters(train)
    state = jax.jit(partial(init_state, MODEL, train), compiler_options=QUICK_COMPILE)(np.uint32(0), hyper)
    names = {path for path, _ in walk(way.weights(MODEL))}
    assert names == {(f"block_{i}", "attention", "qkv_bias") for i in (0, 1)}
    for tree in (state.params, state.opt_state.momentum, state.opt_state.variance):
        assert flatten_dict(tree).keys() == names
    state = state._replace(params=way.begun(MODEL, base_of(MODEL)))
    frozen = {BASE: Frozen(MODEL, base_of(MODEL))}
    step = jax.jit(partial(train_step, MODEL, train, 9.0), compiler_options=QUICK_COMPILE)
    after, _ = step(state, {"tokens": TOKENS}, hyper, frozen)
    whole, before = (flatten_dict(way.join(MODEL, s.params, base_of(MODEL))) for s in (after, state))
    for path in before:
        same = bool((before[path] == whole[path]).all())
        assert same == (path not in names), path


def test_counts_are_those_of_the_declarations() -> None:
    def trained(way: Adaptation) -> int:
        return sum(w.size for _, w in walk(way.weights(MODEL)))

    matrices = [w for w in counts.declarations(MODEL) if w.role == "matrix"]
    ends = [(w.fan_in, w.size // w.fan_in) for w in matrices]
    assert trained(LowRank(rank=2)) == sum(2 * (i + o) for i, o in ends)
    assert trained(Bottleneck(width=3)) == 2 * 2 * 2 * 3 * 8  # two layers, two parts, in and out
    assert trained(Everything()) == counts.params(MODEL)
    sparse = SparseLowRank(rank=2, density=0.25)
    rest = counts.params(MODEL) - sum(w.size for w in matrices)
    assert trained(sparse) == rest + sum(2 * (i + o) + round(0.25 * i * o) for i, o in ends)
    # Backwards the gradients of frozen matrices, and of the tied head, are not computed.
    plain, tokens = TrainConfig(), 600
    biases = TrainConfig(trains=Only(), init_from="there")
    saved = sum(w.flops_per_token for w in matrices) + 2 * MODEL.d_model * MODEL.vocab_size
    assert plain.flops(MODEL, tokens, {}) - biases.flops(MODEL, tokens, {}) == tokens * saved


def test_sparse_plus_low_rank_is_its_sum_and_its_support_never_moves() -> None:
    way = SparseLowRank(rank=2, alpha=4.0, density=0.25)
    for model in (MODEL, SCANNED):
        trained = transformer.drawn(model, way.weights(model), jax.random.key(1))
        whole = way.join(model, trained, None)
        assert jax.tree.structure(whole) == jax.tree.structure(base_of(model))
    parts = transformer.drawn(MODEL, way.weights(MODEL), jax.random.key(1))
    parts["block_0"]["feedforward"]["down"]["up"] += 0.5
    down = parts["block_0"]["feedforward"]["down"]
    w = np.asarray(way.join(MODEL, parts, None)["block_0"]["feedforward"]["down"])
    sparse = w - 2.0 * np.asarray(down["down"]) @ np.asarray(down["up"])
    inside = np.abs(sparse) > 1e-6
    assert inside.sum() == down["entries"].size == 24
    np.testing.assert_allclose(np.sort(sparse[inside]), np.sort(np.asarray(down["entries"])), atol=1e-6)
    again = way.join(MODEL, jax.tree.map(lambda x: x + 1, parts), None)["block_0"]["feedforward"]["down"]
    rest = np.asarray(again) - 2.0 * np.asarray(down["down"] + 1) @ np.asarray(down["up"] + 1)
    assert ((np.abs(rest) > 1e-4) == inside).all()


@pytest.mark.parametrize("model", [MODEL, SCANNED], ids=["unrolled", "scanned"])
def test_products_of_few_bits_are_those_of_rounded_weights_and_of_all_bits_the_plain_ones(model: ModelConfig) -> None:
    trained = base_of(model)
    whole = logits()(model, LowPrecision(exponent=8, mantissa=23, block=0).join(model, trained, None), TOKENS)
    np.testing.assert_array_equal(whole, logits()(model, trained, TOKENS))
    way = LowPrecision(names=("*/feedforward/down",), exponent=8, mantissa=3, block=0)
    joined = way.join(model, trained, None)
    few = [path for path, leaf in flatten_dict(joined).items() if isinstance(leaf, Rounded)]
    assert {path[-1] for path in few} == {"down"}
    assert np.abs(logits()(model, joined, TOKENS) - whole).max() > 1e-3
    assert dict(walk(way.weights(model))) == dict(walk(transformer.weights(model)))


def test_what_trains_nothing_or_has_no_base_is_refused() -> None:
    bare = dataclasses.replace(MODEL, bias="none")
    with pytest.raises(ConfigError, match=r"train\.trains\.names: trains nothing: no weight is called \*bias: match"):
        Only().weights(bare)
    with pytest.raises(ConfigError, match=r"train\.trains: is LowRank, which changes a model that train\.init_from"):
        TrainConfig(trains=LowRank())
    with pytest.raises(ConfigError, match=r"train\.trains\.rank: is 0"):
        LowRank(rank=0)


@pytest.mark.slow  # two whole runs
def test_a_run_of_a_low_rank_ends_as_a_trial_like_any_other(tmp_path: Path) -> None:
    """Its checkpoints hold the low rank alone, its result the merged model, whose loss is that of its row."""
    base = tiny.trial(tmp_path).resolved()
    before = tiny.run(tmp_path, [base])[base.id]
    folder = str(trial_directory(tmp_path, base))
    tuned = tiny.trial(tmp_path, train__trains=LowRank(rank=2), train__init_from=folder, train__seed=3).resolved()
    row = tiny.run(tmp_path, [tuned])[tuned.id]
    assert row["loss"] < before["loss"] and row["status"] == "done"
    params, _ = load_initial(trial_directory(tmp_path, tuned), tuned.model)
    base_params = load_params(folder)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), params, base_params)
    assert same["tokens"] and not same["block_0"]["attention"]["qkv"]
    assert row["flops"] == tuned.flops < before["flops"] + 24 * 4 * 16 * 3 * sum(
        w.flops_per_token for _, w in walk(LowRank(rank=2).weights(tuned.model))
    )


@pytest.mark.parametrize("model", [MODEL, SCANNED], ids=["unrolled", "scanned"])
def test_a_prefix_is_the_keys_and_values_that_every_token_sees_besides_and_alone_it_trains(model: ModelConfig) -> None:
    way, longer = Prefix(), with_prefix(model, 3)
    base, declared = base_of(model), way.weights(longer)
    assert dict(walk(transformer.weights(way.before(longer)))) == dict(walk(transformer.weights(model)))
    assert {path[-1] for path, _ in walk(declared)} == {"prefix_k", "prefix_v"}
    assert sum(w.size for _, w in walk(declared)) == 2 * 2 * 3 * 8
    trained = transformer.drawn(longer, declared, jax.random.key(1))
    whole = way.merge(longer, trained, base)
    assert jax.tree.structure(whole) == jax.tree.structure(way.join(longer, trained, base))
    assert {p: np.shape(x) for p, x in flatten_dict(whole).items()} == {
        p: w.shape for p, w in walk(transformer.weights(longer))
    }
    found = logits()(longer, whole, TOKENS)
    plain = logits()(model, base, TOKENS)
    assert np.abs(found - plain).max() > 1e-3
    layer, stream = longer.layers[0].mixer, longer.stream
    assert layer.flops(stream, 6) == model.layers[0].mixer.flops(stream, 6) + 4 * 4 * 2 * 6 * 3


def test_attention_behind_a_prefix_is_a_loop_over_its_keys_and_the_texts() -> None:
    """Without rotation a prefix is what longer keys and values would be."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, 4, 2, 3)).astype(np.float32) for _ in range(3))
    own = [rng.normal(size=(2, 2, 3)).astype(np.float32) for _ in range(2)]
    y = attention_after(Lead(jnp.asarray(q), *map(jnp.asarray, own)), *map(jnp.asarray, (q, k, v)), Span(0.5))
    for t, h in np.ndindex(4, 2):
        keys, values = (np.concatenate([a[:, h], b[0, : t + 1, h]]) for a, b in zip(own, (k, v), strict=True))
        share = np.exp(0.5 * keys @ q[0, t, h])
        np.testing.assert_allclose(y[0, t, h], share @ values / share.sum(), rtol=2e-5, atol=1e-6)


def test_a_prefix_run_keeps_its_base_and_leaves_a_model_that_is_scored_as_it_was(tmp_path: Path) -> None:
    base = tiny.trial(tmp_path, train__steps=4, train__checkpoint_every=0).resolved()
    before = tiny.run(tmp_path, [base])[base.id]
    folder = str(trial_directory(tmp_path, base))
    changes = {"model": with_prefix(base.model, 2), "train.trains": Prefix(), "train.init_from": folder}
    tuned = tiny.override(base, changes | {"train.steps": 6}).resolved()
    row = tiny.run(tmp_path, [tuned])[tuned.id]
    params, _ = load_initial(trial_directory(tmp_path, tuned), tuned.model)
    kept, own = flatten_dict(load_params(folder)), flatten_dict(params)
    assert all((own[path] == kept[path]).all() for path in kept)
    assert {path[-1] for path in own.keys() - kept.keys()} == {"prefix_k", "prefix_v"}
    assert row["loss"] != before["loss"] and row["params"] == before["params"] + 2 * 2 * 8
    start = transformer.drawn(tuned.model, Prefix().weights(tuned.model), jax.random.key(0))
    assert all(np.abs(own[path] - x).max() > 1e-3 for path, x in flatten_dict(start).items())
    with pytest.raises(ConfigError, match=r"train\.trains \(Prefix\): trains nothing"):
        Prefix().weights(base.model)


def test_prompt_tokens_are_what_the_model_would_make_of_embeddings_before_the_text() -> None:
    """Without positions the prefix that is made is the longer text itself."""
    model = dataclasses.replace(MODEL, positions="none")
    way, longer = Prompt(), with_prefix(model, 3)
    declared = way.weights(longer)
    assert {path: weight.shape for path, weight in walk(declared)} == {("prompt",): (3, 8)}
    trained = transformer.drawn(longer, declared, jax.random.key(1))
    whole = way.merge(longer, trained, base_of(model))
    found = logits()(longer, whole, TOKENS)

    @partial(jax.jit, compiler_options=QUICK_COMPILE)
    def told(params: Any, prompt: Any) -> jax.Array:
        places = jnp.zeros((1, 9), jnp.int32)
        text = transformer.embed(model, params, TOKENS, places[:, :6])
        x = jnp.concatenate([jnp.broadcast_to(prompt, (4, 3, 8)), text], 1)
        tokens = jnp.zeros((4, 9), jnp.int32)
        hidden, head = transformer.unembed(
            model, params, transformer.run_layers(model, params, x, places, None, tokens)[0]
        )
        return transformer.logits(model, hidden[:, 3:], head)

    np.testing.assert_allclose(found, told(base_of(model), trained["prompt"]), atol=2e-5)
    assert np.abs(found - logits()(model, base_of(model), TOKENS)).max() > 1e-2
    with pytest.raises(ConfigError, match=r"\(Prompt\): needs a prefix of one length in every layer, unscanned"):
        way.weights(with_prefix(SCANNED, 3))
