"""Whether the ranking of meshes agrees with measured time: every mesh of 8 virtual CPU devices, estimated and run.

    python benchmarks/choose_mesh.py [--quick] [--every N] [--keep] [--table FILE]

First the figures of one virtual device are measured (products, memory, collectives): the device table, which --table
writes. Then every legal way to divide a small model over 8 devices is ranked by the estimate and run, each compiled
once and timed by the least CPU time of several steps: all devices share this machine's cores, so that CPU time and not
wall time tells what a mesh costs. One JSON line per mesh and one for the ranking, whose `ours` is Spearman's rank
correlation; exits with 1 when it is below 0.8 or the choice is more than 25 % slower than the best.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

DEVICES = 8


def main() -> int:
    """Measure, rank, run, compare."""
    options = _options().parse_args()
    from launch import environment

    os.environ.update(environment.settings(os.environ))
    environment.keep_freed_memory()
    import meshes
    import numpy as np
    from scipy.stats import spearmanr

    from launch.choose_mesh import choose_mesh
    from launch.topology import parse_topology

    device = measured_device()
    table = {name: value for name, value in dataclasses.asdict(device).items() if name != "matrix"}
    if options.table:
        Path(options.table).write_text(json.dumps(table, indent=1), encoding="utf-8")
    choice = choose_mesh(trial(), parse_topology(f"cpu:{DEVICES}"), device=device, sensible=False)
    ranked = [c for c in choice.ranked if not options.quick or c.trial.model.remat == "none"][:: options.every]
    lines, seconds = [], []
    for candidate in ranked:
        taken = run_step(candidate.trial, options.steps)
        seconds.append(taken)
        name = " ".join(f"{key}={value}" for key, value in candidate.settings.items() if value not in (1, "none"))
        estimate = DEVICES * candidate.time.total
        lines.append(meshes.line("choose_mesh", name, "CPU s/step", taken, None, None, estimate=estimate))
        meshes.show(lines[-1], options.keep)
    correlation = float(spearmanr([c.time.total for c in ranked], seconds).statistic)
    slower = seconds[0] / min(seconds) - 1
    best = lines[int(np.argmin(seconds))]["case"]
    extra = {"meshes": len(ranked), "choice": lines[0]["case"], "best": best, "slower": slower, "table": table}
    summary = meshes.line("choose_mesh", "ranking", "rank correlation", correlation, None, None, **extra)
    meshes.show(summary, options.keep)
    return 0 if correlation >= 0.8 and slower <= 0.25 else 1


def _options() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="only meshes without rematerialisation")
    made.add_argument("--every", type=int, default=1, help="only every N-th of the ranked meshes")
    made.add_argument("--steps", type=int, default=5, help="timed steps of each mesh")
    made.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    made.add_argument("--table", default="", help="file for the measured device table")
    return made


def trial() -> Any:
    """The model that is divided: small enough to compile some hundred times, large enough that its products count."""
    from models.config import ModelConfig
    from scaling.sweep.trial import Trial
    from scaling.train.config import TrainConfig

    model = ModelConfig(
        vocab_size=512, d_model=128, n_layers=4, n_heads=8, d_ff=384, tied_embeddings=False, scan_layers=True
    )
    return Trial(model=model, train=TrainConfig(batch_size=32, seq_len=128, spike_factor=1e30))


def cpu_seconds(f: Callable[[], Any], repeats: int) -> float:
    """Least CPU time of one call, all threads counted."""
    import jax

    jax.block_until_ready(f())
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        jax.block_until_ready(f())
        best = min(best, time.process_time() - begin)
    return best


def run_step(trial: Any, repeats: int) -> float:
    """Least CPU seconds of one real training step of `trial` on its mesh."""
    import jax
    import numpy as np

    from launch.program import lower_step
    from models.sharding import make_mesh
    from scaling.train.config import hyperparameters
    from scaling.train.placement import Placement
    from scaling.train.step import init_state, over_trials

    mesh = make_mesh(trial.mesh, jax.devices()[:DEVICES])
    hyper = jax.tree.map(lambda x: np.stack([x]), hyperparameters(trial.train))
    initial = over_trials(partial(init_state, trial.model, trial.train), "single")
    seeds = np.zeros(1, np.uint32)
    placement = Placement(trial.model, mesh, jax.eval_shape(initial, seeds, hyper), zero=trial.train.zero)
    with placement.context():
        compiled = lower_step(trial, jax.devices()[:DEVICES]).compile()
        state = placement.jit_init(initial)(seeds, hyper)
        shape = (1, 1, trial.train.batch_size, trial.train.seq_len + 1)
        tokens = np.random.default_rng(0).integers(0, trial.model.vocab_size, shape).astype(np.int32)
        batches = placement.put_batches({"tokens": tokens})
        per_trial = partial(jax.device_put, device=placement.per_trial)
        hyper = jax.tree.map(per_trial, hyper)
        at = 0

        def step() -> Any:
            nonlocal state, at
            first = np.full(1, at, np.int32)
            state, metrics = compiled(state, batches, hyper, per_trial(first), per_trial(first + 1))
            at += 1
            return metrics

        return cpu_seconds(step, repeats)


def measured_device() -> Any:
    """The figures of one virtual device, by CPU time: what a device does while the others do as much."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    from launch.topology import CPU

    mesh = Mesh(jax.devices()[:DEVICES], ("x",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec("x")), NamedSharding(mesh, PartitionSpec())

    def per_device(f: Callable[..., Any], *shapes: tuple[int, ...], out: Any = split) -> float:
        arrays = [jax.device_put(jnp.ones((DEVICES, *shape), jnp.float32), split) for shape in shapes]
        compiled = jax.jit(f, out_shardings=out)
        return cpu_seconds(lambda: compiled(*arrays), 10) / DEVICES

    nothing = per_device(lambda x: x + 1, (8,))
    rows, inner, columns = 512, 128, 384
    product = per_device(lambda x, w: x @ w, (rows, inner), (inner, columns)) - nothing
    size = 2**21
    scaled = per_device(lambda x: 2 * x, (size,)) - nothing
    gathered = per_device(lambda x: x * 1, (size // DEVICES,), out=whole)
    small = per_device(lambda x: x * 1, (8,), out=whole)

    def passed_on(times: int) -> float:
        def f(x: jax.Array) -> jax.Array:
            for _ in range(times):
                x = jax.lax.ppermute(x + 1, "x", [(i, (i + 1) % DEVICES) for i in range(DEVICES)])
            return x

        return per_device(jax.shard_map(f, mesh=mesh, in_specs=PartitionSpec("x"), out_specs=PartitionSpec("x")), (8,))

    sent = 4 * size / DEVICES * (DEVICES - 1)
    return dataclasses.replace(
        CPU,
        flops=2 * rows * inner * columns / product,
        bandwidth=2 * 4 * size / scaled,
        link=sent / (gathered - small),
        latency=max(0.0, passed_on(65) - passed_on(1)) / 64,
        efficiency=1.0,
        overlap=0.0,
    )


if __name__ == "__main__":
    sys.exit(main())
