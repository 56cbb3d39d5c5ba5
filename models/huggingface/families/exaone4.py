"""EXAONE 4 (Bae et al. 2025): norms of the results and of q and k; windows, and full layers without positions."""

from models.huggingface.families import llama, olmo2
from models.huggingface.family import Family
from models.huggingface.parts import RMS, SHAPE, Activation, RotatingWindows
from models.huggingface.rope import Rope
from models.wiring import PreNorm

FAMILY = Family(
    "exaone4",
    "Exaone4ForCausalLM",
    names=olmo2.NAMES,
    parts=(*SHAPE, Activation(), Rope(), RotatingWindows()),
    defaults=llama.DEFAULTS | {
        "vocab_size": 102_400, "intermediate_size": 16_384, "num_key_value_heads": 32, "rms_norm_eps": 1e-5,
        "sliding_window": 4096, "layer_types": None, "sliding_window_pattern": 4,
    },
    fixed={**RMS, "wiring": PreNorm(before=False, after=True), "qk_norm": True},
)  # fmt: skip
