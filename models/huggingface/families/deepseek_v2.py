"""DeepSeek-V2 (Liu et al. 2024): latent attention, dense layers first and then experts beside shared ones."""

import dataclasses
import math
from dataclasses import dataclass
from types import NoneType
from typing import Any

from models.channels.dense import Dense
from models.channels.experts import Experts
from models.config import ModelConfig
from models.huggingface.families import llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.files import Json, Keys
from models.huggingface.parts import RMS, WIDTHS, Activation
from models.huggingface.rope import Rope
from models.layer import Layer
from models.mixers.latent import Latent
from models.rotary import RopeScaling, Rotary

SIZES = {"kv_lora_rank": "rank", "qk_nope_head_dim": "key_dim", "qk_rope_head_dim": "rotary_dim",
         "v_head_dim": "value_dim"}  # fmt: skip
COUNTS = {"n_routed_experts": "experts", "num_experts_per_tok": "top_k", "moe_intermediate_size": "d_ff",
          "n_shared_experts": "shared"}  # fmt: skip
DIGITS = 12  # of an mscale that is computed back
BIAS_RATE = 1e-3  # DeepSeek-V3, section 4.2: no key of config.json says it


@dataclass(frozen=True)
class Mixers:
    """The latent mixer of all layers, and what follows it: dense blocks first, experts from `first_k_dense_replace` on.

    interleave: the key that says whether neighbouring dims rotate together (None: they do). biased: experts are chosen
    by sigmoids with biases, within groups ranked by their two best (V3); else by softmaxes (V2).
    """

    interleave: str | None = None
    biased: bool = False

    def read(self, keys: Keys) -> dict[str, Any]:
        """`pattern`, `prologue` and `head_dim`."""
        latent, n_layers = self._latent(keys), keys.get("num_hidden_layers", int)
        dense = min(keys.get("first_k_dense_replace", int), n_layers)
        first, head_dim = Layer(latent, Dense()), latent.key_dim + latent.rotary_dim
        if dense == n_layers:
            return {"pattern": (first,), "head_dim": head_dim}
        return {"pattern": (Layer(latent, self._experts(keys)),), "prologue": (first,) * dense, "head_dim": head_dim}

    def _latent(self, keys: Keys) -> Latent:
        heads = keys.get("num_attention_heads", int)
        keyed = keys.data.get("num_key_value_heads", heads)
        if keyed not in (None, heads):
            raise keys.error("num_key_value_heads", f"is {keyed}, but all {heads} heads have keys of their own",
                             "use the config.json of the checkpoint")  # fmt: skip
        rope = Rope().read(keys)
        scaling, pairs = rope.get("rope_scaling"), self.interleave is None or bool(keys.get(self.interleave, bool))
        given = keys.data.get("rope_scaling") or keys.data.get("rope_parameters") or {}
        gain = 1.0
        if scaling is not None and given.get("mscale_all_dim"):
            gain = _mscale(scaling, float(given["mscale_all_dim"])) ** 2
        sizes: dict[str, Any] = {field: keys.get(key, int) for key, field in SIZES.items()}
        sizes["query_rank"] = keys.get("q_lora_rank", int, NoneType)
        return Latent(**sizes, rotary=Rotary(rope["rope_theta"], scaling, interleaved=pairs), gain=gain)

    def _experts(self, keys: Keys) -> Experts:
        fields: dict[str, Any] = {field: keys.get(key, int) for key, field in COUNTS.items()}
        if self.biased:
            fields |= {"score": "sigmoid", "normalize": bool(keys.get("norm_topk_prob", bool)), "bias_rate": BIAS_RATE}
        else:
            fields |= {"normalize": False}
        if self.biased or keys.get("topk_method", str) == "group_limited_greedy":
            groups, top_groups = keys.get("n_group", int), keys.get("topk_group", int)
            if groups is None or top_groups is None:
                raise keys.error("n_group" if groups is None else "topk_group", "is missing",
                                 "use the config.json of the checkpoint")  # fmt: skip
            if top_groups < groups:  # else every expert is in reach
                rank = "top2" if self.biased else "max"
                fields |= {"groups": groups, "top_groups": top_groups, "group_score": rank}
        return Experts(
            **fields, scale=keys.number("routed_scaling_factor"), dispatch="dropless",
            balance_coefficient=keys.number("aux_loss_alpha"), z_coefficient=0.0,
        )  # fmt: skip

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys: of the first layer's mixer, and of the first experts."""
        layers, stream = config.layers, config.stream
        given = layers[0].mixer
        latent = given if isinstance(given, Latent) else Latent()
        heads, rotary = latent.heads or stream.n_heads, latent.rotary or stream.rotary or Rotary()
        routed = [i for i, layer in enumerate(layers) if isinstance(layer.channel, Experts)]
        written: dict[str, Any] = {key: getattr(latent, field) for key, field in SIZES.items()}
        written |= {"num_attention_heads": heads, "num_key_value_heads": heads, "q_lora_rank": latent.query_rank}
        written |= {"first_k_dense_replace": routed[0] if routed else len(layers)}
        written |= {} if self.interleave is None else {self.interleave: rotary.interleaved}
        rope = Rope().write(dataclasses.replace(config, rope_theta=rotary.theta, rope_scaling=rotary.scaling))
        if rotary.scaling is not None and rotary.scaling.factor > 1 and latent.gain != 1:
            rope["rope_scaling"] = {**rope["rope_scaling"], **_written_mscales(rotary.scaling, latent.gain)}
        written |= rope
        if not routed:
            return written
        channel = layers[routed[0]].channel
        assert isinstance(channel, Experts)
        return written | self._written_experts(channel.resolved(stream))

    def _written_experts(self, experts: Experts) -> dict[str, Any]:
        written: dict[str, Any] = {key: getattr(experts, field) for key, field in COUNTS.items()}
        written |= {"routed_scaling_factor": experts.scale, "aux_loss_alpha": experts.balance_coefficient}
        groups = {"n_group": experts.groups, "topk_group": experts.top_groups}
        if self.biased:
            return written | groups | {"norm_topk_prob": experts.normalize}
        return written | ({"topk_method": "group_limited_greedy", **groups} if experts.groups > 1 else {})


def _mscale(scaling: RopeScaling, scale: float) -> float:
    """The factor on queries and keys alike that YaRN with `mscale_all_dim` = scale has."""
    return 1.0 if scaling.factor <= 1 else 0.1 * scale * math.log(scaling.factor) + 1.0


def _written_mscales(scaling: RopeScaling, gain: float) -> dict[str, float]:
    """`mscale_all_dim` of a gain on the scores; and `mscale`, which older code reads in place of attention_factor."""
    under, unit = math.sqrt(gain), 0.1 * math.log(scaling.factor)
    written = {"mscale_all_dim": round((under - 1) / unit, DIGITS)}
    if scaling.attention_factor is not None:
        written["mscale"] = round((scaling.attention_factor * under - 1) / unit, DIGITS)
    return written


ATTENTION: Names = {
    "attention/q": "self_attn.q_proj.weight",
    "attention/q_down": "self_attn.q_a_proj.weight",
    "attention/q_norm/gain": "self_attn.q_a_layernorm.weight",
    "attention/q_up": "self_attn.q_b_proj.weight",
    "attention/kv_down": "self_attn.kv_a_proj_with_mqa.weight",
    "attention/kv_norm/gain": "self_attn.kv_a_layernorm.weight",
    "attention/kv_up": "self_attn.kv_b_proj.weight",
    "attention/out": "self_attn.o_proj.weight",
}
DENSE: Names = {path: name for path, name in llama.MLP.items() if not path.endswith("_bias")}
EXPERTS: Names = {
    "feedforward/router": "mlp.gate.weight",
    "feedforward/gate_up{expert}": ("mlp.experts.{expert}.gate_proj.weight", "mlp.experts.{expert}.up_proj.weight"),
    "feedforward/down{expert}": "mlp.experts.{expert}.down_proj.weight",
    "feedforward/shared_gate_up": ("mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.up_proj.weight"),
    "feedforward/shared_down": "mlp.shared_experts.down_proj.weight",
}
NAMES = llama.NORMS | ATTENTION | DENSE | EXPERTS
# the norms of the latents have an epsilon of their own in `transformers`, which is theirs of the layers in all files
FIXED: Json = {**RMS, "norm_eps": 1e-6}
NEUTRAL: Json = {"rms_norm_eps": (1e-6,), "attention_bias": (False, None), "moe_layer_freq": (1,)}
DEFAULTS: dict[str, Any] = {
    "vocab_size": 102_400, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "rope_theta": 1e4, "attention_bias": False, "first_k_dense_replace": 0,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "n_routed_experts": 64, "n_shared_experts": 2, "moe_intermediate_size": 1407, "routed_scaling_factor": 1.0,
    "n_group": None, "topk_group": None, "topk_method": "greedy", "aux_loss_alpha": 0.001,
}  # fmt: skip

FAMILY = Family(
    "deepseek_v2",
    "DeepseekV2ForCausalLM",
    names=block_names("layers.{}.", NAMES, llama.MODEL),
    parts=(*WIDTHS, Activation(), Mixers()),
    defaults=DEFAULTS | {"mlp_bias": False, "norm_topk_prob": False},
    fixed=FIXED,
    neutral={
        **NEUTRAL,
        "mlp_bias": (False,),
        "norm_topk_prob": (False, None),
        "scoring_func": ("softmax",),
        "topk_method": ("greedy", "group_limited_greedy"),
    },
    aliases={"num_experts": "n_routed_experts"},
)
