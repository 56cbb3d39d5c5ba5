"""Ministral (Mistral 2024): Mistral that says for each layer whether it has a window."""

from models.huggingface.families import llama, mistral
from models.huggingface.family import Family
from models.huggingface.parts import RMS, SHAPE, Activation, Windows
from models.huggingface.rope import Rope

FAMILY = Family(
    "ministral",
    "MinistralForCausalLM",
    names=llama.NAMES,
    parts=(*SHAPE, Activation(), Windows(types=True), Rope()),
    defaults={**mistral.FAMILY.defaults, "layer_types": None},
    fixed=RMS,
)
