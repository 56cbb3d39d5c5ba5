"""Phi 3, 3.5 and 4 (Abdin et al. 2024): Llama with fused q, k, v and gate, up; longrope scaling is missing here."""

from models.huggingface.families import llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import KV_HEADS, RMS, RMS_EPS, WIDTHS, Activation, Windows
from models.huggingface.rope import Rope

BLOCK: Names = {
    **llama.NORMS,
    "attention/qkv": "self_attn.qkv_proj.weight",
    "attention/out": "self_attn.o_proj.weight",
    "feedforward/gate_up": "mlp.gate_up_proj.weight",
    "feedforward/down": "mlp.down_proj.weight",
}

FAMILY = Family(
    "phi3",
    "Phi3ForCausalLM",
    names=block_names("layers.{}.", BLOCK, llama.MODEL),
    parts=(
        *WIDTHS, KV_HEADS, RMS_EPS, Activation(), Windows(), Rope(partial="partial_rotary_factor", scaled=False),
    ),
    defaults=llama.DEFAULTS | {
        "vocab_size": 32_064, "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "sliding_window": None, "partial_rotary_factor": 1.0,
    },
    fixed=RMS,
)  # fmt: skip
