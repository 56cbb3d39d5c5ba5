"""Pruning of a whole model: the smallest entries of its matrices become 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from models.config import ModelConfig
from models.errors import require
from models.transformer import weights
from models.weight import Stacked, walk


def prune(params: Mapping[str, Any], config: ModelConfig, share: float) -> dict[str, Any]:
    """Params in each of whose hidden matrices the `share` of least magnitude is 0, rounded down to whole entries.

    Every layer of a stack is pruned by itself; tables, the head and vectors stay. Unstructured magnitude pruning (Han
    et al. 2015), without training after it.
    """
    require(0 <= share < 1, "prune.share", f"is {share}", "give a share from 0 to below 1")
    made: dict[str, Any] = jax.tree.map(lambda x: x, dict(params))
    for path, weight in walk(weights(config)):
        if weight.role != "matrix":
            continue
        node = made
        for name in path[:-1]:
            node = node[name]
        value = node[path[-1]]
        each = value.reshape(value.shape[0] if isinstance(weight, Stacked) else 1, -1)
        node[path[-1]] = jax.vmap(lambda x: _without_smallest(x, int(share * x.size)))(each).reshape(value.shape)
    return made


def _without_smallest(x: jax.Array, count: int) -> jax.Array:
    """x `[n]` with its `count` entries of least magnitude at 0; the first of equals go."""
    return x.at[jnp.argsort(jnp.abs(x))[:count]].set(0)
