"""A small model around every part of the catalogue; tests/models/test_parts.py says what each promises."""

from __future__ import annotations

import dataclasses
import typing

from models.channels import Channel, Dense, Experts, ProductKeys, Ternary
from models.channels.free import Free
from models.config import Layer, ModelConfig
from models.mixers import (
    MLGRU,
    MLSTM,
    RWKV7,
    Attention,
    ChunkExperts,
    Cross,
    Delta,
    Factored,
    GatedMemory,
    HeadSpans,
    Latent,
    Linear,
    Mamba2,
    Mixer,
    Prefixed,
    ShiftedWindows,
    Sinks,
    Streamed,
    ThirdOrder,
)  # fmt: skip
from models.rotary import Rotary
from models.routers import Grouped, Hashed, TopK
from models.wiring import DeepNorm, Ladder, Parallel, PreNorm, Shared, Streams, Wiring

BASE = ModelConfig(
    vocab_size=32, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24, tied_embeddings=False, head_dim=8
)
LATENT = Latent(rank=8, query_rank=12, key_dim=4, rotary_dim=4, value_dim=8, rotary=Rotary(interleaved=True))
BIASED = Experts(
    4, 2, 8, shared=1, dispatch="dropless", score="sigmoid", scale=1.5, groups=2, top_groups=1, group_score="top2",
    bias_rate=1e-3, shared_gate=True, balance_coefficient=0.0,
)  # fmt: skip
SOFT = 1e-2  # norm_eps where results are tiny at the start: their norm multiplies rounding by up to eps^-1/2
MAMBA = Mamba2(head_dim=8, state=4, block=8)


def of(*layers: Layer, **fields: typing.Any) -> ModelConfig:
    """The base model with these layers as its pattern, each once."""
    fields.setdefault("n_layers", len(layers))
    return dataclasses.replace(BASE, pattern=layers, **fields)


PARTS: dict[str, ModelConfig] = {
    "attention": BASE,
    "windows": of(
        Layer(Attention(window=5)),
        Layer(Attention(qk_norm=True, softcap=5.0, rotary=Rotary(share=0.5), gated=True)),
    ),
    "head_spans": of(
        Layer(HeadSpans(kv_heads=4, heads=4, windows=(5, 9, 5, 64))), Layer(HeadSpans(windows=(3, 64)), None),
        Layer(ShiftedWindows(window=6), None),
    ),
    "latent": of(Layer(LATENT), Layer(dataclasses.replace(LATENT, query_rank=None))),
    "experts": of(
        Layer(Sinks(window=5), Experts(4, 2, 8, dispatch="dropless", router=TopK(offset=True))), bias="all",
        activation="swiglu_clipped",
    ),
    "biased_experts": of(Layer(LATENT, BIASED), prologue=(Layer(LATENT, Dense(16)),), n_layers=2),
    "routers": of(
        Layer(Attention(), Experts(4, 2, 8, dispatch="dropless", router=Grouped(2), bottleneck=6)),
        Layer(Attention(), Experts(4, 2, 8, dispatch="dropless", free=Free(1, 1, 1))),
        Layer(channel=Experts(4, 2, 8, dispatch="dropless", router=Hashed())),
    ),
    "normed_results": of(Layer(channel=Dense(20, "relu2")), wiring=PreNorm(before=False, after=True)),
    "parallel": of(Layer(channel=Dense(20, "gelu")), wiring=Parallel(), norm="layernorm", bias="all"),
    "parallel_shared": of(
        Layer(Attention(window=5)), Layer(Attention(rotary=Rotary(share=0.0))), wiring=Parallel(shared=True),
        norm="layernorm", norm_bias=False, logit_scale=0.25, embedding_scale=3.0,
    ),
    "normed_together": of(Layer(Attention(qk_norm=True, qk_norm_over="all")), wiring=PreNorm(scale=0.5)),
    "ladder": of(Layer(Attention(window=5)), Layer(channel=None), wiring=Ladder()),
    "streams": of(Layer(Streamed(streams=3, prefix=4)), Layer(Streamed(streams=3, prefix=0), None), wiring=Streams(3)),
    "mamba2": of(Layer(MAMBA, None)),
    "hybrid": of(Layer(dataclasses.replace(MAMBA, groups=2, conv_bias=False)), Layer()),
    "linear": of(Layer(Linear(features=3, block=8)), Layer(Attention(window=3))),
    "factored": of(Layer(Factored(query_rank=6)), Layer(Factored(query_rank=6, heads=4, kv_heads=2, qk_norm=True))),
    "third_order": of(Layer(ThirdOrder(features=3, block=8))),
    "delta": of(
        Layer(Delta(key_heads=2, value_heads=4, key_dim=4, value_dim=6, block=8), None),
        Layer(Delta(key_dim=4, negative=True, decay="channel", block=8)),
        norm_eps=SOFT,
    ),
    "mlstm": of(Layer(MLGRU(least=0.1, block=8), Ternary(20)), Layer(MLSTM(value_dim=6, block=8)), norm_eps=SOFT),
    "no_channel": of(
        Layer(Prefixed(prefix=3), None), Layer(RWKV7(head_dim=4, block=8), Dense(20, "relu2")), wiring=DeepNorm(),
        embedding_gradient=0.1,
    ),
    "shared": of(
        Layer(MAMBA, None), Layer(Attention(qk_norm=True), None), Layer(GatedMemory(), None),
        Layer(Cross(qk_norm=True), None),
        wiring=Shared(), norm_eps=SOFT,
    ),
    "hydra": of(
        Layer(ChunkExperts(Experts(4, 2, 8, dispatch="dropless"), chunk=8), None),
        Layer(Attention(window=5), ProductKeys(keys=4, top_k=2, half=6)),
    ),
}  # fmt: skip


def members(union: typing.Any) -> set[type]:
    """The classes of a union."""
    return set(typing.get_args(union)) or {union}


def covered() -> tuple[set[type], set[type]]:
    """(parts of the catalogue, parts in a model above)."""
    here: set[type] = set()
    for config in PARTS.values():
        here |= {type(part) for layer in config.layers for part in layer.parts} | {type(config.wired)}
    return members(Mixer) | members(Channel) | members(Wiring), here


def firsts() -> dict[str, ModelConfig]:
    """The first model of each part, whole where its wiring is new and otherwise of its first layer alone.

    For what the layers' stacking decides and no setting of a part: scans and stages.
    """
    found: dict[str, ModelConfig] = {}
    seen: set[type] = set()
    for name, config in PARTS.items():
        here = {type(part) for layer in config.layers for part in layer.parts} | {type(config.wired)}
        if here - seen:
            layers = config.period[: None if type(config.wired) not in seen else 1]
            found[name] = dataclasses.replace(config, pattern=layers, n_layers=len(layers))
        seen |= here
    return found
