"""Helium (Kyutai 2025): Llama whose heads rotate in pairs."""

from models.huggingface.families import llama
from models.huggingface.family import Family
from models.huggingface.parts import RMS, SHAPE, Activation, QkvBiases
from models.huggingface.rope import Rope

FAMILY = Family(
    "helium",
    "HeliumForCausalLM",
    names=llama.NAMES,
    parts=(*SHAPE, Activation(), QkvBiases(), Rope()),
    defaults=llama.DEFAULTS | {
        "vocab_size": 48_000, "hidden_size": 2560, "intermediate_size": 7040, "num_hidden_layers": 24,
        "num_attention_heads": 20, "num_key_value_heads": 20, "head_dim": 128, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-8, "rope_theta": 1e5, "attention_bias": False,
    },
    fixed=RMS,
    neutral={"mlp_bias": (False,)},
    pairs=True,
    whole_heads=True,
)  # fmt: skip
