"""StarCoder 2 (Lozhkov et al. 2024): LayerNorm, biases and a plain GELU block with rotary positions."""

from models.huggingface.families import llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import KV_HEADS, PLAIN, WIDTHS, Activation, Same, Windows
from models.huggingface.rope import Rope

BLOCK: Names = {
    **llama.ATTENTION,
    "attention_norm/gain": "input_layernorm.weight",
    "attention_norm/bias": "input_layernorm.bias",
    "feedforward_norm/gain": "post_attention_layernorm.weight",
    "feedforward_norm/bias": "post_attention_layernorm.bias",
    "feedforward/up": "mlp.c_fc.weight",
    "feedforward/up_bias": "mlp.c_fc.bias",
    "feedforward/down": "mlp.c_proj.weight",
    "feedforward/down_bias": "mlp.c_proj.bias",
}
MODEL: Names = {**llama.MODEL, "final_norm/bias": "norm.bias"}

FAMILY = Family(
    "starcoder2",
    "Starcoder2ForCausalLM",
    names=block_names("layers.{}.", BLOCK, MODEL),
    parts=(
        *WIDTHS, KV_HEADS, Same("norm_epsilon", "norm_eps", float), Activation(names=PLAIN), Windows(), Rope(),
    ),
    defaults={
        "vocab_size": 49_152, "hidden_size": 3072, "intermediate_size": 12_288, "num_hidden_layers": 30,
        "num_attention_heads": 24, "num_key_value_heads": 2, "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 4096, "norm_epsilon": 1e-5, "tie_word_embeddings": True, "rope_theta": 1e4,
        "sliding_window": None,
    },
    fixed={"positions": "rope", "norm": "layernorm", "bias": "all"},
    neutral={"use_bias": (True,)},
)  # fmt: skip
