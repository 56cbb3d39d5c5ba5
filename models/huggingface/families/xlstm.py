"""xLSTM 7B (Beck et al. 2025): layers of one mLSTM and a gated block each, capped gates and logits."""

import math
from types import NoneType
from typing import Any

from models.config import ModelConfig
from models.errors import LARGEST_SIZE
from models.huggingface.family import Family, Names, block_names
from models.huggingface.files import Keys
from models.huggingface.parts import Same
from models.layer import Layer
from models.mixers.mlstm import LARGEST_CAP, MLSTM

KEYS, VALUES, BLOCK, MULTIPLE = "qk_dim_factor", "v_dim_factor", "ffn_proj_factor", "ffn_round_up_to_multiple_of"
CACHED = 64  # the cache of transformers has a multiple of so many features, and fails where the model has not
CAP, LOGITS = "gate_soft_cap", "output_logit_soft_cap"
SECOND = {"embedding_dim": "hidden_size", "num_blocks": "num_hidden_layers"}  # said twice by published files


class Mixers:
    """The keys of the mixer, which is the same in all layers.

    Files say widths as factors of the model's: the product is cut to an integer. `eps`, which is added to what h is
    divided by, is missing here: it scales all of a head's h alike, which the norm after it takes out (1e-6 moves
    logits of order 1 by 1e-8 in float64).
    """

    def read(self, keys: Keys) -> dict[str, Any]:
        """`pattern`, and the heads."""
        for second, first in SECOND.items():
            value, meant = keys.get(second, int, NoneType), keys.get(first, int)
            if value not in (None, meant):
                raise keys.error(second, f"is {value}, where {first} is {meant}", "give both the same number")
        heads, cap = _count(keys, "num_heads"), keys.number(CAP)
        if not 0 < cap <= LARGEST_CAP:
            raise keys.error(CAP, f"is {cap:g}", f"use a checkpoint with a number above 0, {LARGEST_CAP:g} at most")
        widths = {key: _width(keys, key) for key in (KEYS, VALUES)}
        for key, width in widths.items():
            if width % heads:
                problem = f"is {heads}, which do not divide the {width} features of {key}"
                raise keys.error("num_heads", problem, "use the config.json of the checkpoint")
        key_dim, value_dim = (width // heads for width in widths.values())
        mixer = MLSTM(heads, key_dim, value_dim, cap, _count(keys, "chunk_size"))
        return {"pattern": (Layer(mixer),), "n_heads": heads, "head_dim": value_dim}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys, of the first layer."""
        given, width = config.layers[0].mixer, config.d_model
        mixer = given if isinstance(given, MLSTM) else MLSTM()
        heads, key_dim, value_dim = mixer.sizes(config.stream)
        features = {KEYS: heads * key_dim, VALUES: heads * value_dim}
        written: dict[str, Any] = {key: _factor(n, width) for key, n in features.items()}
        fits = all(n % CACHED == 0 for n in features.values())
        return written | {"num_heads": heads, CAP: mixer.cap, "chunk_size": mixer.block, "use_cache": fits}


class Block:
    """The gated block: a factor of the model's width, rounded up to a multiple."""

    def read(self, keys: Keys) -> dict[str, Any]:
        """`d_ff`."""
        multiple, features = _count(keys, MULTIPLE), keys.get("hidden_size", int) * keys.number(BLOCK)
        _width(keys, BLOCK)
        return {"d_ff": int((features + multiple - 1) // multiple * multiple)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys, with nothing left to round."""
        assert config.d_ff
        return {BLOCK: _factor(config.d_ff, config.d_model), MULTIPLE: 1}


class Cap:
    """The cap of the logits, which these models always have."""

    def read(self, keys: Keys) -> dict[str, Any]:
        """`logit_softcap`."""
        cap = keys.number(LOGITS)
        if cap <= 0:
            raise keys.error(LOGITS, f"is {cap:g}", "give a positive number")
        return {"logit_softcap": cap}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The key; where there is no cap nothing, which is read as the family's."""
        return {} if config.logit_softcap is None else {LOGITS: config.logit_softcap}


def _count(keys: Keys, key: str) -> int:
    value: int = keys.get(key, int)
    if value < 1:
        raise keys.error(key, f"is {value}", "give a positive integer")
    return value


def _width(keys: Keys, key: str) -> int:
    """A positive factor times the model's width, cut as `transformers` does it."""
    features = keys.get("hidden_size", int) * keys.number(key)
    if not 1 <= features <= LARGEST_SIZE:
        raise keys.error(key, f"asks for {features:g} features", f"give a factor for 1 to {LARGEST_SIZE:,} of them")
    return int(features)


def _factor(features: int, width: int) -> float:
    """A float whose product with `width` is cut to `features`: the quotient may be rounded to just below."""
    factor = features / width
    return factor if int(width * factor) == features else math.nextafter(factor, math.inf)


BLOCKS: Names = {
    "mlstm_norm/gain": "norm_mlstm.weight",
    "mlstm/qk": ("mlstm_layer.q.weight", "mlstm_layer.k.weight"),
    "mlstm/vo": ("mlstm_layer.v.weight", "mlstm_layer.ogate_preact.weight"),
    "mlstm/gates": ("mlstm_layer.igate_preact.weight", "mlstm_layer.fgate_preact.weight"),
    "mlstm/input_bias": "mlstm_layer.igate_preact.bias",
    "mlstm/forget_bias": "mlstm_layer.fgate_preact.bias",
    "mlstm/gain": "mlstm_layer.multihead_norm.weight",
    "mlstm/out": "mlstm_layer.out_proj.weight",
    "feedforward_norm/gain": "norm_ffn.weight",
    "feedforward/gate_up": ("ffn.proj_up_gate.weight", "ffn.proj_up.weight"),
    "feedforward/down": "ffn.proj_down.weight",
}
MODEL: Names = {"tokens": "embeddings.weight", "final_norm/gain": "out_norm.weight", "head": "lm_head.weight"}

FAMILY = Family(
    "xlstm",
    "xLSTMForCausalLM",
    names=block_names("blocks.{}.", BLOCKS, MODEL),
    parts=(
        Same("vocab_size", "vocab_size"),
        Same("hidden_size", "d_model"),
        Same("num_hidden_layers", "n_layers"),
        Same("norm_eps", "norm_eps", float),
        Mixers(),
        Block(),
        Cap(),
    ),
    defaults={
        "vocab_size": 50_304, "hidden_size": 4096, "embedding_dim": None, "num_hidden_layers": 32, "num_blocks": None,
        "num_heads": 8, "norm_eps": 1e-6, "eps": 1e-6, KEYS: 0.5, VALUES: 1.0, BLOCK: 2.667, MULTIPLE: 64, CAP: 15.0,
        LOGITS: 30.0, "chunk_size": 64, "use_bias": False, "add_out_norm": True, "weight_mode": "single",
        "tie_word_embeddings": False,
    },
    fixed={"positions": "none", "norm": "rmsnorm", "activation": "swiglu", "tied_embeddings": False},
    # a larger eps would not be small beside what it is added to; transformers ties no head to the table
    neutral={"use_bias": (False,), "add_out_norm": (True,), "weight_mode": ("single",), "eps": (1e-6,),
             "tie_word_embeddings": (False,)},
    prefix="backbone.",
)  # fmt: skip
