"""Command R (Cohere 2024): parallel residuals of one LayerNorm without bias, and scaled logits."""

from models.huggingface.families import llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import KV_HEADS, WIDTHS, Activation, Biases, Same, Scale
from models.huggingface.rope import Rope
from models.wiring import Parallel

NORMS: Names = {"attention_norm/gain": "input_layernorm.weight"}
NAMES = block_names("layers.{}.", NORMS | llama.ATTENTION | llama.MLP, llama.MODEL)
PARTS = (
    *WIDTHS, KV_HEADS, Same("layer_norm_eps", "norm_eps", float), Activation(), Biases(),
    Scale("logit_scale", "logit_scale"),
)  # fmt: skip
DEFAULTS = {
    "vocab_size": 256_000, "hidden_size": 8192, "intermediate_size": 22_528, "num_hidden_layers": 40,
    "num_attention_heads": 64, "num_key_value_heads": None, "hidden_act": "silu", "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-5, "tie_word_embeddings": True, "logit_scale": 0.0625, "attention_bias": False,
}  # fmt: skip
FIXED = {"positions": "rope", "norm": "layernorm", "norm_bias": False, "wiring": Parallel(shared=True)}

FAMILY = Family(
    "cohere",
    "CohereForCausalLM",
    names=NAMES,
    parts=(*PARTS, Rope()),
    defaults=DEFAULTS | {"rope_theta": 5e5},
    before_5={"rope_theta": 1e4},
    fixed=FIXED,
    neutral={"use_qk_norm": (False,)},
    pairs=True,
    whole_heads=True,
)
