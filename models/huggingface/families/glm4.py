"""GLM 4 of 2025: GLM with norms also after attention and after the feed-forward block."""

from models.huggingface.families import glm, llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import RMS

NORMS: Names = {
    "attention_norm/gain": "input_layernorm.weight",
    "post_attention_norm/gain": "post_self_attn_layernorm.weight",
    "feedforward_norm/gain": "post_attention_layernorm.weight",
    "post_feedforward_norm/gain": "post_mlp_layernorm.weight",
}

FAMILY = Family(
    "glm4",
    "Glm4ForCausalLM",
    names=block_names("layers.{}.", NORMS | llama.ATTENTION | glm.MLP, llama.MODEL),
    parts=glm.PARTS,
    defaults=glm.DEFAULTS,
    fixed={**RMS, "post_norms": True},
    pairs=True,
)
