"""How an engine lies on several devices: slots split over `data`, key-value heads, features and tokens over `tensor`.

Quantised weights are split like the floats that they stand for, each scale with its output. Where their products are
those of integers, sums over split inputs are exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models import transformer
from models.cache import Pool
from models.config import ModelConfig
from models.errors import require
from models.kept import Kept
from models.quantized import QuantizedWeight
from models.sharding import AXES, DEFAULT_RULES, MeshConfig, Rules, check_divisible, fitted, make_mesh, mesh_axes
from models.transformer import Params
from models.weight import Weight

ENGINE_AXES = ("data", "tensor")


def engine_mesh(config: MeshConfig) -> Mesh | None:
    """The mesh over the first devices of this process; None where it is one device. ConfigError without so many."""
    devices = jax.local_devices()
    config = config.fit(len(devices))
    size = math.prod(config.sizes.values())
    return make_mesh(config, devices[:size]) if size > 1 else None


def check_slots(sizes: Mapping[str, int], slots: int) -> None:
    """ConfigError for axes that an engine does not have, and for slots that `data` does not divide."""
    for axis in AXES:
        fix = f"use {' and '.join(ENGINE_AXES)}"
        require(axis in ENGINE_AXES or sizes[axis] == 1, f"mesh.{axis}", "splits nothing that an engine has", fix)
    require(slots % sizes["data"] == 0, "mesh.data", f"{sizes['data']} does not divide {slots} engine.slots",
            f"use a divisor of {slots}, or a multiple of {sizes['data']} slots")  # fmt: skip


def rules_for(model: ModelConfig, sizes: Mapping[str, int]) -> Rules:
    """Which axis splits which dim of the model's weights; ConfigError where the sizes do not divide one."""
    rules = DEFAULT_RULES
    if model.vocab_size % sizes["tensor"]:  # GPT-2's 50257 tokens, for one: keep the table whole
        rules = dataclasses.replace(rules, vocab=None)
    check_divisible(transformer.weights(model), rules, sizes)
    return rules


def place(params: Params, model: ModelConfig, mesh: Mesh) -> Params:
    """Every parameter in its shards, straight from where it is; call it with the mesh set (`jax.set_mesh`)."""
    rules = rules_for(model, mesh.shape)

    def one(value: Any, weight: Weight) -> Any:
        spec = rules.spec(weight.axes)
        if isinstance(value, QuantizedWeight):
            return jax.device_put(value, _quantized(value, spec, mesh))
        return jax.device_put(value, NamedSharding(mesh, spec))

    leaf = lambda x: isinstance(x, QuantizedWeight)  # noqa: E731
    return jax.tree.map(one, dict(params), transformer.weights(model), is_leaf=leaf)


def _quantized(w: QuantizedWeight, spec: PartitionSpec, mesh: Mesh) -> QuantizedWeight:
    """The shardings of a quantised weight's arrays, in its structure; spec: of the weight seen from outside."""
    inputs, outputs = (spec[1:], spec[:1]) if w.transposed else (spec[: w.inputs], spec[w.inputs :])
    into, out = (tuple(axis for entry in part for axis in mesh_axes(entry)) for part in (inputs, outputs))

    def split(x: jax.Array | None, *entries: Any) -> Any:
        return None if x is None else NamedSharding(mesh, fitted(PartitionSpec(*entries), x.shape))

    return dataclasses.replace(
        w, values=split(w.values, out, into), scale=split(w.scale, out), multiplier=split(w.multiplier, out, into)
    )


def cache_shardings(model: ModelConfig, mesh: Mesh, shapes: Any, own: bool) -> Any:
    """Shardings of a `Pool`, or of `Layers` of tokens or states, given their shapes, by the dims that parts declare.

    What is the slots' `own` is split over `data` by slot.
    """
    lead = ("slots" if own else "pages",)

    def sharding(kept: Kept, x: Any) -> Any:
        dims = (*lead, kept.axes[0], "positions", *kept.axes[1:]) if kept.per == "token" else (*lead, *kept.axes)

        def one(leaf: Any) -> NamedSharding:
            entries = ["data" if own else None, *DEFAULT_RULES.spec(dims)[1:]]
            sizes = [math.prod(mesh.shape[a] for a in mesh_axes(entry)) for entry in entries]
            fits = [entry if size % ways == 0 else None for entry, size, ways in zip(entries, leaf.shape, sizes)]
            return NamedSharding(mesh, PartitionSpec(*fits))

        return jax.tree.map(one, x)

    if isinstance(shapes, Pool):
        return Pool(*(cache_shardings(model, mesh, layers, own) for layers in shapes))
    declared = [layer.mixer.kept(model.stream) for layer in model.layers]
    return tuple({name: sharding(kept[name], x) for name, x in layer.items()} for kept, layer in zip(declared, shapes))
