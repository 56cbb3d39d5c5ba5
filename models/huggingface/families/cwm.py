"""Code World Model (Meta 2025): Llama 3 with windows in three of four layers."""

from models.huggingface.families import llama
from models.huggingface.family import Family
from models.huggingface.parts import RMS, SHAPE, Activation, Windows
from models.huggingface.rope import Rope

FAMILY = Family(
    "cwm",
    "CwmForCausalLM",
    names=llama.NAMES,
    parts=(*SHAPE, Activation(), Windows(types=True, pattern="window_pattern", first_full=True), Rope()),
    defaults=llama.DEFAULTS | {
        "vocab_size": 128_256, "hidden_size": 6144, "intermediate_size": 21_504, "num_hidden_layers": 64,
        "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": 8192, "layer_types": None, "window_pattern": 4,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    fixed=RMS,
    neutral={"attention_bias": (False,), "mlp_bias": (False,)},
    divided_heads=True,
)  # fmt: skip
