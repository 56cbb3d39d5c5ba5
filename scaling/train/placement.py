"""Where a stack's arrays live: shardings of state and batches on a mesh, derived from the weights' declarations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError, require
from models.sharding import (
    DEFAULT_RULES,
    Rules,
    StateSpecs,
    check_divisible,
    current_mesh,
    mesh_axes,
    state_specs,
    zero_mesh,
)
from models.weight import WeightTree
from scaling.train.adaptation import Everything
from scaling.train.config import TrainConfig
from scaling.train.state import TrainState

# An initialiser runs once, so optimising it costs more than it saves: 4 s against 1 s for one layer on a CPU.
QUICK_COMPILE = {"xla_backend_optimization_level": 0}
PADDING = 128  # a model may round the tokenizer's vocabulary up to this multiple: see scaling.data.check_vocabulary
HOST = "pinned_host"  # the kind of memory that offloaded arrays rest in


def check_mesh(model: ModelConfig, train: TrainConfig, sizes: Mapping[str, int]) -> None:
    """ConfigError when a run cannot be divided over mesh axes of these sizes; -1 (the rest) is taken to fit."""
    size = {axis: max(1, n) for axis, n in sizes.items()}
    if math.prod(size.values()) == 1:
        return
    rows = train.batch_size // train.accumulate
    if size["stage"] > 1:
        _check_pipeline(model, train, size)
        rows //= train.schedule_over(size["stage"]).microbatches
    ways = math.prod(size[axis] for axis in mesh_axes(DEFAULT_RULES.batch))
    names = " x ".join(f"{axis}={size[axis]}" for axis in mesh_axes(DEFAULT_RULES.batch) if size[axis] > 1)
    problem = f"a micro-batch of {rows} sequences does not divide over {names}"
    require(rows % ways == 0, "train.batch_size", problem, f"use a multiple of {ways} for each micro-batch")
    problem = f"{train.seq_len} positions do not divide over context={size['context']}"
    fix = f"use a multiple of {size['context']}"
    require(train.seq_len % size["context"] == 0, "train.seq_len", problem, fix)
    if size["expert"] > 1:
        require(model.routed, "mesh.expert", "the model has no experts", "use 1, or set model.moe")
    for i, layer in enumerate(model.layers):
        for part in layer.parts:
            for axis in part.undivided:
                problem = f"layer {i} ({type(part).__name__}) cannot be divided over it"
                require(size[axis] == 1, f"mesh.{axis}", problem, "use 1, or a pattern without such layers")
    by_hand = [axis for axis in ("stage", "context", "expert") if size[axis] > 1]
    problem = f"trials side by side cannot share a program with {' and '.join(by_hand)}"
    require(size["trial"] == 1 or not by_hand, "mesh.trial", problem, "use 1: trials then run one after the other")
    ways = math.prod(size[axis] for axis in mesh_axes(DEFAULT_RULES.vocab))
    padded = -(-model.vocab_size // PADDING) * PADDING
    if model.vocab_size % ways and padded % ways == 0:
        problem = f"{model.vocab_size} tokens do not divide over {' x '.join(mesh_axes(DEFAULT_RULES.vocab))}={ways}"
        raise ConfigError("model.vocab_size", problem, f"pad it: set model.vocab_size={padded}")
    check_divisible(transformer.weights(model), DEFAULT_RULES, size)


def _check_pipeline(model: ModelConfig, train: TrainConfig, size: Mapping[str, int]) -> None:
    stages = size["stage"]
    problem = f"{type(train.objective).__name__} does not pass through {stages} stages"
    require(train.objective.staged, "mesh.stage", problem, "use 1, and another axis")
    fix = "use 1, or train.trains of Everything"
    require(isinstance(train.trains, Everything), "mesh.stage", "stages train every weight", fix)
    problem = f"{stages} stages for {model.n_layers} layers"
    require(stages <= model.n_layers, "mesh.stage", problem, f"use at most {model.n_layers}")
    runs = train.schedule_over(stages).rounds * stages
    problem = f"{model.n_layers} layers do not divide into {runs} equal runs ({stages} stages x {train.rounds} rounds)"
    require(model.n_layers % runs == 0, "mesh.stage", problem, f"use stages x rounds that divide {model.n_layers}")
    require(model.scan_layers, "model.scan_layers", "is off, but stages hold stacked layers", "set it to true")
    repeats = model.repeats
    outside = model.n_layers - repeats.period * repeats.groups
    problem = f"{outside} layers stand outside of the pattern's {repeats.groups} repeats, which stages divide"
    require(not outside, "mesh.stage", problem, "use 1, or a pattern that repeats over all layers")
    problem = f"{repeats.groups} repeats of the pattern do not divide into {runs} equal runs"
    require(repeats.groups % runs == 0, "mesh.stage", problem, f"use stages x rounds that divide {repeats.groups}")


class Placement:
    """Shardings of a stack: dim 0 of everything is the trial, the rest follows `rules`.

    abstract: the stack's state as ShapeDtypeStructs, every leaf `[trials, ...]`. zero: see models.sharding.state_specs;
    `self.mesh` is the mesh that it runs on. offload: "optimizer" keeps the moments in the host's memory. trained: the
    declarations of the params, where they are not the model's.
    """

    def __init__(
        self,
        model: ModelConfig,
        mesh: Mesh,
        abstract: TrainState,
        *,
        zero: int = 3,
        offload: Literal["none", "optimizer"] = "none",
        rules: Rules = DEFAULT_RULES,
        trained: WeightTree | None = None,
    ):
        self.mesh, self.rules = zero_mesh(mesh, zero), rules
        self.distributed = self.mesh.size > 1 or offload != "none"
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.per_trial = NamedSharding(self.mesh, PartitionSpec("trial"))
        trials, ways = abstract.step.shape[0], self.mesh.shape["trial"]
        problem = f"{ways} does not divide the {trials} trials of a stack"
        require(trials % ways == 0, "mesh.trial", problem, f"use a divisor of {trials}, or stacks of another size")
        weights = transformer.weights(model) if trained is None else trained
        check_divisible(weights, rules, self.mesh.shape)
        self.specs = state_specs(weights, rules, self.mesh, zero)
        for field, rests in (("train.offload", offload != "none"), ("model.remat", model.remat == "offload")):
            if rests:
                check_host_memory(mesh.devices.flat[0], field)
        memory = HOST if offload == "optimizer" else None
        self.state = abstract._replace(
            **{name: jax.tree.map(lambda _: self.per_trial, value) for name, value in abstract._asdict().items()}
        )._replace(
            params=self._shardings(abstract.params, self.specs.params),
            opt_state=self._shardings(abstract.opt_state, self.specs.moments, memory),
        )

    def context(self) -> contextlib.AbstractContextManager:
        """The mesh in which the model's sharding constraints are resolved."""
        return jax.set_mesh(self.mesh) if self.distributed else contextlib.nullcontext()

    def _shardings(self, abstract: Any, specs: Any, memory: str | None = None) -> Any:
        """Of a tree in the structure of the params, or of one that ends in it."""

        def sharding(leaf: Any, spec: PartitionSpec | None) -> NamedSharding:
            if spec is None:
                return self.per_trial
            return NamedSharding(self.mesh, PartitionSpec("trial", *spec), memory_kind=memory)

        return map_like(sharding, abstract, specs)

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

    def jit_advance(self, f: Callable[..., Any], arguments: int = 4) -> Callable[..., Any]:
        """Compile (state, batches, hyper, first, stop) -> (state, metrics) with the state donated.

        arguments: how many follow the state; five where frozen models do.

        On a TPU mesh the compiler chooses the layouts that the state rests in. jax's own order of dims would have it
        copied in every step: tiles of 8 x 128 do not fit the short dim before the last of a fused gate and up, and the
        copies of a 350M model took 0.8 GB on each of 4 chips. Use `compiled` to run such a program.
        """
        if not self.distributed:
            return jax.jit(f, donate_argnums=0)
        if self.mesh.devices.flat[0].platform != "tpu":
            return jax.jit(f, donate_argnums=0, out_shardings=(self.state, self.per_trial))
        state = jax.tree.map(lambda s: s if s.memory_kind == HOST else Format(Layout.AUTO, s), self.state)
        shardings = (state, *[None] * arguments), (state, self.per_trial)
        return jax.jit(f, donate_argnums=0, in_shardings=shardings[0], out_shardings=shardings[1])

    def compiled(self, program: Any, state: TrainState, *arguments: Any) -> Callable[..., Any]:
        """`program`, from `jit_advance`, compiled for these arguments; it takes a state in any layout."""
        if not self.distributed or self.mesh.devices.flat[0].platform != "tpu":
            return program.lower(state, *arguments).compile()
        compiled = program.lower(self.abstract(state), *arguments).compile()
        formats = compiled.input_formats[0][0]
        return lambda state, *rest: compiled(jax.device_put(state, formats, donate=True), *rest)

    def abstract(self, abstract: TrainState) -> TrainState:
        """ShapeDtypeStructs with their shardings, for restoring a checkpoint onto this mesh."""
        if not self.distributed:
            return abstract
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract, self.state
        )


def trial_mode(batch_mode: str, mesh: Mesh, trials: int) -> str:
    """How `over_trials` runs a stack of `trials` on `mesh`: as `batch_mode` says on one device.

    A mesh takes one trial as it is, several side by side along `trial` and else one by one: what is split by hand over
    other axes (stage, context, expert) has no place for a dim of trials.
    """
    if mesh.size == 1:
        return batch_mode
    return "vmap" if mesh.shape["trial"] > 1 else "single" if trials == 1 else "map"


def check_host_memory(device: Any, field: str = "train.offload") -> None:
    """ConfigError, naming `field`, when the device cannot reach host memory that transfers run from."""
    try:
        kinds = [memory.kind for memory in device.addressable_memories()]
    except (NotImplementedError, RuntimeError):  # a device that is only described, for compiling ahead of time
        return
    problem = f"{device.platform} devices have no {HOST} memory ({', '.join(kinds)})"
    require(HOST in kinds, field, problem, "use 'none'")


# -- inside the step ----------------------------------------------------------------------------------------------


def specs_of(model: ModelConfig, train: TrainConfig) -> StateSpecs | None:
    """How the state is split on the current mesh; None without one."""
    mesh = current_mesh()
    return None if mesh is None else state_specs(train.weights(model), DEFAULT_RULES, mesh, train.zero)


def laid_out(tree: Any, specs: Any) -> Any:
    """`tree`, which is or ends in the structure of the params, constrained to `specs`; the identity for None."""
    if specs is None:
        return tree
    return map_like(lambda x, spec: x if spec is None else jax.lax.with_sharding_constraint(x, spec), tree, specs)


def map_like(f: Callable[[Any, PartitionSpec | None], Any], tree: Any, specs: Any) -> Any:
    """f(leaf, spec of the parameter whose path the leaf's path ends in, or None) over `tree`."""
    by_path = dict(jax.tree_util.tree_leaves_with_path(specs, is_leaf=lambda x: isinstance(x, PartitionSpec)))

    def one(path: tuple, leaf: Any) -> Any:
        return f(leaf, next((by_path[path[i:]] for i in range(len(path)) if path[i:] in by_path), None))

    return jax.tree_util.tree_map_with_path(one, tree)


def to_device(tree: Any) -> Any:
    """Leaves that rest in the host's memory, in the device's; inside jit."""
    return jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Device), tree)


def to_host(tree: Any) -> Any:
    """Arrays of more than one number in the host's memory; inside jit."""
    return jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Host) if x.ndim else x, tree)
