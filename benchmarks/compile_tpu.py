"""The real train step compiled for TPU topologies: bytes per device against our estimate, seconds, collectives.

    python benchmarks/compile_tpu.py [--quick] [--keep] [--cases NAME,...] [--configs]

Needs the extra isoflop[tpu]; no TPU. Each case is one (shape, mesh, topology): `ours` is the estimated peak in bytes on
a device (scaling/train/memory.py), `peer` the compiler's, `ratio` theirs over ours. --configs compiles every shipped
large config on its intended topology as well. The last line says how far the estimates are off at most; exits with 1
when that is more than 10 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from typing import Any

import meshes

os.environ.setdefault("JAX_PLATFORMS", "cpu")
TOLERANCE = 0.10
# name -> topology, preset, mesh, sequences, length, remat, other fields of TrainConfig
CASES: dict[str, tuple[str, str, str, int, int, str, dict[str, Any]]] = {
    "350m fsdp": ("v5e:2x2", "LLAMA_350M", "fsdp=4", 8, 2048, "full", {}),
    "350m fsdp dots": ("v5e:2x2", "LLAMA_350M", "fsdp=4", 8, 2048, "dots", {}),
    "350m data": ("v5e:2x2", "LLAMA_350M", "data=4", 8, 2048, "full", {}),
    "350m tensor": ("v5e:2x2", "LLAMA_350M", "tensor=4", 8, 2048, "full", {}),
    "350m data fsdp": ("v5e:2x2", "LLAMA_350M", "data=2,fsdp=2", 16, 2048, "full", {}),
    "350m accumulate": ("v5e:2x2", "LLAMA_350M", "fsdp=2,tensor=2", 32, 2048, "full", {"accumulate": 4}),
    "1b fsdp": ("v5e:4x4", "LLAMA_1B", "fsdp=16", 32, 2048, "full", {}),
    "1b fsdp tensor": ("v5e:4x4", "LLAMA_1B", "fsdp=4,tensor=4", 32, 2048, "full", {}),
    "1b fsdp tensor dots": ("v6e:4x4", "LLAMA_1B", "fsdp=8,tensor=2", 64, 2048, "dots", {}),
    "1b data fsdp": ("v5e:4x4", "LLAMA_1B", "data=4,fsdp=4", 64, 4096, "full", {}),
    "1b fsdp context": ("v5e:4x4", "LLAMA_1B", "fsdp=8,context=2", 16, 8192, "full", {}),
    "1b fsdp stage": ("v5e:4x4", "LLAMA_1B", "fsdp=8,stage=2", 64, 2048, "full", {}),
    "8b fsdp": ("v5p:2x2x2", "LLAMA3_8B", "fsdp=8", 8, 8192, "full", {}),
    "8b fsdp tensor": ("v6e:4x4", "LLAMA3_8B", "fsdp=8,tensor=2", 16, 4096, "full", {}),
}
CONFIGS = {
    "ladder_350m": "v5e:4x4",
    "ladder_1b": "tpu7x:4x4x4",
    "llama3_8b": "v5e:16x16",
    "mixtral_8x7b": "v6e:16x16",
    "llama3_70b": "v5p:8x8x8",
}
QUICK = ("350m fsdp", "350m data", "350m tensor")


def main() -> int:
    """Compile the cases one after the other."""
    options = _options().parse_args()
    from launch.overrides import load_config
    from launch.topology import parse_topology
    from scaling.sweep.trial import Trial

    names = options.cases.split(",") if options.cases else QUICK if options.quick else CASES
    work = [(name, parse_topology(CASES[name][0]), meshes.trial(*CASES[name][1:6], **CASES[name][6])) for name in names]
    if options.configs:
        for name, topology in CONFIGS.items():
            trial = load_config(meshes.ROOT / "configs" / f"{name}.py", (Trial,))
            work.append((name, parse_topology(topology), trial))
    worst = 0.0
    for name, topology, trial in work:
        record = compiled(name, topology, trial)
        meshes.show(record, options.keep)
        worst = max(worst, abs(record["ratio"] - 1))
    meshes.show(
        meshes.line("compile_tpu", "all", "largest error of the estimate", worst, None, None, cases=len(work)),
        options.keep,
    )
    return 0 if worst <= TOLERANCE else 1


def compiled(name: str, topology: Any, trial: Any) -> dict[str, Any]:
    """The line of one case."""
    from launch.collectives import by_kind
    from launch.program import compile_step, on_topology
    from models import counts
    from scaling.train.memory import estimate_memory

    trial = on_topology(trial, topology)
    estimate = estimate_memory(trial.model, trial.train, trial.mesh)
    program = compile_step(trial, topology)
    footprint = program.footprint
    return meshes.line(
        "compile_tpu", name, "bytes on a device at the peak", estimate.peak, footprint.peak,
        round(footprint.peak / estimate.peak, 4),
        topology=topology.name, mesh={axis: size for axis, size in trial.mesh.sizes.items() if size > 1},
        remat=trial.model.remat, batch_size=trial.train.batch_size, seq_len=trial.train.seq_len,
        accumulate=trial.train.accumulate, params=counts.params(trial.model),
        share=footprint.peak / topology.device.capacity,
        memory=dataclasses.asdict(footprint), estimate=dataclasses.asdict(estimate),
        collectives=by_kind(program.collectives), compile_s=round(program.seconds, 1),
    )  # fmt: skip


def _options() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    made.add_argument("--cases", default="", help=f"comma-separated, among {', '.join(CASES)}")
    made.add_argument("--configs", action="store_true", help="also the shipped large configs")
    made.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    return made


if __name__ == "__main__":
    sys.exit(main())
