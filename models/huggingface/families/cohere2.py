"""Command R7B and A (Cohere 2025): Command R with windows, and without positions in every fourth layer."""

from models.huggingface.families import cohere
from models.huggingface.family import Family
from models.huggingface.parts import RotatingWindows
from models.huggingface.rope import Rope

FAMILY = Family(
    "cohere2",
    "Cohere2ForCausalLM",
    names=cohere.NAMES,
    parts=(*cohere.PARTS, Rope(), RotatingWindows()),
    defaults=cohere.DEFAULTS | {
        "rope_theta": 1e4, "sliding_window": 4096, "layer_types": None, "sliding_window_pattern": 4,
    },
    fixed=cohere.FIXED,
    pairs=True,
    whole_heads=True,
)  # fmt: skip
