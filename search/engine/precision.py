"""Precision: in which dtype weights are kept and in which everything is computed."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from models.config import ModelConfig
from models.quantized import QuantizedWeight
from models.transformer import Params, unstack_layers
from search.engine.config import Precision
from search.engine.placement import place


def running_config(model: ModelConfig, precision: Precision) -> ModelConfig:
    """The model as the engine runs it: unrolled layers, no rematerialisation, the dtypes of `precision`.

    Experts are dropless: with a capacity, which tokens find a place depends on what else is in the batch.
    """
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if precision == "bfloat16" else "float32"
    stored: Literal["float32", "bfloat16"] = "float32" if precision == "float32" else "bfloat16"
    model = model.resolved()
    moe = model.moe and dataclasses.replace(model.moe, dispatch="dropless")
    return dataclasses.replace(model, dtype=dtype, param_dtype=stored, scan_layers=False, remat="none", moe=moe)


def stored_params(config: ModelConfig, params: Params, mesh: Mesh | None = None) -> Params:
    """Parameters as the engine keeps them: unrolled, split over `mesh`, floating ones in `param_dtype`."""
    if "blocks" in params:
        params = unstack_layers(params, config.n_layers)
    placed = jax.tree.map(jnp.asarray, params) if mesh is None else place(params, config, mesh)
    return _cast(placed, config.param_dtype)


def computed(config: ModelConfig, params: Params) -> Params:
    """Parameters as the products read them: floating ones in the config's `dtype`."""
    return _cast(params, config.dtype)


def _cast(params: Params, dtype: str) -> Params:
    """Floating parameters in `dtype`; quantised ones keep their float32 scales, which are few."""

    def one(x: jax.Array | QuantizedWeight) -> jax.Array | QuantizedWeight:
        if isinstance(x, QuantizedWeight) or not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x.astype(dtype)

    return jax.tree.map(one, params, is_leaf=lambda x: isinstance(x, QuantizedWeight))
