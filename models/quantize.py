"""Quantisation of a whole model: which weights become integers, how many bytes remain, which mode is fastest."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from models.config import ModelConfig
from models.contraction import contract
from models.errors import nearest, require
from models.platform import on_cpu
from models.quantized import Mode, QuantizedWeight, quantize_weight
from models.weight import Stacked, Weight, walk

QuantizeMode = Literal["float32", "int8", "w8a8", "int4"]
MODES: tuple[QuantizeMode, ...] = ("float32", "int8", "w8a8", "int4")


def quantize(params: Mapping[str, Any], config: ModelConfig, mode: QuantizeMode) -> dict[str, Any]:
    """Params whose matrices, head and tied table are `QuantizedWeight`; the transformer runs on them unchanged.

    float32: params as they are. int8: 8-bit weights, one scale per output. w8a8: the same weights, and activations
    rounded to 8 bits row by row when they are used. int4: 4-bit weights, a scale per output and group of 128 inputs;
    an odd fan-in stays at int8. Vectors, position tables, untied token tables (a look-up, not a
    product) and experts stay in floating point. Inference only: there is no gradient.
    """
    require(mode in MODES, "quantize.mode", f"is {mode!r}", f"use {nearest(str(mode), MODES) or ', '.join(MODES)}")
    from models.transformer import weights  # the transformer's products import QuantizedWeight

    made: dict[str, Any] = jax.tree.map(lambda x: x, dict(params))
    if mode == "float32":
        return made
    tied = config.tied_embeddings
    for path, weight in walk(weights(config)):
        if not _is_product(weight, path, tied):
            continue
        node = made
        for name in path[:-1]:
            node = node[name]
        node[path[-1]] = _quantized(node[path[-1]], weight, mode)
    return made


def _is_product(weight: Weight, path: tuple[str, ...], tied: bool) -> bool:
    if weight.role == "embedding":
        return tied and path == ("tokens",)
    return weight.role in ("matrix", "head") and not weight.unpacked


def _quantized(value: jax.Array, weight: Weight, mode: Mode) -> QuantizedWeight:
    table = weight.role == "embedding"
    fan_in = weight.shape[1] if table else weight.fan_in
    mode = "int8" if mode == "int4" and fan_in % 2 else mode
    one = partial(quantize_weight, mode=mode, inputs=weight.inputs, transposed=table)
    return jax.lax.map(one, value) if isinstance(weight, Stacked) else jax.jit(one)(value)


def param_bytes(params: Any) -> int:
    """Bytes of all arrays of a params tree, quantised or not."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))


def quantized_bytes(config: ModelConfig, mode: QuantizeMode) -> int:
    """Bytes that `quantize` leaves, from the declarations alone; float parameters count in `param_dtype`."""
    from models.transformer import init

    shapes = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
    return param_bytes(jax.eval_shape(lambda p: quantize(p, config, mode), shapes))


# -- which mode ---------------------------------------------------------------------------------------------------


def product_shapes(config: ModelConfig) -> dict[tuple[int, int], int]:
    """How often a forward pass multiplies by a matrix of (inputs, outputs)."""
    from models.transformer import weights

    counts: dict[tuple[int, int], int] = {}
    for path, weight in walk(weights(config)):
        if not _is_product(weight, path, config.tied_embeddings):
            continue
        layers, declared = (weight.shape[0], weight.layer()) if isinstance(weight, Stacked) else (1, weight)
        fan_in = declared.shape[1] if declared.role == "embedding" else declared.fan_in
        key = fan_in, declared.size // fan_in
        counts[key] = counts.get(key, 0) + layers
    return counts


def measure_modes(config: ModelConfig, rows: int, rounds: int = 5) -> dict[str, float]:
    """Least seconds that all products of one forward pass of `rows` rows take in each mode, on this machine.

    CPU time on a CPU, else wall time. Store the answer with the job: which mode runs decides which tokens come out,
    so it must not be measured anew when a job is resumed.
    """
    seconds: dict[str, float] = dict.fromkeys(MODES, 0.0)
    for (fan_in, out), count in product_shapes(config).items():
        for mode in MODES:
            seconds[mode] += count * measure_product(rows, fan_in, out, mode, rounds)
    return seconds


def measure_product(rows: int, fan_in: int, out: int, mode: QuantizeMode, rounds: int = 5) -> float:
    """Least seconds of `rounds` of x `[rows, fan_in]` times a weight `[fan_in, out]` kept in `mode`."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(rows, fan_in)), jnp.float32)
    w: Any = jnp.asarray(rng.normal(size=(fan_in, out)), jnp.float32)
    if mode != "float32":
        w = jax.jit(partial(quantize_weight, mode="int8" if mode == "int4" and fan_in % 2 else mode))(w)
    product = jax.jit(contract)
    jax.block_until_ready(product(x, w))
    clock = _cpu_seconds if on_cpu() else time.perf_counter
    once = _least(lambda: product(x, w), clock, 1, 1)
    return _least(lambda: product(x, w), clock, max(1, int(0.005 / max(once, 1e-6))), rounds)


def _least(call: Callable[[], jax.Array], clock: Callable[[], float], repeats: int, rounds: int) -> float:
    least = float("inf")
    for _ in range(rounds):
        begin = clock()
        for _ in range(repeats):
            result = call()
        jax.block_until_ready(result)
        least = min(least, (clock() - begin) / repeats)
    return least


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def fastest(seconds: Mapping[str, float], within: float = 0.03) -> QuantizeMode:
    """The mode of `measure_modes` to use: the most precise one that is within 3 % of the fastest.

    So float32 stays unless something beats it, and two int8 digits are preferred to one where they cost the same.
    """
    best = min(seconds.values())
    for mode in MODES:  # from the most precise down
        if seconds.get(mode, float("inf")) <= best * (1 + within):
            return mode
    raise AssertionError("unreachable: the fastest mode is within any share of itself")
