"""Pipeline schedules on virtual CPU devices: idle share against the formula, and memory for activations.

    python benchmarks/pipeline.py [--quick] [--keep]

A stage's idle ticks run on what is not there, so on devices that share this machine's cores a bubble costs CPU time:
`ours` is the share of a pipelined step's CPU time that the same schedule with one stage does not take (least of
several, in turn), `peer` the formula (p - 1) / (v m + p - 1). Blocks run forwards twice on all sides: 1F1B by itself,
the others because remat is "full". `activations` is what XLA sets aside for one device beside parameters, gradients and
batch where remat is "none" for all. The last lines are the table for docs/sharding.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import meshes

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
STAGES, ROWS, SEQ, LAYERS = 4, 8, 128, 8
SCHEDULES = (("gpipe", 1), ("circular", 2), ("1f1b", 1))
MICROBATCHES = (4, 8)


def main() -> int:
    """Compile and time every schedule at every number of micro-batches."""
    options = _options().parse_args()
    from launch import environment

    os.environ.update(environment.settings(os.environ))
    environment.keep_freed_memory()
    from models.pipeline import Schedule

    rows = []
    for m in MICROBATCHES[:1] if options.quick else MICROBATCHES:
        for kind, rounds in SCHEDULES:
            schedule = Schedule(kind, STAGES, m, rounds)  # type: ignore[arg-type]
            remat = "none" if kind == "1f1b" else "full"
            one_stage, _ = prepared(Schedule("1f1b" if kind == "1f1b" else "gpipe", 1, m), remat)
            step, activations = prepared(schedule, remat)
            whole, useful = in_turn(step, one_stage, options.repeats)
            activations = activations if remat == "none" else prepared(schedule, "none")[1]
            measured = 1 - useful / whole
            case = f"{kind} p={STAGES} m={m}" + (f" v={rounds}" if rounds > 1 else "")
            row = meshes.line(
                "pipeline", case, "idle share", measured, schedule.bubble, round(measured / schedule.bubble, 3),
                activations=activations, cpu_s=whole, cpu_s_of_one_stage=useful,
            )  # fmt: skip
            rows.append(row)
            meshes.show(row, options.keep)
    print(table(rows))
    return 0


def prepared(schedule: Any, remat: str) -> tuple[Callable[[], Any], int]:
    """(one loss and gradient on ready arrays, temporary bytes on one device)."""
    import jax
    import numpy as np

    from models import transformer
    from models.config import ModelConfig
    from models.pipeline import pipelined_loss
    from models.sharding import DEFAULT_RULES, MeshConfig, make_mesh, weight_shardings

    model = ModelConfig(vocab_size=32, d_model=128, n_layers=LAYERS, n_heads=4, d_ff=512, scan_layers=True).resolved()
    model = dataclasses.replace(model, remat=remat)  # type: ignore[arg-type]
    mesh = make_mesh(MeshConfig(stage=schedule.stages), jax.devices()[: schedule.stages])
    shardings = weight_shardings(transformer.weights(model), DEFAULT_RULES, mesh)
    params = jax.device_put(jax.jit(partial(transformer.init, model))(jax.random.key(0)), shardings)
    shape = (schedule.microbatches * ROWS, SEQ + 1)
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, shape, np.int32)

    def loss(params: Any, tokens: Any) -> Any:
        return pipelined_loss(model, schedule, params, tokens)[0]

    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.value_and_grad(loss)).lower(params, tokens).compile()
    return lambda: compiled(params, tokens), compiled.memory_analysis().temp_size_in_bytes


def in_turn(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Least CPU seconds of each, all threads counted."""
    import jax

    best = [float("inf"), float("inf")]
    for _ in range(repeats + 1):
        for i, f in enumerate((first, second)):
            begin = time.process_time()
            jax.block_until_ready(f())
            best[i] = min(best[i], time.process_time() - begin)
    return best[0], best[1]


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The lines as Markdown."""
    lines = ["| schedule | idle, formula | idle, measured | activations, MB |", "|---|---|---|---|"]
    for row in rows:
        cells = row["case"], f"{row['peer']:.3f}", f"{row['ours']:.3f}", f"{row['activations'] / 1e6:.1f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _options() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help=f"only {MICROBATCHES[0]} micro-batches")
    made.add_argument("--repeats", type=int, default=5, help="timed steps of each schedule")
    made.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    return made


if __name__ == "__main__":
    sys.exit(main())
