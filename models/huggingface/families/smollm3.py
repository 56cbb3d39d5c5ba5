"""SmolLM 3 (Bakouch et al. 2025): Llama without positions in every fourth layer."""

from typing import Any

from models.config import ModelConfig
from models.huggingface.families import llama
from models.huggingface.family import Family
from models.huggingface.files import Keys
from models.huggingface.parts import RMS, SHAPE, UNROTATED, Activation, Biases, shortest
from models.huggingface.rope import Rope
from models.layer import Layer
from models.mixers.attention import Attention


class RotaryLayers:
    """`no_rope_layers`: 1 for each layer that rotates; without it every `no_rope_layer_interval`-th does not."""

    def read(self, keys: Keys) -> dict[str, Any]:
        """`pattern`, where a layer does not rotate."""
        n, flags = keys.get("num_hidden_layers", int), keys.get("no_rope_layers", list)
        if flags is None:
            every = keys.get("no_rope_layer_interval", int)
            if every < 1:
                raise keys.error("no_rope_layer_interval", f"is {every}", "give a positive integer")
            flags = [(i + 1) % every != 0 for i in range(n)]
        if len(flags) < n:
            raise keys.error("no_rope_layers", f"has {len(flags)} entries for {n} layers", "give one for each layer")
        layers = [Layer() if flag else UNROTATED for flag in flags[:n]]
        return {"pattern": shortest(layers)} if UNROTATED in layers else {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The key."""
        mixers = [layer.mixer for layer in config.layers]
        still = [isinstance(m, Attention) and m.rotary is not None and m.rotary.share == 0 for m in mixers]
        return {"no_rope_layers": [int(not without) for without in still]}


FAMILY = Family(
    "smollm3",
    "SmolLM3ForCausalLM",
    names=llama.NAMES,
    parts=(*SHAPE, Activation(), Biases(mlp="mlp_bias"), Rope(), RotaryLayers()),
    defaults=llama.DEFAULTS | {
        "vocab_size": 128_256, "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 4, "max_position_embeddings": 32_768, "rope_theta": 2e6, "tie_word_embeddings": True,
        "attention_bias": False, "mlp_bias": False, "no_rope_layers": None, "no_rope_layer_interval": 4,
    },
    fixed=RMS,
    neutral={"use_sliding_window": (False,)},
)  # fmt: skip
