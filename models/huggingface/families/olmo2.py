"""OLMo 2 (Walsh et al. 2025): norms of the results alone, and of all heads of q and k together."""

from models.huggingface.families import llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import RMS, SHAPE, Activation, Biases
from models.huggingface.rope import Rope
from models.wiring import PreNorm

NORMS: Names = {
    "post_attention_norm/gain": "post_attention_layernorm.weight",
    "post_feedforward_norm/gain": "post_feedforward_layernorm.weight",
}
NAMES = block_names("layers.{}.", NORMS | llama.ATTENTION | llama.MLP, llama.MODEL)
DEFAULTS = llama.DEFAULTS | {"vocab_size": 50_304, "rms_norm_eps": 1e-5, "attention_bias": False}
FIXED = {**RMS, "wiring": PreNorm(before=False, after=True), "qk_norm": True, "qk_norm_over": "all"}

FAMILY = Family(
    "olmo2",
    "Olmo2ForCausalLM",
    names=NAMES,
    parts=(*SHAPE, Activation(), Biases(), Rope()),
    defaults=DEFAULTS,
    fixed=FIXED,
)
