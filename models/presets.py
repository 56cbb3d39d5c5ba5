"""Named shapes: the bench shapes, the isoFLOP ladder, and families that users know."""

from __future__ import annotations

from models.config import ModelConfig


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


MICRO = gpt2_style(64, 4, 4, 64)  # 0.2M parameters, byte vocabulary
TINY = gpt2_style(128, 4, 4, 256)  # 0.8M
SMALL = gpt2_style(384, 6, 6, 256)  # 10.8M
GPT2 = gpt2_style(768, 12, 12, 1024, vocab_size=50_257)  # 124M

LLAMA_350M = llama_style(1024, 24, 16, 8, 2816, 32_000, rope_theta=1e4)
LLAMA_1B = llama_style(2048, 24, 16, 8, 5632, 32_000, rope_theta=1e4)
LLAMA3_8B = llama_style(4096, 32, 32, 8, 14_336, 128_256)
LLAMA3_70B = llama_style(8192, 80, 64, 8, 28_672, 128_256)


def ladder(d_model: int, n_layers: int = 3, n_heads: int = 2, vocab_size: int = 256) -> ModelConfig:
    """One rung of the isoFLOP ladder: one shape family, only the width changes.

    A fixed depth and number of heads keep the family's behaviour smooth in N; mixing depths at this size puts
    kinks in L(N) that a law cannot follow.
    """
    return ModelConfig(
        vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, n_heads=n_heads, positions="rope", norm="rmsnorm",
        activation="gelu", bias="none", tied_embeddings=True, qk_norm=True,
    )  # fmt: skip
