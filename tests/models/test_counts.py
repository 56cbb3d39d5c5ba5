"""Counts derived from the declarations equal a walk over the jaxpr of the real loss and its gradient."""

from __future__ import annotations

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import causal_attention, counts, past, presets, transformer
from models.config import ModelConfig
from tests.models.jaxprs import jaxpr_flops

SEQ = 6


def flops_of(f, *args) -> int:
    return jaxpr_flops(jax.make_jaxpr(f)(*args).jaxpr)


def plain_attention(q, k, v, span, segments=None):
    """Dense scores with a mask: the oracle that computes all seq^2 pairs; [B,T,H,K], [B,T,G,K] x 2 -> [B,T,H,K]."""
    group = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    scores = jnp.einsum("bthk,bshk->bhts", q, k) * span.scale
    mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(jnp.where(mask, scores, -1e30)), v)


def plain_cross_entropy(hidden, head, targets, weights, *, softcap=None):
    """Whole logits at once, differentiated by JAX."""
    log_prob = jax.nn.log_softmax(hidden @ head)
    loss = -jnp.take_along_axis(log_prob, targets[..., None], -1)[..., 0]
    return (loss * weights).sum(), weights.sum()


@contextlib.contextmanager
def plain_kernels():
    """The model with products that JAX differentiates itself and attention over all seq^2 pairs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(past, "causal_attention", plain_attention)
        patch.setattr(transformer, "cross_entropy", plain_cross_entropy)
        yield


def abstract(config: ModelConfig, batch: int, seq_len: int = SEQ):
    params = jax.eval_shape(lambda: transformer.init(config, jax.random.key(0)))
    return params, jax.ShapeDtypeStruct((batch, seq_len + 1), jnp.int32)


def walked(config: ModelConfig, batch: int = 1, seq_len: int = SEQ, kernels=plain_kernels) -> tuple[int, int]:
    """(forward, forward + backward) FLOPs of the loss by the jaxpr walk."""
    params, tokens = abstract(config, batch, seq_len)

    def mean_loss(params, tokens):
        total, weight = transformer.loss(config, params, tokens)
        return total / weight

    with kernels():
        return flops_of(mean_loss, params, tokens), flops_of(jax.grad(mean_loss), params, tokens)


@st.composite
def configs(draw) -> ModelConfig:
    """Small models of every kind: grouped queries, own head_dim, gated or not, tied or not, scanned or not."""
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return ModelConfig(
        vocab_size=draw(st.integers(5, 40)),
        d_model=draw(st.integers(3, 20)),
        n_layers=draw(st.integers(1, 3)),
        n_heads=kv_heads * group,
        n_kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 5)),
        d_ff=draw(st.one_of(st.none(), st.integers(3, 20))),
        max_seq_len=SEQ + draw(st.integers(0, 3)),
        positions=draw(st.sampled_from(["rope", "learned", "none"])),
        norm=draw(st.sampled_from(["rmsnorm", "layernorm"])),
        activation=draw(st.sampled_from(["swiglu", "geglu", "gelu", "gelu_exact"])),
        bias=draw(st.sampled_from(["none", "qkv", "attention", "all"])),
        post_norms=draw(st.booleans()),
        sliding_window=draw(st.one_of(st.none(), st.integers(1, 2 * SEQ))),
        layer_types=draw(st.sampled_from([("sliding",), ("sliding", "full"), ("full", "full", "sliding")])),
        attention_softcap=draw(st.sampled_from([None, 5.0])),
        logit_softcap=draw(st.sampled_from([None, 5.0])),
        tied_embeddings=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        scan_layers=draw(st.booleans()),
    )


@pytest.mark.slow
@settings(max_examples=15)
@given(configs(), st.integers(1, 3), st.integers(1, SEQ))
def test_flops_equal_the_jaxpr_of_the_loss_and_its_gradient(config, batch, seq_len):
    forward, train = walked(config, batch, seq_len)
    assert forward == batch * counts.forward_flops(config, seq_len, causal=False)
    assert train == counts.train_flops(config, batch * seq_len, seq_len, causal=False)


@settings(max_examples=20)
@given(configs())
def test_params_equal_the_sizes_of_the_initialised_arrays(config):
    arrays, _ = abstract(config, 1)
    tables = [arrays[name] for name in ("tokens", "positions", "head") if name in arrays]
    total = sum(x.size for x in jax.tree.leaves(arrays))
    assert counts.params(config) == counts.params_active(config) == total
    assert counts.params_nonembed(config) == total - sum(x.size for x in tables)
    assert counts.param_bytes(config) == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))


@pytest.mark.parametrize("tied", [True, False])
def test_scanned_and_unrolled_layers_count_the_same(tied):
    unrolled = dataclasses.replace(presets.MICRO, n_kv_heads=2, tied_embeddings=tied)
    scanned = dataclasses.replace(unrolled, scan_layers=True)
    assert walked(scanned) == walked(unrolled)
    for count in (counts.params, counts.params_nonembed, counts.optimizer_bytes, counts.kv_cache_bytes_per_token):
        assert count(scanned) == count(unrolled)
    assert counts.train_flops(scanned, 64, 8) == counts.train_flops(unrolled, 64, 8)


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_rematerialisation_adds_exactly_what_remat_flops_says(remat, activation, scan_layers):
    config = ModelConfig(d_model=12, n_layers=3, n_heads=2, activation=activation, remat=remat, scan_layers=scan_layers)
    added = walked(config)[1] - counts.train_flops(config, SEQ, SEQ, causal=False)
    assert added == counts.remat_flops(config, SEQ, SEQ, causal=False)


@pytest.mark.parametrize("seq_len", [100, 300])
def test_the_shipped_kernels_add_only_what_their_blocks_and_their_recomputed_scores_say(seq_len):
    """Blocks see a triangle of blocks instead of the square, and the backward pass repeats one of two products."""
    config = ModelConfig(d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, scan_layers=True)
    forward, train = walked(config, 1, seq_len, kernels=contextlib.nullcontext)
    per_pair = counts.attention_flops(config, 1)
    attention_flops = per_pair * sum((stop - start) * stop for start, stop in causal_attention.blocks(seq_len))
    rest = counts.forward_flops(config, seq_len) - counts.attention_flops(config, seq_len)
    assert forward == rest + attention_flops
    assert train == 3 * rest + 3 * attention_flops + attention_flops // 2
    assert counts.attention_flops(config, seq_len) <= attention_flops <= counts.attention_flops(config, seq_len, False)


def test_causal_attention_counts_each_visible_pair_once():
    config = ModelConfig(d_model=16, n_layers=2, n_heads=2)
    pairs = sum(1 for query in range(SEQ) for key in range(SEQ) if key <= query)
    one_pair = counts.attention_flops(config, 1)
    assert counts.attention_flops(config, SEQ) == pairs * one_pair
    assert counts.attention_flops(config, SEQ, causal=False) == SEQ**2 * one_pair


@pytest.mark.parametrize("window", [1, 4, SEQ, 3 * SEQ])
def test_a_layer_with_a_window_counts_the_pairs_inside_it_and_the_others_all(window):
    config = ModelConfig(d_model=16, n_layers=3, n_heads=2, sliding_window=window, layer_types=("sliding", "full"))
    causal = [(query, key) for query in range(SEQ) for key in range(query + 1)]
    inside = [(query, key) for query, key in causal if query - key < window]
    one_pair = counts.attention_flops(dataclasses.replace(config, n_layers=1), 1)
    assert counts.attention_flops(config, SEQ) == one_pair * (2 * len(inside) + len(causal))
    assert counts.attention_flops(config, SEQ, causal=False) == one_pair * 3 * SEQ**2
    assert counts.train_flops(config, 5 * SEQ, SEQ) == 15 * counts.forward_flops(config, SEQ)


def test_the_shipped_kernel_reads_no_keys_that_a_whole_block_has_left_behind():
    config = ModelConfig(d_model=16, n_layers=2, n_heads=4, sliding_window=40, layer_types=("sliding", "full"))
    forward, _ = walked(config, 1, 300, kernels=contextlib.nullcontext)
    full = sum((stop - start) * stop for start, stop in causal_attention.blocks(300))
    windowed = sum((stop - start) * (stop - max(0, start - 39)) for start, stop in causal_attention.blocks(300))
    one_pair = counts.attention_flops(dataclasses.replace(config, n_layers=1), 1)
    rest = counts.forward_flops(config, 300) - counts.attention_flops(config, 300)
    assert forward == rest + one_pair * (full + windowed)
    assert counts.attention_flops(config, 300) <= one_pair * (full + windowed)


@settings(max_examples=20)
@given(configs(), st.integers(1, 40))
def test_decoding_token_by_token_costs_as_much_as_one_causal_forward_pass(config, seq_len):
    forward = counts.forward_flops(config, seq_len)
    assert sum(counts.decode_flops(config, t) for t in range(1, seq_len + 1)) == forward
    assert counts.prefill_flops(config, seq_len, scored=seq_len) == forward


def test_train_flops_are_additive_in_tokens_that_do_not_fill_a_sequence():
    config = presets.TINY
    whole = counts.train_flops(config, 256, 256)
    assert whole == 3 * counts.forward_flops(config, 256)
    assert counts.train_flops(config, 100, 256) + counts.train_flops(config, 156, 256) == whole


@pytest.mark.parametrize(
    ("config", "params", "nonembed"),
    [
        (presets.GPT2, 124_439_808, 85_056_000),  # OpenAI's 124M: 50,257 x 768 + 1,024 x 768 of it are tables
        (presets.LLAMA3_8B, 8_030_261_248, 6_979_588_096),  # Meta's 8.03B; two tables of 128,256 x 4,096
        (presets.LLAMA3_70B, 70_553_706_496, 68_452_360_192),
        (presets.LLAMA32_1B, 1_235_814_400, 973_146_112),
        (presets.MISTRAL_7B, 7_241_732_096, 6_979_588_096),
        (presets.QWEN25_05B, 494_032_768, 357_898_112),
        (presets.QWEN3_06B, 596_049_920, 440_467_456),
        (presets.GEMMA_2B, 2_506_172_416, 1_981_884_416),
        (presets.GEMMA2_2B, 2_614_341_888, 2_024_517_888),
        (presets.GEMMA3_1B, 999_885_952, 697_896_064),
    ],
)
def test_published_models_have_their_published_size(config, params, nonembed):
    assert (counts.params(config), counts.params_nonembed(config)) == (params, nonembed)
    assert counts.flops_per_token_6n(config) == 6 * params


def test_bench_shapes_have_the_size_of_the_torch_baseline():
    assert [counts.params(c) for c in (presets.MICRO, presets.TINY, presets.SMALL)] == [220_544, 858_880, 10_844_160]


def test_bytes_follow_dtypes_and_optimizer():
    config = ModelConfig(d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, param_dtype="bfloat16", dtype="bfloat16")
    n = counts.params(config)
    hidden = counts.params_nonembed(config) - 5 * 16  # all but the gains of five norms
    assert counts.param_bytes(config) == counts.gradient_bytes(config) == 2 * n
    assert counts.optimizer_bytes(config) == 8 * n
    assert counts.optimizer_bytes(config, "muon") == 8 * n - 4 * hidden
    assert counts.kv_cache_bytes_per_token(config) == 2 * 2 * 2 * 4 * 2  # k and v, layers, heads, head_dim, bytes
    assert counts.kv_cache_bytes_per_token(config, quantized=True) == 2 * 2 * 2 * (4 * 1 + 4)  # and a scale per head


def test_the_walk_multiplies_scans_takes_the_worst_branch_and_refuses_unknown_lengths():
    x = jnp.ones((3, 3))
    product = 2 * 27

    def scanned(x):
        return jax.lax.scan(lambda c, _: (jax.jit(jnp.dot)(c, c), None), x, None, length=7)[0]

    assert flops_of(scanned, x) == 7 * product
    assert flops_of(lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y @ y, x), x) == 2 * product
    with pytest.raises(NotImplementedError, match="while"):
        flops_of(lambda x: jax.lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y @ y, x), x)
