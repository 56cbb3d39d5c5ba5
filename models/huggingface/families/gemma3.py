"""Gemma 3 (Kamath et al. 2025), its text model: Gemma 2 with norms on q and k, and a theta for sliding layers."""

from models.huggingface.families import gemma, gemma2
from models.huggingface.family import Family
from models.huggingface.rope import Rope

FAMILY = Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    names=gemma2.NAMES,
    parts=(*gemma2.PARTS, Rope(local=True)),
    defaults=gemma2.DEFAULTS | {
        "vocab_size": 262_208, "max_position_embeddings": 131_072, "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "sliding_window_pattern": 6, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
    },
    fixed={**gemma.FIXED, "post_norms": True, "qk_norm": True},
    neutral={"attn_logit_softcapping": (None,)},  # its attention has no cap, whatever the key says
    divided_heads=True,
)  # fmt: skip
