"""Persimmon (Elsen et al. 2023): squared ReLU, biases, and LayerNorms of q and k."""

from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import SQUARED, WIDTHS, Activation, Same
from models.huggingface.rope import Rope

BLOCK: Names = {
    "attention_norm/gain": "input_layernorm.weight",
    "attention_norm/bias": "input_layernorm.bias",
    "attention/qkv": "self_attn.query_key_value.weight",
    "attention/qkv_bias": "self_attn.query_key_value.bias",
    "attention/q_norm/gain": "self_attn.q_layernorm.weight",
    "attention/q_norm/bias": "self_attn.q_layernorm.bias",
    "attention/k_norm/gain": "self_attn.k_layernorm.weight",
    "attention/k_norm/bias": "self_attn.k_layernorm.bias",
    "attention/out": "self_attn.dense.weight",
    "attention/out_bias": "self_attn.dense.bias",
    "feedforward_norm/gain": "post_attention_layernorm.weight",
    "feedforward_norm/bias": "post_attention_layernorm.bias",
    "feedforward/up": "mlp.dense_h_to_4h.weight",
    "feedforward/up_bias": "mlp.dense_h_to_4h.bias",
    "feedforward/down": "mlp.dense_4h_to_h.weight",
    "feedforward/down_bias": "mlp.dense_4h_to_h.bias",
}
MODEL: Names = {
    "tokens": "embed_tokens.weight",
    "final_norm/gain": "final_layernorm.weight",
    "final_norm/bias": "final_layernorm.bias",
    "head": "lm_head.weight",
}

FAMILY = Family(
    "persimmon",
    "PersimmonForCausalLM",
    names=block_names("layers.{}.", BLOCK, MODEL),
    parts=(
        *WIDTHS, Same("layer_norm_eps", "norm_eps", float), Activation(names=SQUARED),
        Rope(partial="partial_rotary_factor"),
    ),
    defaults={
        "vocab_size": 262_144, "hidden_size": 4096, "intermediate_size": 16_384, "num_hidden_layers": 36,
        "num_attention_heads": 64, "hidden_act": "relu2", "max_position_embeddings": 16_384, "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False, "rope_theta": 1e4, "partial_rotary_factor": 0.5,
    },
    before_5={"rope_theta": 25e3},
    fixed={"positions": "rope", "norm": "layernorm", "bias": "all", "qk_norm": True},
    neutral={"qk_layernorm": (True,)},
    by_head=True,
    whole_heads=True,
)  # fmt: skip
