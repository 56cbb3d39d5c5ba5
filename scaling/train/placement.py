"""Where a stack's arrays live: shardings of state and batches on a mesh, derived from the weights' declarations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models import transformer
from models.config import ModelConfig
from models.sharding import DEFAULT_RULES, Rules, weight_shardings
from scaling.train.state import TrainState

# An initialiser runs once, so optimising it costs more than it saves: 4 s against 1 s for one layer on a CPU.
QUICK_COMPILE = {"xla_backend_optimization_level": 0}


class Placement:
    """Shardings of a stack: dim 0 of everything is the trial, the rest follows `rules`.

    abstract: the stack's state as ShapeDtypeStructs, every leaf `[trials, ...]`.
    """

    def __init__(self, model: ModelConfig, mesh: Mesh, abstract: TrainState, rules: Rules = DEFAULT_RULES):
        self.mesh, self.rules = mesh, rules
        self.distributed = mesh.size > 1
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.per_trial = NamedSharding(mesh, PartitionSpec("trial"))
        weights = weight_shardings(transformer.weights(model), rules, mesh)
        self.state = self._state_shardings(weights, abstract)

    def context(self) -> contextlib.AbstractContextManager:
        """The mesh in which the model's sharding constraints are resolved."""
        return jax.set_mesh(self.mesh) if self.distributed else contextlib.nullcontext()

    def _state_shardings(self, weights: Any, abstract: TrainState) -> TrainState:
        """Optimiser leaves are sharded as the parameter whose path they end in; everything else per trial."""
        specs = {path: sharding.spec for path, sharding in jax.tree_util.tree_leaves_with_path(weights)}

        def sharding(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
            for start in range(len(path)):
                spec = specs.get(path[start:])
                if spec is not None and len(spec) == leaf.ndim - 1:
                    return NamedSharding(self.mesh, PartitionSpec("trial", *spec))
            return self.per_trial

        return jax.tree_util.tree_map_with_path(sharding, abstract)

    def batch_sharding(self, ndim: int) -> NamedSharding:
        """Of a batch leaf `[trials, chunk, batch, ...]`."""
        spec = PartitionSpec("trial", None, self.rules.batch, *[None] * (ndim - 3))
        return NamedSharding(self.mesh, spec)

    def put_batches(self, batches: dict[str, Any]) -> dict[str, Any]:
        """Host arrays onto the mesh."""
        if not self.distributed:
            return batches
        return {name: jax.device_put(x, self.batch_sharding(x.ndim)) for name, x in batches.items()}

    def jit_init(self, f: Callable[..., TrainState]) -> Callable[..., TrainState]:
        """Compile an initialiser whose result is born sharded."""
        shardings = self.state if self.distributed else None
        return jax.jit(f, out_shardings=shardings, compiler_options=QUICK_COMPILE)

    def jit_advance(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """Compile (state, ...) -> (state, metrics) with the state donated."""
        if not self.distributed:
            return jax.jit(f, donate_argnums=0)
        return jax.jit(f, donate_argnums=0, out_shardings=(self.state, self.per_trial))

    def abstract(self, abstract: TrainState) -> TrainState:
        """ShapeDtypeStructs with their shardings, for restoring a checkpoint onto this mesh."""
        if not self.distributed:
            return abstract
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract, self.state
        )
