"""The train step as one program for devices that need not exist: lowered, compiled, and read for what it needs."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from launch.collectives import Collective, collectives
from launch.topology import Topology, find_devices
from models import transformer
from models.config import ModelConfig
from models.sharding import DEFAULT_RULES, make_mesh, weight_shardings, zero_mesh
from scaling.sweep.trial import Trial
from scaling.train.config import hyperparameters
from scaling.train.objectives.frozen import frozen_configs
from scaling.train.objectives.objective import Frozen, abstract_batch
from scaling.train.placement import Placement, trial_mode
from scaling.train.step import advance_trials, init_state, over_trials

_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
_TEMPORARIES = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class DoesNotFit(Exception):
    """The compiler refused a program for lack of memory: bytes that one device needs, and bytes that it has."""

    def __init__(self, needed: int, available: int):
        self.needed, self.available = needed, available
        super().__init__(f"needs {needed / 2**30:.2f} GiB on a device that has {available / 2**30:.2f} GiB")


class CompilerFailed(Exception):
    """The compiler ended without a program and without saying how much memory is missing."""


@dataclass(frozen=True)
class Footprint:
    """Bytes on one device, as the compiler reports them.

    arguments: state and batch. output: state and metrics, of which `alias` bytes overwrite the arguments. temp: what
    lives only within the step; TPUs report more than they use at any one time (programs whose arguments and temp
    exceed the memory compile and run). peak: the most that lives at once, arguments included: what has to fit. code:
    the program itself. host: what the host's memory holds of the arguments.
    """

    arguments: int
    output: int
    alias: int
    temp: int
    peak: int
    code: int
    host: int = 0


@dataclass(frozen=True)
class Program:
    """A compiled step. seconds: that tracing, lowering and compiling took. text: its HLO."""

    footprint: Footprint
    collectives: tuple[Collective, ...]
    seconds: float
    text: str


def on_topology(trial: Trial, topology: Topology) -> Trial:
    """The trial with its mesh resolved for the topology's devices and every derived field filled in."""
    return dataclasses.replace(trial, mesh=trial.mesh.resolve(topology.devices)).resolved()


def lower_step(trial: Trial, devices: Sequence[Any]) -> Any:
    """The step that training runs on `devices`, lowered (`jax.stages.Lowered`); nothing is allocated.

    As in `scaling.train.loop.Training`: `advance` over as many trials as the `trial` axis has devices, the state
    donated, one batch a call. ConfigError where the mesh does not divide the model or the batch.
    """
    trial = dataclasses.replace(trial, mesh=trial.mesh.resolve(len(devices))).resolved()
    model, train, trials = trial.model, trial.train, trial.mesh.trial
    on_cpu = devices[0].platform == "cpu"
    mesh = zero_mesh(make_mesh(trial.mesh, devices), train.zero)
    mode = trial_mode("map" if on_cpu else "vmap", mesh, trials)
    hyper = jax.tree.map(lambda x: np.stack([x] * trials), hyperparameters(train))
    initial = over_trials(partial(init_state, model, train), mode)
    with jax.set_mesh(mesh):
        state = jax.eval_shape(initial, np.zeros(trials, np.uint32), hyper)
        placement = Placement(model, mesh, state, zero=train.zero, offload=train.offload)

        def abstract(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding)

        needs = abstract_batch(train.objective, train.batch_size, train.seq_len)
        shapes: dict[str, tuple[tuple[int, ...], Any]]
        shapes = {name: ((trials, 1, *x.shape), x.dtype) for name, x in needs.items()}
        if trial.data.packing == "segments":
            shapes["segments"] = shapes["tokens"]
        masked = trial.data.loss_mask != "none" or trial.data.packing == "documents"
        if masked and "weights" not in shapes:
            shapes["weights"] = ((trials, 1, train.batch_size, train.seq_len), np.float32)
        batches = {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=placement.batch_sharding(len(shape)))
            for name, (shape, dtype) in shapes.items()
        }
        step = jax.ShapeDtypeStruct((trials,), np.int32, sharding=placement.per_trial)
        read = frozen_configs(train.objective, model, trial.frozen)
        frozen = {name: _frozen(config, mesh) for name, config in read.items()}
        program: Any = placement.jit_advance(advance_trials(model, train, mode), 5 if frozen else 4)
        arguments = jax.tree.map(abstract, state, placement.state), batches
        hyper = jax.tree.map(lambda x: abstract(x, placement.per_trial), hyper)
        traced = program.trace(*arguments, hyper, step, step, *([frozen] if frozen else []))
        return traced.lower(lowering_platforms=("cpu" if on_cpu else "tpu",))


def _frozen(config: ModelConfig, mesh: Mesh) -> Frozen:
    """The shapes of a model that an objective reads, divided as it would be."""
    weights = transformer.weights(config)
    places = weight_shardings(weights, DEFAULT_RULES, mesh)
    shapes = jax.eval_shape(partial(transformer.init, config), jax.random.key(0))
    one = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, places)
    return Frozen(config, one)


def compile_step(trial: Trial, topology: Topology, options: dict[str, Any] | None = None) -> Program:
    """Compile the trial's step for all devices of `topology`; options are the compiler's.

    Raises DoesNotFit when the step needs more memory than a device has, ConfigError for what can be known before.
    """
    devices = find_devices(topology)
    begin = time.perf_counter()
    lowered = lower_step(trial, devices)
    try:
        compiled = lowered.compile(compiler_options=options)
    except Exception as error:
        sizes = _USED.search(str(error)) or _TEMPORARIES.search(str(error))
        if sizes is None or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(
            *(round(float(n) * _UNITS[unit]) for n, unit in (sizes.group(1, 2), sizes.group(3, 4)))
        ) from None
    seconds = time.perf_counter() - begin
    found = compiled.memory_analysis()
    static = found.argument_size_in_bytes + found.temp_size_in_bytes
    static += found.output_size_in_bytes - found.alias_size_in_bytes  # CPUs leave temp out of their peak
    footprint = Footprint(
        arguments=found.argument_size_in_bytes,
        output=found.output_size_in_bytes,
        alias=found.alias_size_in_bytes,
        temp=found.temp_size_in_bytes,
        peak=max(found.peak_memory_in_bytes, static if topology.family == "cpu" else 0),
        host=found.host_argument_size_in_bytes,
        code=found.generated_code_size_in_bytes,
    )
    text = compiled.as_text()
    mesh = trial.mesh.resolve(topology.devices).sizes
    return Program(footprint, tuple(collectives(text, mesh)), seconds, text)
