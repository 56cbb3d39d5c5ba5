"""Gemma (Mesnard et al. 2024): gains of 1 + weight, scaled embeddings that are also the head."""

from models.huggingface.families import llama
from models.huggingface.family import Family
from models.huggingface.parts import RMS, SHAPE, Activation, Biases
from models.huggingface.rope import Rope

DEFAULTS = llama.DEFAULTS | {
    "vocab_size": 256_000, "hidden_size": 3072, "intermediate_size": 24_576, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192, "tie_word_embeddings": True, "attention_bias": False,
}  # fmt: skip
FIXED = {**RMS, "norm_plus_one": True, "scale_embeddings": True}

FAMILY = Family(
    "gemma",
    "GemmaForCausalLM",
    names=llama.NAMES,
    # its older files say "gelu" and mean the tanh approximation
    parts=(*SHAPE, Activation(aliases={"gelu": "gelu_pytorch_tanh"}), Biases(), Rope()),
    defaults=DEFAULTS,
    fixed=FIXED,
)
