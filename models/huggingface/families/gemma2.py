"""Gemma 2 (Riviere et al. 2024): norms around both halves of a block, soft caps, a window in every other layer."""

from models.huggingface.families import gemma, llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import SHAPE, Activation, Biases, Optional, QueryScale, Windows
from models.huggingface.rope import Rope

NORMS: Names = {
    "attention_norm/gain": "input_layernorm.weight",
    "post_attention_norm/gain": "post_attention_layernorm.weight",
    "feedforward_norm/gain": "pre_feedforward_layernorm.weight",
    "post_feedforward_norm/gain": "post_feedforward_layernorm.weight",
}
NAMES = block_names("layers.{}.", NORMS | llama.ATTENTION | llama.MLP, llama.MODEL)
PARTS = (
    *SHAPE,
    Activation("hidden_activation"),
    Biases(),
    QueryScale(),
    Windows(types=True, pattern="sliding_window_pattern"),
    Optional("final_logit_softcapping", "logit_softcap"),
)
DEFAULTS = {key: value for key, value in gemma.DEFAULTS.items() if key != "hidden_act"} | {
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096,
    "sliding_window_pattern": 2, "layer_types": None,
}  # fmt: skip

FAMILY = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    names=NAMES,
    parts=(*PARTS, Optional("attn_logit_softcapping", "attention_softcap"), Rope()),
    defaults=DEFAULTS,
    fixed={**gemma.FIXED, "post_norms": True},
    divided_heads=True,
)
