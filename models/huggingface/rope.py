"""The part of a config.json that says how positions rotate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from models.config import ModelConfig, RopeScaling
from models.huggingface.files import Json, Keys
from models.huggingface.parts import LAYER_TYPES


@dataclass(frozen=True)
class Rope:
    """`rope_theta` and `rope_scaling`, or the newer `rope_parameters`.

    local: the family has a theta of its own for sliding layers, `rope_local_base_freq`. theta, partial: the keys of the
    base and of the share of each head that rotates (None: all of it). scaled: the family knows scaling.
    """

    local: bool = False
    theta: str = "rope_theta"
    partial: str | None = None
    scaled: bool = True

    def read(self, keys: Keys) -> dict[str, Any]:
        """The rotary fields."""
        given, local = self._by_layer_type(keys, keys.data.get("rope_parameters") or {})
        fields: dict[str, Any] = {"rope_theta": float(given.get("rope_theta") or keys.number(self.theta))}
        if self.local:
            fields["rope_theta_local"] = float(local.get("rope_theta") or keys.number("rope_local_base_freq"))
        default = {} if keys.data.get("rope_parameters") else keys.defaults.get("rope_scaling")
        scaling = keys.data.get("rope_scaling") or given or default or {}
        fields |= self._partial(keys, scaling)
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind == "default":
            return fields
        if not self.scaled:
            raise keys.error("rope_scaling", f"is of type {kind!r}", "use a checkpoint without it")
        return fields | {"rope_scaling": read_scaling(keys, kind, scaling)}

    def _partial(self, keys: Keys, scaling: Json) -> dict[str, Any]:
        """`partial_rotary_factor`, where the family has it."""
        inside, key = scaling.get("partial_rotary_factor"), self.partial or "partial_rotary_factor"
        if self.partial is not None:
            return {"partial_rotary_factor": float(keys.number(key) if inside is None else inside)}
        share = keys.data.get(key) if inside is None else inside
        if share not in (None, 1):
            raise keys.error(key, f"is {share}, which is not supported", "use a checkpoint without it")
        return {}

    def _by_layer_type(self, keys: Keys, given: Json) -> tuple[Json, Json]:
        """The parameters of the full and of the sliding layers."""
        nested = LAYER_TYPES.keys() & given.keys()
        if not nested:
            return given, {}
        if not self.local:
            problem = f"differ by layer type ({', '.join(sorted(nested))})"
            raise keys.error("rope_parameters", problem, "use one for all")
        full, local = given.get("full_attention") or {}, given.get("sliding_attention") or {}
        if local.get("rope_type", "default") != "default":
            raise keys.error("rope_parameters", "scale the sliding layers", "scale full_attention only")
        return full, local

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys, in the older form, which old and new releases of `transformers` read."""
        written: dict[str, Any] = {self.theta: config.rope_theta}
        if self.partial is not None:
            written[self.partial] = config.partial_rotary_factor
        if self.local:
            written["rope_local_base_freq"] = config.rope_theta_local or config.rope_theta
        if self.scaled and config.rope_scaling is not None:
            written["rope_scaling"] = write_scaling(config.rope_scaling)
        return written


def read_scaling(keys: Keys, kind: str, scaling: Json) -> RopeScaling:
    """The scaling of one `rope_type`."""
    length = keys.get("max_position_embeddings", int)
    original = keys.data.get("original_max_position_embeddings") or scaling.get("original_max_position_embeddings")
    original = original or length
    factor = scaling.get("factor") or (length / original if kind == "yarn" else None)
    if factor is None:
        raise keys.error("rope_scaling", "has no factor", "copy the config.json of the model again")
    if kind == "linear":
        return RopeScaling("linear", float(factor))
    if kind == "dynamic":
        return RopeScaling("dynamic", float(factor), length)
    if kind == "llama3":
        low, high = (float(scaling.get(f"{end}_freq_factor") or default) for end, default in (("low", 1), ("high", 4)))
        return RopeScaling("llama3", float(factor), original, low, high)
    if kind != "yarn":
        raise keys.error("rope_scaling", f"is of type {kind!r}", "use one of linear, dynamic, llama3, yarn")
    fast, slow = float(scaling.get("beta_fast") or 32), float(scaling.get("beta_slow") or 1)
    gain, scales = scaling.get("attention_factor"), (scaling.get("mscale"), scaling.get("mscale_all_dim"))
    if gain is None and all(scales) and factor > 1:  # DeepSeek's form
        over, under = (0.1 * float(scale or 0) * math.log(factor) + 1 for scale in scales)
        gain = over / under
    return RopeScaling(
        "yarn", float(factor), original, beta_fast=fast, beta_slow=slow, truncate=scaling.get("truncate", True),
        attention_factor=None if gain is None else float(gain),
    )  # fmt: skip


def write_scaling(scaling: RopeScaling) -> dict[str, Any]:
    """`rope_scaling` of a scaling."""
    written: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind in ("llama3", "yarn"):
        written["original_max_position_embeddings"] = scaling.original_max_seq_len
    if scaling.kind == "llama3":
        written |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        written |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
        written |= {} if scaling.attention_factor is None else {"attention_factor": scaling.attention_factor}
    return written
