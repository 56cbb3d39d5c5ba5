"""Falcon 7B and RW (Almazrouei et al. 2023): parallel residuals of one norm, one head of keys and values."""

from typing import Any

from models.config import ModelConfig
from models.huggingface.family import Family, Names, block_names
from models.huggingface.files import Keys
from models.huggingface.parts import PLAIN, Activation, Biases, ParallelResidual, Same
from models.huggingface.rope import Rope


class Widths:
    """`ffn_hidden_size`, null for four times the model's, and `multi_query`: one head of keys and values, or all."""

    def read(self, keys: Keys) -> dict[str, Any]:
        """`d_ff` and `n_kv_heads`."""
        width, several = keys.get("ffn_hidden_size", int), not keys.get("multi_query", bool)
        heads = keys.get("num_attention_heads", int)
        return {"d_ff": width or 4 * keys.get("hidden_size", int), "n_kv_heads": heads if several else 1}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys."""
        return {"ffn_hidden_size": config.d_ff, "multi_query": config.n_kv_heads == 1}


BLOCK: Names = {
    "attention_norm/gain": "input_layernorm.weight",
    "attention_norm/bias": "input_layernorm.bias",
    "attention/qkv": "self_attention.query_key_value.weight",
    "attention/qkv_bias": "self_attention.query_key_value.bias",
    "attention/out": "self_attention.dense.weight",
    "attention/out_bias": "self_attention.dense.bias",
    "feedforward_norm/gain": "post_attention_layernorm.weight",
    "feedforward_norm/bias": "post_attention_layernorm.bias",
    "feedforward/up": "mlp.dense_h_to_4h.weight",
    "feedforward/up_bias": "mlp.dense_h_to_4h.bias",
    "feedforward/down": "mlp.dense_4h_to_h.weight",
    "feedforward/down_bias": "mlp.dense_4h_to_h.bias",
}
MODEL: Names = {
    "tokens": "word_embeddings.weight",
    "final_norm/gain": "ln_f.weight",
    "final_norm/bias": "ln_f.bias",
    "head": "lm_head.weight",
}

FAMILY = Family(
    "falcon",
    "FalconForCausalLM",
    names=block_names("h.{}.", BLOCK, MODEL),
    parts=(
        Same("vocab_size", "vocab_size"), Same("hidden_size", "d_model"), Same("num_hidden_layers", "n_layers"),
        Same("num_attention_heads", "n_heads"), Widths(), Same("max_position_embeddings", "max_seq_len"),
        Same("layer_norm_epsilon", "norm_eps", float), Same("tie_word_embeddings", "tied_embeddings", bool),
        Activation("activation", PLAIN), Biases("bias", "bias"), ParallelResidual("parallel_attn", shared=True), Rope(),
    ),
    defaults={
        "vocab_size": 65_024, "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
        "ffn_hidden_size": None, "multi_query": True, "max_position_embeddings": 2048, "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True, "activation": "gelu", "bias": False, "parallel_attn": True, "rope_theta": 1e4,
    },
    fixed={"positions": "rope", "norm": "layernorm", "norm_bias": True},
    neutral={"new_decoder_architecture": (False,), "alibi": (False,), "num_ln_in_parallel_attn": (None, 1)},
    aliases={"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_embed": "hidden_size"},
    prefix="transformer.",
    by_head=True,
    whole_heads=True,
)  # fmt: skip
