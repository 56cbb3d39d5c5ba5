"""Precision: in which dtype weights are kept and in which everything is computed."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from models.channels.experts import Experts
from models.config import ModelConfig
from models.errors import require
from models.layer import Layer
from models.output_major import OutputMajor
from models.quantized import QuantizedWeight
from models.transformer import Params, unstack_layers, weights
from models.weight import Weight
from search.engine.config import Precision
from search.engine.placement import place


def running_config(model: ModelConfig, precision: Precision) -> ModelConfig:
    """The model as the engine runs it: unrolled layers, no rematerialisation, the dtypes of `precision`.

    Experts are dropless: with a capacity, which tokens find a place depends on what else is in the batch.
    """
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if precision == "bfloat16" else "float32"
    stored: Literal["float32", "bfloat16"] = "float32" if precision == "float32" else "bfloat16"
    model = model.resolved()
    pattern, prologue = (tuple(map(_dropless, layers)) for layers in (model.pattern, model.prologue))
    moe = _experts(model.moe) if model.moe else None
    return dataclasses.replace(
        model, dtype=dtype, param_dtype=stored, scan_layers=False, remat="none", moe=moe, pattern=pattern,
        prologue=prologue,
    )  # fmt: skip


def _dropless(layer: Layer) -> Layer:
    channel = layer.channel
    return dataclasses.replace(layer, channel=_experts(channel)) if isinstance(channel, Experts) else layer


def _experts(channel: Experts) -> Experts:
    router = type(channel.routing).__name__
    problem = f"is {router}, which reads tokens that a model has yet to write"
    require(channel.routing.causal, "model.channel.router", problem, "use a model with TopK, Grouped or Hashed")
    return dataclasses.replace(channel, dispatch="dropless")


def stored_params(config: ModelConfig, params: Params, mesh: Mesh | None = None) -> Params:
    """Parameters as the engine keeps them: unrolled, split over `mesh`, floating ones in `param_dtype`."""
    if "blocks" in params:
        params = unstack_layers(params, dataclasses.replace(config, scan_layers=True))
    placed = jax.tree.map(jnp.asarray, params) if mesh is None else place(params, config, mesh)
    return _cast(config, placed, config.param_dtype)


def computed(config: ModelConfig, params: Params) -> Params:
    """Parameters as the products read them: floating ones in the config's `dtype`."""
    return _cast(config, params, config.dtype)


def _cast(config: ModelConfig, params: Params, dtype: str) -> Params:
    """Floating parameters in `dtype`, but those that are float32 in every model; quantised ones keep their scales."""

    def one(x: Any, weight: Weight) -> Any:
        stays = isinstance(x, QuantizedWeight) or weight.exact
        if stays or not jnp.issubdtype(jax.tree.leaves(x)[0].dtype, jnp.floating):
            return x
        return x.astype(dtype)

    leaf = lambda x: isinstance(x, QuantizedWeight | OutputMajor)  # noqa: E731
    return jax.tree.map(one, params, weights(config), is_leaf=leaf)
