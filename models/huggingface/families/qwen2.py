"""Qwen 1.5, 2 and 2.5 (Yang et al. 2024): Llama with biases on q, k and v, and windows in the upper layers."""

from models.huggingface.families import llama
from models.huggingface.family import Family
from models.huggingface.parts import RMS, SHAPE, Activation, Windows
from models.huggingface.rope import Rope

WINDOWS = Windows(switch="use_sliding_window", types=True, leading="max_window_layers")
DEFAULTS = llama.DEFAULTS | {
    "vocab_size": 151_936, "intermediate_size": 22_016, "num_key_value_heads": 32, "max_position_embeddings": 32_768,
    "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "layer_types": None,
}  # fmt: skip

FAMILY = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    names=llama.NAMES,
    parts=(*SHAPE, Activation(), WINDOWS, Rope()),
    defaults=DEFAULTS,
    fixed={**RMS, "bias": "qkv"},
)
