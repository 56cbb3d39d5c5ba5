"""Nemotron 4 and Minitron (Parmar et al. 2024): squared ReLU, LayerNorms of 1 + gain, half of each head rotating."""

from models.huggingface.families import llama, stablelm
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import HEAD_DIM, KV_HEADS, SQUARED, WIDTHS, Activation, Biases, Same
from models.huggingface.rope import Rope

MLP: Names = {
    "feedforward/up": "mlp.up_proj.weight",
    "feedforward/up_bias": "mlp.up_proj.bias",
    "feedforward/down": "mlp.down_proj.weight",
    "feedforward/down_bias": "mlp.down_proj.bias",
}

FAMILY = Family(
    "nemotron",
    "NemotronForCausalLM",
    names=block_names("layers.{}.", stablelm.NORMS | llama.ATTENTION | MLP, stablelm.MODEL),
    parts=(
        *WIDTHS, KV_HEADS, HEAD_DIM, Same("norm_eps", "norm_eps", float), Activation(names=SQUARED),
        Biases(mlp="mlp_bias"), Rope(partial="partial_rotary_factor"),
    ),
    defaults=llama.DEFAULTS | {
        "vocab_size": 256_000, "hidden_size": 6144, "intermediate_size": 24_576, "num_attention_heads": 48,
        "hidden_act": "relu2", "max_position_embeddings": 4096, "norm_eps": 1e-5, "attention_bias": False,
        "mlp_bias": False, "partial_rotary_factor": 0.5,
    },
    fixed={"positions": "rope", "norm": "layernorm", "norm_bias": True, "norm_plus_one": True},
)  # fmt: skip
