"""Named shapes: the bench shapes, the isoFLOP ladder, and families that users know."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from models.config import ModelConfig, MoEConfig, RopeScaling


def gpt2_style(d_model: int, n_layers: int, n_heads: int, seq_len: int, vocab_size: int = 256) -> ModelConfig:
    """LayerNorm, GELU, learned positions, all biases, tied head (Radford et al. 2019)."""
    return ModelConfig(
        vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, n_heads=n_heads, max_seq_len=seq_len,
        positions="learned", norm="layernorm", activation="gelu", bias="all", tied_embeddings=True,
    )  # fmt: skip


def llama_style(
    d_model: int, n_layers: int, n_heads: int, n_kv_heads: int, d_ff: int, vocab_size: int, rope_theta: float = 5e5
) -> ModelConfig:
    """RMSNorm, SwiGLU, rotary positions, grouped queries, no biases, untied head (Touvron et al. 2023)."""
    return ModelConfig(
        vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, d_ff=d_ff,
        rope_theta=rope_theta, positions="rope", norm="rmsnorm", activation="swiglu", bias="none",
        tied_embeddings=False, scan_layers=True, dtype="bfloat16",
    )  # fmt: skip


def qwen_style(
    d_model: int, n_layers: int, n_heads: int, n_kv_heads: int, d_ff: int, bias: Literal["none", "qkv"], **fields: Any
) -> ModelConfig:
    """Llama's blocks with biases on q, k and v (Yang et al. 2024), or with norms on q and k (Yang et al. 2025)."""
    return ModelConfig(
        vocab_size=151_936, d_model=d_model, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, d_ff=d_ff,
        bias=bias, rope_theta=1e6, norm_eps=1e-6, max_seq_len=32_768, tied_embeddings=True, scan_layers=True,
        dtype="bfloat16", **fields,
    )  # fmt: skip


def gemma_style(
    d_model: int, n_layers: int, n_heads: int, n_kv_heads: int, d_ff: int, vocab_size: int = 256_000, **fields: Any
) -> ModelConfig:
    """GeGLU, norms with 1 + gain, scaled embeddings that are also the head, heads of 256 (Mesnard et al. 2024)."""
    return ModelConfig(
        vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=256,
        d_ff=d_ff, activation="geglu", norm_eps=1e-6, norm_plus_one=True, scale_embeddings=True, tied_embeddings=True,
        scan_layers=True, dtype="bfloat16", **fields,
    )  # fmt: skip


MICRO = gpt2_style(64, 4, 4, 64)  # 0.2M parameters, byte vocabulary
TINY = gpt2_style(128, 4, 4, 256)  # 0.8M
SMALL = gpt2_style(384, 6, 6, 256)  # 10.8M
GPT2 = gpt2_style(768, 12, 12, 1024, vocab_size=50_257)  # 124M

LLAMA_350M = llama_style(1024, 24, 16, 8, 2816, 32_000, rope_theta=1e4)
LLAMA_1B = llama_style(2048, 24, 16, 8, 5632, 32_000, rope_theta=1e4)
LLAMA3_8B = llama_style(4096, 32, 32, 8, 14_336, 128_256)
LLAMA3_70B = llama_style(8192, 80, 64, 8, 28_672, 128_256)
MIXTRAL_8X7B = dataclasses.replace(
    llama_style(4096, 32, 32, 8, 14_336, 32_000, rope_theta=1e6), moe=MoEConfig(experts=8, top_k=2, d_ff=14_336)
)
LLAMA32_1B = dataclasses.replace(
    llama_style(2048, 16, 32, 8, 8192, 128_256), tied_embeddings=True, max_seq_len=131_072,
    rope_scaling=RopeScaling("llama3", factor=32.0, original_max_seq_len=8192),
)  # fmt: skip
MISTRAL_7B = dataclasses.replace(
    llama_style(4096, 32, 32, 8, 14_336, 32_000, rope_theta=1e4), sliding_window=4096, max_seq_len=32_768
)
QWEN25_05B = qwen_style(896, 24, 14, 2, 4864, "qkv")
QWEN3_06B = dataclasses.replace(
    qwen_style(1024, 28, 16, 8, 3072, "none", head_dim=128, qk_norm=True), max_seq_len=40_960
)
GEMMA_2B = gemma_style(2048, 18, 8, 1, 16_384, max_seq_len=8192)
GEMMA2_2B = gemma_style(
    2304, 26, 8, 4, 9216, max_seq_len=8192, post_norms=True, query_pre_attn_scalar=256.0, attention_softcap=50.0,
    logit_softcap=30.0, sliding_window=4096, layer_types=("sliding", "full"),
)  # fmt: skip
GEMMA3_1B = gemma_style(
    1152, 26, 4, 1, 6912, vocab_size=262_144, max_seq_len=32_768, post_norms=True, qk_norm=True,
    query_pre_attn_scalar=256.0, sliding_window=512, layer_types=("sliding",) * 5 + ("full",), rope_theta=1e6,
    rope_theta_local=1e4,
)  # fmt: skip


def ladder(d_model: int, n_layers: int = 3, n_heads: int = 2, vocab_size: int = 256) -> ModelConfig:
    """One rung of the isoFLOP ladder: one shape family, only the width changes.

    A fixed depth and number of heads keep the family's behaviour smooth in N; mixing depths at this size puts
    kinks in L(N) that a law cannot follow.
    """
    return ModelConfig(
        vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, n_heads=n_heads, positions="rope", norm="rmsnorm",
        activation="gelu", bias="none", tied_embeddings=True, qk_norm=True,
    )  # fmt: skip
