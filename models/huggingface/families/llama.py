"""Llama 2 and 3 (Touvron et al. 2023, Dubey et al. 2024), and the many models of its shape."""

from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import RMS, SHAPE, Activation, Biases
from models.huggingface.rope import Rope

ATTENTION: Names = {
    "attention/qkv": tuple(f"self_attn.{x}_proj.weight" for x in "qkv"),
    "attention/qkv_bias": tuple(f"self_attn.{x}_proj.bias" for x in "qkv"),
    "attention/out": "self_attn.o_proj.weight",
    "attention/out_bias": "self_attn.o_proj.bias",
    "attention/q_norm/gain": "self_attn.q_norm.weight",
    "attention/k_norm/gain": "self_attn.k_norm.weight",
}
MLP: Names = {
    "feedforward/gate_up": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "feedforward/gate_up_bias": ("mlp.gate_proj.bias", "mlp.up_proj.bias"),
    "feedforward/down": "mlp.down_proj.weight",
    "feedforward/down_bias": "mlp.down_proj.bias",
}
NORMS: Names = {
    "attention_norm/gain": "input_layernorm.weight",
    "feedforward_norm/gain": "post_attention_layernorm.weight",
}
MODEL: Names = {"tokens": "embed_tokens.weight", "final_norm/gain": "norm.weight", "head": "lm_head.weight"}
NAMES = block_names("layers.{}.", NORMS | ATTENTION | MLP, MODEL)

DEFAULTS = {
    "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu",
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 1e4,
}  # fmt: skip

FAMILY = Family(
    "llama",
    "LlamaForCausalLM",
    names=NAMES,
    parts=(*SHAPE, Activation(), Biases(mlp="mlp_bias"), Rope()),
    defaults=DEFAULTS | {"attention_bias": False, "mlp_bias": False},
    fixed=RMS,
    divided_heads=True,
)
