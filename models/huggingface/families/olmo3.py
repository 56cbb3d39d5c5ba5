"""OLMo 3 (Team OLMo 2025): OLMo 2 with windows in three of four layers, which are not scaled."""

from typing import Any

from models.config import ModelConfig
from models.huggingface.families import olmo2
from models.huggingface.family import Family
from models.huggingface.files import Keys
from models.huggingface.parts import SHAPE, Activation, Biases, Windows
from models.huggingface.rope import Rope


class Positions:
    """`rope_theta` and `rope_scaling`, of which the sliding layers have the former alone, or `rope_parameters`."""

    def read(self, keys: Keys) -> dict[str, Any]:
        """The rotary fields."""
        theta = keys.data.get("rope_theta", keys.defaults["rope_theta"])
        given = Keys(keys.data, keys.file, {**keys.defaults, "rope_local_base_freq": theta})
        fields = Rope(local=True).read(given)
        same = fields["rope_theta_local"] == fields["rope_theta"] and "rope_scaling" not in fields
        return fields | ({"rope_theta_local": None} if same else {})

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys in both forms: newer releases take another theta for the sliding layers of the older one."""
        written = Rope(local=True).write(config)
        local, scaling = written.pop("rope_local_base_freq"), written.get("rope_scaling", {"rope_type": "default"})
        return written | {"rope_parameters": {
            "full_attention": {"rope_theta": config.rope_theta, **scaling},
            "sliding_attention": {"rope_theta": local, "rope_type": "default"},
        }}  # fmt: skip


FAMILY = Family(
    "olmo3",
    "Olmo3ForCausalLM",
    names=olmo2.NAMES,
    parts=(*SHAPE, Activation(), Biases(), Windows(types=True, pattern="sliding_window_pattern"), Positions()),
    defaults=olmo2.DEFAULTS | {
        "sliding_window": 4096, "layer_types": None, "sliding_window_pattern": 4, "rope_theta": 5e5,
    },
    before_5={"rope_theta": 1e4},
    fixed=olmo2.FIXED,
)  # fmt: skip
