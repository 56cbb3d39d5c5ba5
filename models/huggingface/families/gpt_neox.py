"""GPT-NeoX (Black et al. 2022), Pythia (Biderman et al. 2023) and RedPajama-INCITE."""

from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import PLAIN, WIDTHS, Activation, ParallelResidual, Same
from models.huggingface.rope import Rope

BLOCK: Names = {
    "attention_norm/gain": "input_layernorm.weight",
    "attention_norm/bias": "input_layernorm.bias",
    "attention/qkv": "attention.query_key_value.weight",
    "attention/qkv_bias": "attention.query_key_value.bias",
    "attention/out": "attention.dense.weight",
    "attention/out_bias": "attention.dense.bias",
    "feedforward_norm/gain": "post_attention_layernorm.weight",
    "feedforward_norm/bias": "post_attention_layernorm.bias",
    "feedforward/up": "mlp.dense_h_to_4h.weight",
    "feedforward/up_bias": "mlp.dense_h_to_4h.bias",
    "feedforward/down": "mlp.dense_4h_to_h.weight",
    "feedforward/down_bias": "mlp.dense_4h_to_h.bias",
}
MODEL: Names = {
    "tokens": "embed_in.weight",
    "final_norm/gain": "final_layer_norm.weight",
    "final_norm/bias": "final_layer_norm.bias",
    "head": "embed_out.weight",
}

FAMILY = Family(
    "gpt_neox",
    "GPTNeoXForCausalLM",
    names=block_names("layers.{}.", BLOCK, MODEL),
    parts=(
        *WIDTHS, Same("layer_norm_eps", "norm_eps", float), Activation(names=PLAIN),
        Rope(theta="rotary_emb_base", partial="rotary_pct"), ParallelResidual(),
    ),
    defaults={
        "vocab_size": 50_432, "hidden_size": 6144, "intermediate_size": 24_576, "num_hidden_layers": 44,
        "num_attention_heads": 64, "hidden_act": "gelu", "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False, "rotary_emb_base": 1e4, "rotary_pct": 0.25, "use_parallel_residual": True,
    },
    fixed={"positions": "rope", "norm": "layernorm", "bias": "all"},
    neutral={"attention_bias": (True,)},
    prefix="gpt_neox.",
    by_head=True,
)  # fmt: skip
