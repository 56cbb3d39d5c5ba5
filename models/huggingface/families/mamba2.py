"""Mamba-2 (Dao & Gu 2024): layers of one recurrent mixer each, nothing after it."""

from typing import Any

from models.config import ModelConfig
from models.huggingface.family import Family, Names, block_names
from models.huggingface.files import Keys
from models.huggingface.parts import Same
from models.layer import Layer
from models.mixers.mamba2 import Mamba2

NO_LIMIT = float("inf")
SIZES = {"expand": "expand", "head_dim": "head_dim", "state_size": "state", "n_groups": "groups",
         "conv_kernel": "width", "chunk_size": "block"}  # fmt: skip
STEPS = {"time_step_min": "dt_least", "time_step_max": "dt_most", "time_step_floor": "dt_floor"}


class Mixers:
    """The keys of the mixer, which is the same in all layers."""

    def read(self, keys: Keys) -> dict[str, Any]:
        """`pattern`."""
        sizes: dict[str, Any] = {field: keys.get(key, int) for key, field in SIZES.items()}
        steps: dict[str, Any] = {field: keys.number(key) for key, field in STEPS.items()}
        heads, features = keys.get("num_heads", int), sizes["expand"] * keys.get("hidden_size", int)
        if heads * sizes["head_dim"] != features:
            problem = f"is {heads}, but heads of {sizes['head_dim']} make up {features} features"
            raise keys.error("num_heads", problem, "use the config.json of the checkpoint")
        mixer = Mamba2(**sizes, **steps, conv_bias=keys.get("use_conv_bias", bool), dt_limit=_limit(keys))
        return {"pattern": (Layer(mixer, None),), "n_heads": 1}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys, of the first layer."""
        given = config.layers[0].mixer
        mixer = given if isinstance(given, Mamba2) else Mamba2()
        written = {key: getattr(mixer, field) for key, field in (SIZES | STEPS).items()}
        limit = {} if mixer.dt_limit is None else {"time_step_limit": [0.0, mixer.dt_limit]}
        return written | limit | {"num_heads": mixer.heads(config.stream), "use_conv_bias": mixer.conv_bias}


def _limit(keys: Keys) -> float | None:
    """What steps are clipped to; JSON has no infinity, so it comes under its name too."""
    least, most = (float(x["__float__"] if isinstance(x, dict) else x) for x in keys.get("time_step_limit", list))
    if least > 0:
        raise keys.error("time_step_limit", f"begins at {least}", "use a checkpoint whose steps may be as small as 0")
    return None if most == NO_LIMIT else most


MIXER: Names = {
    "mamba_norm/gain": "norm.weight",
    "mamba/zx": "mixer.in_proj.weight",
    "mamba/bc": "mixer.in_proj.weight",
    "mamba/dt": "mixer.in_proj.weight",
    "mamba/conv_x": "mixer.conv1d.weight",
    "mamba/conv_bc": "mixer.conv1d.weight",
    "mamba/conv_x_bias": "mixer.conv1d.bias",
    "mamba/conv_bc_bias": "mixer.conv1d.bias",
    "mamba/decay": "mixer.A_log",
    "mamba/dt_bias": "mixer.dt_bias",
    "mamba/skip": "mixer.D",
    "mamba/gain": "mixer.norm.weight",
    "mamba/out": "mixer.out_proj.weight",
}
MODEL: Names = {"tokens": "embeddings.weight", "final_norm/gain": "norm_f.weight", "head": "lm_head.weight"}
PARTS = (
    Same("vocab_size", "vocab_size"),
    Same("hidden_size", "d_model"),
    Same("num_hidden_layers", "n_layers"),
    Same("layer_norm_epsilon", "norm_eps", float),
    Same("tie_word_embeddings", "tied_embeddings", bool),
    Mixers(),
)
DEFAULTS = {
    "vocab_size": 32_768, "hidden_size": 4096, "num_hidden_layers": 64, "num_heads": 128, "head_dim": 64,
    "state_size": 128, "n_groups": 8, "expand": 2, "conv_kernel": 4, "chunk_size": 256, "layer_norm_epsilon": 1e-5,
    "use_bias": False, "use_conv_bias": True, "hidden_act": "silu", "tie_word_embeddings": False,
    "time_step_min": 0.001, "time_step_max": 0.1, "time_step_floor": 1e-4, "time_step_limit": [0.0, NO_LIMIT],
}  # fmt: skip

FAMILY = Family(
    "mamba2",
    "Mamba2ForCausalLM",
    names=block_names("layers.{}.", MIXER, MODEL),
    parts=PARTS,
    defaults=DEFAULTS,
    fixed={"positions": "none", "norm": "rmsnorm"},
    neutral={"hidden_act": ("silu",), "use_bias": (False,)},
    prefix="backbone.",
)
