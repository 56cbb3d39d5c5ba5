"""Modules that load at first use: a config can name a part of a model without importing jax.

A part is declared and computed in one file. What it declares (its fields, weights, what it keeps, its FLOPs) is plain
Python, wanted by every command line before jax is; what it computes is not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax as jax
    import jax.numpy as jnp

    from models import operations as ops
else:

    class _Deferred:
        """The module `name`, imported when an attribute of it is first asked for."""

        def __init__(self, name: str):
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(importlib.import_module(self._name), attribute)

    jax, jnp, ops = _Deferred("jax"), _Deferred("jax.numpy"), _Deferred("models.operations")

__all__ = ["jax", "jnp", "ops"]
