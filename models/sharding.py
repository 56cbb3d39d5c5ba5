"""Meshes and rules: which device axis splits which dim of every weight and activation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from models.errors import ConfigError, require
from models.weight import Weight, WeightTree, map_weights, walk

AXES = ("trial", "data", "fsdp", "stage", "expert", "context", "tensor")
Axis = str | tuple[str, ...] | None


@dataclass(frozen=True)
class MeshConfig:
    """Devices per mesh axis; one axis may be -1: all devices that the others leave."""

    trial: int = 1
    data: int = 1
    fsdp: int = 1
    stage: int = 1
    expert: int = 1
    context: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = self.sizes
        for axis, size in sizes.items():
            fix = "give a positive integer, or -1 for the rest"
            require(size >= 1 or size == -1, f"mesh.{axis}", f"is {size}", fix)
        free = [axis for axis, size in sizes.items() if size == -1]
        both = f"{' and '.join(free)} are both -1"
        require(len(free) < 2, f"mesh.{free[-1] if free else ''}", both, "leave one to fill")

    @property
    def sizes(self) -> dict[str, int]:
        """Axis name -> size, in mesh order."""
        return {axis: getattr(self, axis) for axis in AXES}

    def resolve(self, devices: int) -> MeshConfig:
        """Fill the -1 axis for `devices` devices; ConfigError when the axes do not multiply to that number."""
        fixed = math.prod(size for size in self.sizes.values() if size != -1)
        free = [axis for axis, size in self.sizes.items() if size == -1]
        given = " x ".join(f"{axis}={size}" for axis, size in self.sizes.items() if size != 1) or "all axes 1"
        if free and devices % fixed == 0:
            return dataclasses.replace(self, **{free[0]: devices // fixed})
        fix = f"choose axes whose product is {devices}" + ("" if free else ", or set one axis to -1 to fill the rest")
        require(not free and fixed == devices, "mesh", f"{given} does not make {devices} devices", fix)
        return self


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The Auto mesh of `config` over `devices` (default: all); every axis exists, most have size 1."""
    devices = jax.devices() if devices is None else devices
    sizes = config.resolve(len(devices)).sizes
    grid = np.asarray(devices).reshape(tuple(sizes.values()))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@dataclass(frozen=True)
class Rules:
    """Logical dim -> mesh axis (or axes, or None for replicated): one map for weights, one for activations.

    Weights: Megatron column/row parallelism on `tensor` (Shoeybi et al. 2019), the remaining big dim over `fsdp`
    (ZeRO-3, Rajbhandari et al. 2020). Activations: batch over `data` and `fsdp`, sequence over `context`.
    """

    # dims of weights
    vocab: Axis = "tensor"
    embed: Axis = "fsdp"
    kv_heads: Axis = "tensor"
    mlp: Axis = "tensor"
    experts: Axis = "expert"
    layers: Axis = "stage"
    # dims of activations
    batch: Axis = ("data", "fsdp")
    length: Axis = "context"
    residual: Axis = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            for axis in mesh_axes(getattr(self, field.name)):
                fix = f"use one of {', '.join(AXES)}"
                require(axis in AXES, f"rules.{field.name}", f"{axis!r} is no mesh axis", fix)

    def spec(self, dims: Sequence[str]) -> PartitionSpec:
        """PartitionSpec of an array with these logical dims; ConfigError when two dims ask for one mesh axis."""
        used: dict[str, str] = {}
        entries = [getattr(self, dim, None) for dim in dims]
        for dim, entry in zip(dims, entries, strict=True):
            for axis in mesh_axes(entry):
                if axis in used:
                    raise ConfigError(
                        f"rules.{dim}", f"and rules.{used[axis]} both put one array on mesh axis {axis!r}", "change one"
                    )
                used[axis] = dim
        return PartitionSpec(*entries)


def mesh_axes(axis: Axis) -> tuple[str, ...]:
    """The mesh axes of one rule, as a tuple."""
    return () if axis is None else (axis,) if isinstance(axis, str) else tuple(axis)


DEFAULT_RULES = Rules()


def constrain(x: jax.Array, dims: tuple[str, ...], rules: Rules = DEFAULT_RULES) -> jax.Array:
    """Pin an activation's sharding inside jit when a mesh is set (`jax.set_mesh`); the identity otherwise."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, rules.spec(dims))


def check_divisible(weights: WeightTree, rules: Rules, mesh: Mesh) -> None:
    """ConfigError naming the first weight whose dim a mesh axis does not divide."""
    for path, weight in walk(weights):
        for size, dim, entry in zip(weight.shape, weight.axes, rules.spec(weight.axes), strict=True):
            ways = math.prod(mesh.shape[axis] for axis in mesh_axes(entry))
            require(
                size % ways == 0,
                f"mesh.{'x'.join(mesh_axes(entry))}",
                f"{ways} does not divide the {dim} dim {size} of {'/'.join(path)}",
                f"use a divisor of {size}",
            )


def weight_shardings(weights: WeightTree, rules: Rules, mesh: Mesh) -> dict[str, Any]:
    """NamedSharding of every weight, in the structure of the params; checked for divisibility."""
    check_divisible(weights, rules, mesh)

    def sharding(weight: Weight) -> NamedSharding:
        return NamedSharding(mesh, rules.spec(weight.axes))

    return map_weights(sharding, weights)
