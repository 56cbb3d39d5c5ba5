"""GLM 4 9B in its first form (Zeng et al. 2024): half of each head rotates, in pairs; fused gate and up."""

from models.huggingface.families import llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import RMS, SHAPE, Activation, QkvBiases
from models.huggingface.rope import Rope

MLP: Names = {"feedforward/gate_up": "mlp.gate_up_proj.weight", "feedforward/down": "mlp.down_proj.weight"}
PARTS = (*SHAPE, Activation(), QkvBiases(), Rope(partial="partial_rotary_factor"))
DEFAULTS = llama.DEFAULTS | {
    "vocab_size": 151_552, "intermediate_size": 13_696, "num_hidden_layers": 40, "num_key_value_heads": 2,
    "head_dim": 128, "max_position_embeddings": 131_072, "rms_norm_eps": 1.5625e-7, "attention_bias": True,
    "partial_rotary_factor": 0.5,
}  # fmt: skip

FAMILY = Family(
    "glm",
    "GlmForCausalLM",
    names=block_names("layers.{}.", llama.NORMS | llama.ATTENTION | MLP, llama.MODEL),
    parts=PARTS,
    defaults=DEFAULTS,
    fixed=RMS,
    pairs=True,
)
