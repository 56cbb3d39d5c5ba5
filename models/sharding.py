"""Meshes and rules: which device axis splits which dim of every weight and activation.

Everything follows from two maps and three moves. `Rules.spec` says how a weight is kept, `Rules.used` how it is
computed with (whole over `fsdp`); `gathered` goes from the one to the other, and its gradient goes back reduced and
split. `gather_positions` and `scatter_positions` do the same for the residual stream, whose positions are divided over
`tensor` between blocks (sequence parallelism, Korthikanti et al. 2022) and together inside them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from models.errors import ConfigError, require, require_sizes
from models.platform import on_cpu
from models.weight import Weight, WeightTree, map_weights, walk

AXES = ("trial", "data", "fsdp", "stage", "expert", "context", "tensor")
Axis = str | tuple[str, ...] | None
REPLICAS = ("data", "expert", "context")  # axes that hold copies of a weight, unless a rule splits it over them
GATHERED = "gathered"  # the name under which a rematerialisation policy can drop what `gathered` returns


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
        require_sizes(self, "mesh")
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

    def fit(self, devices: int) -> MeshConfig:
        """As `resolve`, but a mesh without a -1 axis may leave some of the devices unused."""
        sizes = self.sizes.values()
        return self if -1 not in sizes and math.prod(sizes) <= devices else self.resolve(devices)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The Auto mesh of `config` over `devices` (default: all); every axis exists, most have size 1."""
    devices = jax.devices() if devices is None else devices
    sizes = config.resolve(len(devices)).sizes
    return _mesh(np.asarray(devices).reshape(tuple(sizes.values())))


def zero_mesh(mesh: Mesh, zero: int) -> Mesh:
    """The mesh on which ZeRO stage `zero` runs: below stage 3 no parameter is split, so `fsdp` joins `data`."""
    if zero == 3 or mesh.shape["fsdp"] == 1:
        return mesh
    sizes = dict(mesh.shape)
    sizes |= {"data": sizes["data"] * sizes["fsdp"], "fsdp": 1}
    return _mesh(mesh.devices.reshape(tuple(sizes.values())))


def _mesh(grid: np.ndarray) -> Mesh:
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@dataclass(frozen=True)
class Rules:
    """Logical dim -> mesh axis (or axes, or None for replicated): one map for weights, one for activations.

    Weights: Megatron column/row parallelism on `tensor` (Shoeybi et al. 2019), the remaining big dim over `fsdp`
    (ZeRO-3, Rajbhandari et al. 2020). Activations: batch over every axis that holds other sequences, positions over
    `context`, and between blocks over `tensor` too.
    """

    # dims of weights
    vocab: Axis = "tensor"
    embed: Axis = "fsdp"
    heads: Axis = "tensor"
    kv_heads: Axis = "tensor"
    mlp: Axis = "tensor"
    experts: Axis = "expert"
    layers: Axis = "stage"
    # dims of activations
    batch: Axis = ("data", "fsdp", "expert")
    length: Axis = "context"
    residual_length: Axis = ("context", "tensor")
    head_length: Axis = ("context", "stage")  # of what the head reads: stages of a pipeline share its products
    residual: Axis = None
    expert_batch: Axis = ("data", "fsdp")  # of what the experts read, whose own dim is over `expert`
    lookup_batch: Axis = ("data", "expert")  # of the token embeddings, while `fsdp` divides their features

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

    def used(self, dims: Sequence[str]) -> PartitionSpec:
        """As `spec`, of a weight while it is computed with: whole over `fsdp`."""
        kept = (tuple(axis for axis in mesh_axes(entry) if axis != "fsdp") for entry in self.spec(dims))
        return PartitionSpec(*(_entry(axes) for axes in kept))


def mesh_axes(axis: Axis) -> tuple[str, ...]:
    """The mesh axes of one rule, as a tuple."""
    return () if axis is None else (axis,) if isinstance(axis, str) else tuple(axis)


def _entry(axes: Sequence[str]) -> Axis:
    return None if not axes else axes[0] if len(axes) == 1 else tuple(axes)


DEFAULT_RULES = Rules()
RESIDUAL = ("batch", "residual_length", "residual")  # of the residual stream between blocks
WHOLE = ("batch", "length", "residual")  # of what a block's column-parallel products read
LOOKUP = ("lookup_batch", "length", "embed")  # of the token embeddings as they are looked up
HEAD = ("batch", "head_length", "residual")  # of the final hidden states


# -- inside jit ---------------------------------------------------------------------------------------------------


def current_mesh() -> AbstractMesh | None:
    """The mesh in which the program being traced runs (`jax.set_mesh`); None without one, or on one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def axis_size(axis: str) -> int:
    """Devices along a mesh axis of the current mesh; 1 without a mesh."""
    mesh = current_mesh()
    return 1 if mesh is None else mesh.shape.get(axis, 1)


def free_axes() -> tuple[str, ...]:
    """The axes of the current mesh that no surrounding `shard_map` has already split."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(a for a, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual)


def fitted(spec: PartitionSpec, shape: Sequence[int]) -> PartitionSpec:
    """`spec` on the current mesh without what cannot be: axes already split, and axes that do not divide their dim."""
    mesh, free, entries = jax.sharding.get_abstract_mesh(), free_axes(), []
    for size, entry in zip(shape, spec, strict=False):
        axes: list[str] = []
        for axis in mesh_axes(entry):
            if axis in free and size % math.prod(mesh.shape[a] for a in (*axes, axis)) == 0:
                axes.append(axis)
        entries.append(_entry(axes))
    return PartitionSpec(*entries)


def constrain(x: jax.Array, dims: tuple[str, ...], rules: Rules = DEFAULT_RULES) -> jax.Array:
    """Pin an activation's sharding inside jit when a mesh is set (`jax.set_mesh`); the identity otherwise."""
    if current_mesh() is None:
        return x
    return jax.lax.with_sharding_constraint(x, fitted(rules.spec(dims), x.shape))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _move(x: jax.Array, forward: PartitionSpec, backward: PartitionSpec) -> jax.Array:
    """x laid out as `forward`, its cotangent as `backward`: a plain constraint would lay out both alike."""
    return jax.lax.with_sharding_constraint(x, forward)


def _move_forward(x: jax.Array, forward: PartitionSpec, backward: PartitionSpec) -> tuple[jax.Array, None]:
    return _move(x, forward, backward), None


def _move_backward(forward: PartitionSpec, backward: PartitionSpec, _: None, dy: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(dy, backward),)


_move.defvjp(_move_forward, _move_backward)


def relayout(
    x: jax.Array, forward: tuple[str, ...], backward: tuple[str, ...], rules: Rules = DEFAULT_RULES
) -> jax.Array:
    """x laid out by the logical dims `forward` and its gradient by `backward`; the identity without a mesh."""
    if current_mesh() is None:
        return x
    return _move(x, *(fitted(rules.spec(dims), x.shape) for dims in (forward, backward)))


def gathered(w: jax.Array, dims: Sequence[str], rules: Rules = DEFAULT_RULES) -> jax.Array:
    """A weight with these logical dims as it is computed with; its gradient comes back split as ZeRO-2 keeps it.

    The latter is said here, once per layer, since XLA cannot reduce and scatter what a scan over layers has stacked.
    """
    if all(axis_size(axis) == 1 for axis in ("fsdp", *REPLICAS)):
        return w
    kept, used = (fitted(spec, w.shape) for spec in (rules.spec(dims), rules.used(dims)))
    back = _spread(w.shape, dims, kept, jax.sharding.get_abstract_mesh())
    # After the cast, so that XLA does not gather float32 and cast then. And copies along `data` whose moments are split
    # would otherwise be split too, by XLA, and gathered in every layer.
    w = _move(w, kept, back)
    return w if kept == used else checkpoint_name(_move(w, used, back), GATHERED)


def gather_positions(x: jax.Array, rules: Rules = DEFAULT_RULES) -> jax.Array:
    """The residual stream `[batch, seq, d_model]` as column-parallel products read it: positions gathered over
    `tensor`. Backwards, the partial sums of its gradient are reduced and scattered."""
    return relayout(x, WHOLE, RESIDUAL, rules) if axis_size("tensor") > 1 else x


def scatter_positions(x: jax.Array, rules: Rules = DEFAULT_RULES) -> jax.Array:
    """What row-parallel products return `[batch, seq, d_model]`, reduced and scattered over the positions of the
    residual stream. Backwards, its gradient is gathered."""
    return relayout(x, RESIDUAL, WHOLE, rules) if axis_size("tensor") > 1 else x


def summable(x: jax.Array) -> jax.Array:
    """x in a type that can be summed over devices by hand: XLA's CPU compiler crashes on such sums of bfloat16."""
    return x.astype(np.float32) if x.dtype == jax.numpy.bfloat16 and on_cpu() else x


def nested_shard_map(f: Callable[..., Any], in_specs: Any, out_specs: Any, axes: Sequence[str]) -> Callable[..., Any]:
    """`shard_map` of f over `axes` that may stand inside another one, in a function with a backward pass of its own.

    JAX cannot carry values out of a nested `shard_map` for later, which it tries with whatever is constant in a scan
    around it; `jax.checkpoint` keeps it from looking inside.
    """
    return jax.checkpoint(jax.shard_map(f, in_specs=in_specs, out_specs=out_specs, axis_names=set(axes)))


def by_hand(f: Callable[..., Any], args: tuple, in_specs: tuple, out_specs: Any, axes: Sequence[str]) -> Any:
    """`shard_map` of f over `axes`, also inside another one; args are arrays or None, the result is one array.

    There f is computed again in the backward pass, for the reason given at `nested_shard_map`.
    """
    if len(free_axes()) == len(AXES):
        return jax.shard_map(f, in_specs=in_specs, out_specs=out_specs, axis_names=set(axes))(*args)
    forward = nested_shard_map(f, in_specs, out_specs, axes)
    real = [i for i, x in enumerate(args) if x is not None and np.issubdtype(x.dtype, np.floating)]

    def gradients(args: tuple, d_result: jax.Array) -> tuple:
        def of_real(*given: jax.Array) -> jax.Array:
            return f(*(given[real.index(i)] if i in real else x for i, x in enumerate(args)))

        return jax.vjp(of_real, *(args[i] for i in real))[1](d_result)

    def backward(args: tuple, d_result: jax.Array) -> tuple:
        specs = tuple(in_specs[i] for i in real)
        found = nested_shard_map(gradients, (in_specs, out_specs), specs, axes)(args, d_result)
        return tuple(found[real.index(i)] if i in real else None for i in range(len(args)))

    again = jax.custom_vjp(lambda *args: forward(*args))
    again.defvjp(lambda *args: (forward(*args), args), backward)
    return again(*args)


# -- what a state is split by -------------------------------------------------------------------------------------


class StateSpecs(NamedTuple):
    """PartitionSpec of every weight, of its gradient and of its optimiser moments, each in the params' structure."""

    params: dict[str, Any]
    gradients: dict[str, Any]
    moments: dict[str, Any]


def state_specs(weights: WeightTree, rules: Rules, mesh: Mesh | AbstractMesh, zero: int) -> StateSpecs:
    """How ZeRO stage `zero` (Rajbhandari et al. 2020) splits a training state; `mesh` is that of `zero_mesh`.

    Stage 1 splits the moments over `data` x `fsdp`, stage 2 the gradients too. Stage 3 splits the parameters too, over
    `fsdp` alone: `data` then numbers whole copies of the model, and each keeps its share of moments and gradients.
    Stage 0 splits nothing. Where `expert` and `context` hold copies of a weight they count as `data` does. A weight
    without a dim that these divide keeps its moments whole.
    """
    kept = map_weights(lambda w: rules.spec(w.axes), weights)
    shared = map_weights(lambda w: _spread(w.shape, w.axes, rules.spec(w.axes), mesh), weights)
    return StateSpecs(kept, shared if zero >= 2 else kept, shared if zero >= 1 else kept)


def _spread(shape: Sequence[int], dims: Sequence[str], spec: PartitionSpec, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """`spec` with every axis of REPLICAS that it lacks added to a dim that it divides: the one over `fsdp` if possible,
    else the one of the largest share."""
    entries = [mesh_axes(entry) for entry in spec]

    def share(i: int) -> int:
        return shape[i] // math.prod(mesh.shape[axis] for axis in entries[i])

    for axis in REPLICAS:
        ways = mesh.shape[axis]
        whole = [i for i in range(len(entries)) if share(i) % ways == 0]
        if ways > 1 and whole and not any(axis in axes for axes in entries):
            best = max(whole, key=lambda i: ("fsdp" in entries[i], dims[i] != "layers", share(i)))
            entries[best] = (*entries[best], axis)
    return PartitionSpec(*map(_entry, entries))


def check_divisible(weights: WeightTree, rules: Rules, sizes: Mapping[str, int]) -> None:
    """ConfigError naming the first weight whose dim mesh axes of these sizes do not divide."""
    for path, weight in walk(weights):
        for size, dim, entry in zip(weight.shape, weight.axes, rules.spec(weight.axes), strict=True):
            ways = math.prod(sizes[axis] for axis in mesh_axes(entry))
            require(
                size % ways == 0,
                f"mesh.{'x'.join(mesh_axes(entry))}",
                f"{ways} does not divide the {dim} dim {size} of {'/'.join(path)}",
                f"use a divisor of {size}",
            )


def weight_shardings(weights: WeightTree, rules: Rules, mesh: Mesh) -> dict[str, Any]:
    """NamedSharding of every weight, in the structure of the params; checked for divisibility."""
    check_divisible(weights, rules, mesh.shape)

    def sharding(weight: Weight) -> NamedSharding:
        return NamedSharding(mesh, rules.spec(weight.axes))

    return map_weights(sharding, weights)
