"""VaultGemma (Sinha et al. 2025): Gemma 2 without the norms after attention and feed-forward."""

from models.huggingface.families import gemma, gemma2, llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import Optional
from models.huggingface.rope import Rope

NORMS: Names = {
    "attention_norm/gain": "input_layernorm.weight",
    "feedforward_norm/gain": "pre_feedforward_layernorm.weight",
}

FAMILY = Family(
    "vaultgemma",
    "VaultGemmaForCausalLM",
    names=block_names("layers.{}.", NORMS | llama.ATTENTION | llama.MLP, llama.MODEL),
    parts=(*gemma2.PARTS, Optional("attn_logit_softcapping", "attention_softcap"), Rope()),
    defaults=gemma2.DEFAULTS,
    fixed=gemma.FIXED,
    divided_heads=True,
)
