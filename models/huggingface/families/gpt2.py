"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, biases, matrices as `[in, out]`."""

from typing import Any

from models.config import ModelConfig
from models.huggingface.family import Family, Names, block_names
from models.huggingface.files import Keys
from models.huggingface.parts import PLAIN, Activation, Same


class FeedForwardWidth:
    """`n_inner`: the feed-forward width, null for four times the model's."""

    def read(self, keys: Keys) -> dict[str, Any]:
        """`d_ff`."""
        return {"d_ff": keys.get("n_inner", int) or 4 * keys.get("n_embd", int)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The key."""
        return {"n_inner": config.d_ff}


BLOCK: Names = {
    "attention_norm/gain": "ln_1.weight",
    "attention_norm/bias": "ln_1.bias",
    "attention/qkv": "attn.c_attn.weight",
    "attention/qkv_bias": "attn.c_attn.bias",
    "attention/out": "attn.c_proj.weight",
    "attention/out_bias": "attn.c_proj.bias",
    "feedforward_norm/gain": "ln_2.weight",
    "feedforward_norm/bias": "ln_2.bias",
    "feedforward/up": "mlp.c_fc.weight",
    "feedforward/up_bias": "mlp.c_fc.bias",
    "feedforward/down": "mlp.c_proj.weight",
    "feedforward/down_bias": "mlp.c_proj.bias",
}
MODEL: Names = {
    "tokens": "wte.weight",
    "positions": "wpe.weight",
    "final_norm/gain": "ln_f.weight",
    "final_norm/bias": "ln_f.bias",
    "head": "lm_head.weight",
}
NAMES = block_names("h.{}.", BLOCK, MODEL)
PARTS = (
    Same("vocab_size", "vocab_size"),
    Same("n_embd", "d_model"),
    Same("n_layer", "n_layers"),
    Same("n_head", "n_heads"),
    FeedForwardWidth(),
    Same("n_positions", "max_seq_len"),
    Same("layer_norm_epsilon", "norm_eps", float),
    Same("tie_word_embeddings", "tied_embeddings", bool),
    Activation("activation_function", PLAIN),
)
DEFAULTS = {
    "vocab_size": 50_257, "n_embd": 768, "n_layer": 12, "n_head": 12,
    "n_positions": 1024, "n_inner": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}  # fmt: skip
FIXED = {"positions": "learned", "norm": "layernorm", "bias": "all"}

FAMILY = Family(
    "gpt2",
    "GPT2LMHeadModel",
    names=NAMES,
    parts=PARTS,
    defaults=DEFAULTS,
    fixed=FIXED,
    neutral={
        "add_cross_attention": (False,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
    },
    prefix="transformer.",
    linear=False,
)
