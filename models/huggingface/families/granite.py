"""Granite 3 (IBM 2024): Llama with factors on embeddings, residuals, scores and logits."""

from typing import Any

from models.config import ModelConfig
from models.huggingface.families import llama
from models.huggingface.family import Family
from models.huggingface.files import Keys
from models.huggingface.parts import RMS, SHAPE, Activation, Biases, Scale
from models.huggingface.rope import Rope
from models.mixers.attention import Attention
from models.wiring import PreNorm


class Factors:
    """`residual_multiplier` of what is added to the stream, and `attention_multiplier` of the scores."""

    def read(self, keys: Keys) -> dict[str, Any]:
        """`wiring`, where the first is not 1, and `query_pre_attn_scalar`."""
        residual, scores = keys.number("residual_multiplier"), keys.number("attention_multiplier")
        for key, value in (("residual_multiplier", residual), ("attention_multiplier", scores)):
            if value <= 0:
                raise keys.error(key, f"is {value}", "give a positive number")
        return {"query_pre_attn_scalar": scores**-2} | ({} if residual == 1 else {"wiring": PreNorm(scale=residual)})

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys; the second is the shortest number that gives the scale."""
        wiring = config.wired
        residual = wiring.scale if isinstance(wiring, PreNorm) else 1.0
        scores = float(f"{Attention().scale(config.stream):.12g}")
        return {"residual_multiplier": residual, "attention_multiplier": scores}


PARTS = (
    *SHAPE, Activation(), Rope(), Factors(), Scale("embedding_multiplier", "embedding_scale"),
    Scale("logits_scaling", "logit_scale", inverse=True),
)  # fmt: skip
DEFAULTS = llama.DEFAULTS | {
    "attention_bias": False, "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
}  # fmt: skip

FAMILY = Family(
    "granite",
    "GraniteForCausalLM",
    names=llama.NAMES,
    parts=(*PARTS, Biases(mlp="mlp_bias")),
    defaults=DEFAULTS | {"mlp_bias": False},
    fixed=RMS,
)
