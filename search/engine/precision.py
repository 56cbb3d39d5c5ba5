"""Precision: in which dtype weights are kept and in which everything is computed."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from models.config import ModelConfig
from models.transformer import Params, unstack_layers
from search.engine.config import Precision


def running_config(model: ModelConfig, precision: Precision) -> ModelConfig:
    """The model as the engine runs it: unrolled layers, no rematerialisation, the dtypes of `precision`."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if precision == "bfloat16" else "float32"
    stored: Literal["float32", "bfloat16"] = "float32" if precision == "float32" else "bfloat16"
    return dataclasses.replace(model.resolved(), dtype=dtype, param_dtype=stored, scan_layers=False, remat="none")


def stored_params(config: ModelConfig, params: Params) -> Params:
    """Parameters as the engine keeps them: unrolled, floating ones in the config's `param_dtype`."""
    if "blocks" in params:
        params = unstack_layers(params, config.n_layers)
    return jax.tree.map(lambda x: _cast(jnp.asarray(x), config.param_dtype), params)


def computed(config: ModelConfig, params: Params) -> Params:
    """Parameters as the products read them: floating ones in the config's `dtype`."""
    return jax.tree.map(lambda x: _cast(x, config.dtype), params)


def _cast(x: jax.Array, dtype: str) -> jax.Array:
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
