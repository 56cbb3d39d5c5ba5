"""StableLM (Bellagente et al. 2024): Llama with LayerNorms, a quarter of each head rotating."""

from models.huggingface.families import llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import KV_HEADS, WIDTHS, Activation, ParallelResidual, QkvBiases, Same
from models.huggingface.rope import Rope

NORMS: Names = {
    **llama.NORMS,
    "attention_norm/bias": "input_layernorm.bias",
    "feedforward_norm/bias": "post_attention_layernorm.bias",
}
MODEL: Names = {**llama.MODEL, "final_norm/bias": "norm.bias"}

FAMILY = Family(
    "stablelm",
    "StableLmForCausalLM",
    names=block_names("layers.{}.", NORMS | llama.ATTENTION | llama.MLP, MODEL),
    parts=(
        *WIDTHS, KV_HEADS, Same("layer_norm_eps", "norm_eps", float), Activation(), QkvBiases("use_qkv_bias"),
        Rope(partial="partial_rotary_factor"), ParallelResidual(shared=True),
    ),
    defaults={
        "vocab_size": 50_304, "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_act": "silu", "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5, "tie_word_embeddings": False, "rope_theta": 1e4, "use_qkv_bias": False,
        "use_parallel_residual": False, "partial_rotary_factor": 0.25,
    },
    fixed={"positions": "rope", "norm": "layernorm", "norm_bias": True},
    neutral={"qk_layernorm": (False,)},
    whole_heads=True,
)  # fmt: skip
