"""The real train step compiled for TPU topologies: bytes per device against our estimate, seconds, collectives.

    python benchmarks/compile_tpu.py [--quick] [--keep] [--cases NAME,...]
    python benchmarks/compile_tpu.py --table

Needs the extra isoflop[tpu]; no TPU. Each case is one (shape, mesh, topology), or a shipped large config on its
intended topology: `ours` is the estimated peak in bytes on a device (scaling/train/memory.py), `peer` the compiler's,
`ratio` theirs over ours. Cases of benchmarks/collectives.py have their collectives compared as well. --table compiles
nothing: it estimates anew and compares with the compiled peaks that results/compile_tpu.jsonl keeps. The table comes
last; exits with 1 when an estimate is off by more than 10 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterable
from typing import Any

import collectives
import meshes

os.environ.setdefault("JAX_PLATFORMS", "cpu")
TOLERANCE = 0.10
GPIPE, CIRCULAR = {"pipeline": "gpipe"}, {"pipeline": "circular", "rounds": 2}
# name -> topology, preset, mesh, sequences, length, remat, other fields of TrainConfig
CASES: dict[str, tuple[str, str, str, int, int, str, dict[str, Any]]] = {
    "350m fsdp dots": ("v5e:2x2", "LLAMA_350M", "fsdp=4", 8, 2048, "dots", {}),
    "350m data fsdp": ("v5e:2x2", "LLAMA_350M", "data=2,fsdp=2", 16, 2048, "full", {}),
    "350m accumulate": ("v5e:2x2", "LLAMA_350M", "fsdp=2,tensor=2", 32, 2048, "full", {"accumulate": 4}),
    "1b fsdp": ("v5e:4x4", "LLAMA_1B", "fsdp=16", 32, 2048, "full", {}),
    "1b fsdp tensor": ("v5e:4x4", "LLAMA_1B", "fsdp=4,tensor=4", 32, 2048, "full", {}),
    "1b fsdp tensor dots": ("v6e:4x4", "LLAMA_1B", "fsdp=8,tensor=2", 64, 2048, "dots", {}),
    "1b data fsdp": ("v5e:4x4", "LLAMA_1B", "data=4,fsdp=4", 64, 4096, "full", {}),
    "1b fsdp context": ("v5e:4x4", "LLAMA_1B", "fsdp=8,context=2", 16, 8192, "full", {}),
    "1b fsdp stage": ("v5e:4x4", "LLAMA_1B", "fsdp=8,stage=2", 64, 2048, "full", {}),
    "1b fsdp stage gpipe": ("v5e:4x8", "LLAMA_1B", "fsdp=16,stage=2", 64, 2048, "full", GPIPE | {"microbatches": 2}),
    "350m stage gpipe dots": ("v5e:2x2", "LLAMA_350M", "stage=4", 16, 2048, "dots", GPIPE | {"microbatches": 8}),
    "350m fsdp stage dots": ("v5e:2x4", "LLAMA_350M", "fsdp=4,stage=2", 32, 2048, "dots", {"microbatches": 4}),
    "350m fsdp stage gpipe": ("v5e:2x4", "LLAMA_350M", "fsdp=4,stage=2", 32, 2048, "full", GPIPE | {"microbatches": 4}),
    "350m stage tensor": ("v5e:2x4", "LLAMA_350M", "stage=2,tensor=4", 32, 2048, "full", {"microbatches": 4}),
    "350m circular": ("v5e:2x4", "LLAMA_350M", "fsdp=4,stage=2", 32, 2048, "full", CIRCULAR | {"microbatches": 4}),
    "8b fsdp stage dots": ("v6e:8x8", "LLAMA3_8B", "fsdp=16,stage=4", 256, 8192, "dots", {"microbatches": 16}),
    "8b fsdp stage": ("v5e:8x8", "LLAMA3_8B", "fsdp=32,stage=2", 256, 8192, "full", {"microbatches": 8}),
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
ALL = collectives.CASES | CASES
QUICK = ("ZeRO-3", "tensor parallel", "data parallel")


def main() -> int:
    """Compile the cases one after the other."""
    options = _options().parse_args()
    names = options.cases.split(",") if options.cases else QUICK if options.quick else [*ALL, *CONFIGS]
    rows = []
    for name in [name for name in names if not options.table or name in meshes.kept("compile_tpu")]:
        topology, trial = case(name)
        if options.table:
            row = meshes.kept("compile_tpu")[name]
            estimate = _estimate(trial).peak
            rows.append(row | {"ours": estimate, "ratio": row["peer"] / estimate})
            continue
        row, found = compiled(name, topology, trial)
        rows.append(row)
        meshes.show(row, options.keep)
        for line in collectives.compare(name, trial, topology, found) if name in collectives.CASES else []:
            meshes.show(line, options.keep)
    print(table(rows))
    return 0 if all(abs(row["ratio"] - 1) <= TOLERANCE for row in rows) else 1


def case(name: str) -> tuple[Any, Any]:
    """(topology, trial with its mesh resolved) of a case or a shipped config."""
    from launch.overrides import load_config
    from launch.program import on_topology
    from launch.topology import parse_topology
    from scaling.sweep.trial import Trial

    if name in CONFIGS:
        topology, trial = parse_topology(CONFIGS[name]), load_config(meshes.ROOT / "configs" / f"{name}.py", (Trial,))
    else:
        topology, trial = parse_topology(ALL[name][0]), meshes.trial(*ALL[name][1:6], **ALL[name][6])
    return topology, on_topology(trial, topology)


def _estimate(trial: Any) -> Any:
    from scaling.train.memory import estimate_memory

    return estimate_memory(trial.model, trial.train, trial.mesh)


def compiled(name: str, topology: Any, trial: Any) -> tuple[dict[str, Any], Any]:
    """(the line of one case, its collectives)."""
    from launch.collectives import by_kind
    from launch.program import compile_step
    from models import counts

    estimate = _estimate(trial)
    program = compile_step(trial, topology)
    footprint = program.footprint
    line = meshes.line(
        "compile_tpu", name, "bytes on a device at the peak", estimate.peak, footprint.peak,
        round(footprint.peak / estimate.peak, 4),
        topology=topology.name, mesh={axis: size for axis, size in trial.mesh.sizes.items() if size > 1},
        remat=trial.model.remat, batch_size=trial.train.batch_size, seq_len=trial.train.seq_len,
        accumulate=trial.train.accumulate, params=counts.params(trial.model),
        share=footprint.peak / topology.device.capacity,
        memory=dataclasses.asdict(footprint), estimate=dataclasses.asdict(estimate),
        collectives=by_kind(program.collectives), compile_s=round(program.seconds, 1),
        peak_per_chip=footprint.peak * topology.device.per_chip,
    )  # fmt: skip
    return line, program.collectives


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The lines as Markdown; GB (1e9 bytes) on a device."""
    lines = [
        "| case | topology | mesh | sequences | remat | estimate, GB | compiled, GB | compiled / estimate | of memory |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        mesh = " ".join(f"{axis}={size}" for axis, size in row["mesh"].items())
        sizes = f"{row['batch_size']} x {row['seq_len']}"
        numbers = f"{row['ours'] / 1e9:.2f}", f"{row['peer'] / 1e9:.2f}", f"{row['ratio']:.3f}", f"{row['share']:.0%}"
        lines.append(f"| {' | '.join((row['case'], row['topology'], mesh, sizes, row['remat'], *numbers))} |")
    return "\n".join(lines)


def _options() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    made.add_argument("--cases", default="", help=f"comma-separated, among {', '.join([*ALL, *CONFIGS])}")
    made.add_argument("--table", action="store_true", help="print the kept lines as a table, estimated anew")
    made.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    return made


if __name__ == "__main__":
    sys.exit(main())
