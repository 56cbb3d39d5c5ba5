"""Numbers for the simulator: what products, memory, a launch and a compile cost here; the last case writes the table.

OUT/device_table.json has fields of `models.devices.Device`, which `launch.compile --choose_mesh --device_table` lays
over those of the data sheet: `flops` (the maker's dense bfloat16 peak, or where it is unknown the best product here),
`efficiency` (of the products of a training step: bfloat16, 4096 wide), `bandwidth` (bytes/s of a copy, read and
written), `memory` and `usable` (bytes). What links carry needs several devices and is not in it.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from accelerator_stages import common
from accelerator_stages.common import Cases

TYPES = ("bfloat16", "float32", "float32 highest", "int8")
WIDTH = 4096  # of the product whose share of the peak is the table's `efficiency`


def cases(stage: str, toy: bool, out: Path) -> Cases:
    """Matrix products by type, copies, launches, a compile, and the table."""
    made: Cases = {f"products {kind}": partial(products, kind, toy) for kind in TYPES}
    made |= {"copy": partial(copy, toy), "launch": partial(launch, toy), "compile": partial(compiling, toy)}
    made["table"] = partial(write_table, out, toy)
    return made


def sizes(toy: bool) -> tuple[int, ...]:
    """Widths of the square products."""
    return (64, 128) if toy else (1024, 2048, WIDTH, 8192, 16_384)


def products(kind: str, toy: bool) -> dict[str, Any]:
    """FLOP/s of square products by width, on random data (zeros take less power and run faster)."""
    import jax
    import jax.numpy as jnp

    name, _, highest = kind.partition(" ")
    total = jnp.int32 if name == "int8" else jnp.float32
    precision = "highest" if highest else None
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision, preferred_element_type=total))
    found: dict[str, float] = {}
    for size in sizes(toy):
        if highest and size > 8192:
            continue
        draw = jax.random.split(jax.random.key(0))
        shape = (size, size)
        if name == "int8":
            a, b = (jax.random.randint(key, shape, -127, 127, jnp.int8) for key in draw)
        else:
            a, b = (jax.random.normal(key, shape, name) for key in draw)
        seconds = common.seconds_per_call(product, a, b, calls=2 if toy or size > 8192 else 10)
        found[str(size)] = float(f"{2 * size**3 / seconds:.4g}")
    return {"flops_per_s": found, "type": kind, **common.limits()}


def copy(toy: bool) -> dict[str, Any]:
    """Bytes per second of a copy on the device, read and written, by the array's size."""
    import jax
    import jax.numpy as jnp

    found: dict[str, float] = {}
    for mib in (1, 4) if toy else (16, 256, 2048):
        x = jnp.ones((mib * 2**20 // 4,), jnp.float32)
        seconds = common.seconds_per_call(jax.jit(lambda x: x + 1), x, calls=3 if toy else 10)
        found[str(mib)] = float(f"{2 * x.nbytes / seconds:.4g}")
    return {"bytes_per_s": found, "size_unit": "MiB", **common.limits()}


def launch(toy: bool) -> dict[str, Any]:
    """Seconds of a call that does next to nothing: in a row, and with the answer waited for."""
    import jax
    import jax.numpy as jnp

    tiny, x = jax.jit(lambda x: x + 1), jnp.zeros(8)
    row = common.seconds_per_call(tiny, x, calls=20 if toy else 500)
    waited = common.seconds_per_call(tiny, x, calls=1, rounds=10)
    return {"us_in_a_row": round(row * 1e6, 2), "us_waited_for": round(waited * 1e6, 2)}


def compiling(toy: bool) -> dict[str, Any]:
    """Seconds to trace, lower and compile one training step of `micro`, the compilation cache left out."""
    import dataclasses

    import jax
    import numpy as np

    from models import presets
    from scaling.train.config import TrainConfig, hyperparameters
    from scaling.train.step import init_state, train_step

    jax.config.update("jax_enable_compilation_cache", False)
    model = dataclasses.replace(presets.MICRO, n_layers=1 if toy else presets.MICRO.n_layers).resolved()
    train = TrainConfig(steps=10, batch_size=4, seq_len=64)
    hyper = hyperparameters(train)
    state = jax.eval_shape(partial(init_state, model, train), np.uint32(0), hyper)
    batch = {"tokens": jax.ShapeDtypeStruct((4, 65), np.int32)}
    began = time.perf_counter()
    lowered = jax.jit(partial(train_step, model, train, 1e30), donate_argnums=0).lower(state, batch, hyper)
    traced = time.perf_counter()
    lowered.compile()
    jax.config.update("jax_enable_compilation_cache", True)
    return {"lower_s": round(traced - began, 2), "compile_s": round(time.perf_counter() - traced, 2)}


def write_table(out: Path, toy: bool) -> dict[str, Any]:
    """The table from this run's lines; ValueError where products or copies were not measured."""
    import jax

    lines = {x["case"]: x for x in common.read(out / "lines.jsonl") if x["stage"] == "table" and x["status"] == "done"}
    if missing := sorted({"products bfloat16", "copy"} - set(lines)):
        raise ValueError(f"no table without {', '.join(missing)}")
    measured = lines["products bfloat16"]["flops_per_s"]
    limits = common.limits()
    peak = limits["peak_flops"] or max(measured.values())
    at = measured[str(sizes(toy)[-1] if toy else WIDTH)]
    table: dict[str, float] = {
        "flops": peak, "efficiency": round(min(at / peak, 1.0), 4),
        "bandwidth": max(lines["copy"]["bytes_per_s"].values()),
    }  # fmt: skip
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit:
        table |= {"memory": float(limit), "usable": float(limit)}
    (out / "device_table.json").write_text(json.dumps(table, indent=1) + "\n")
    return {"table": table}
