"""Bytes of the collectives in programs compiled for TPUs against theory, as a Markdown table for docs/sharding.md.

    python benchmarks/collectives.py [--cases NAME,...] [--keep]
    python benchmarks/collectives.py --table

Needs the extra isoflop[tpu]; no TPU. --table compiles nothing and prints what results/collectives.jsonl keeps;
benchmarks/compile_tpu.py --keep adds to it what its own programs show. Theory is scaling/train/traffic.py: ZeRO-3
gathers every parameter twice and scatters every gradient once; Megatron's tensor parallelism has two all-reduces
forwards and two backwards per block, here as gathers and scatters of positions; a pipeline hands every micro-batch's
boundary activations on and their gradients back, once in each tick. One JSON line per purpose (`ours` compiled, `peer`
theory, payload bytes per step and device), then the table; exits with 1 when a purpose is off by more than 5 %.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import Any

import meshes

os.environ.setdefault("JAX_PLATFORMS", "cpu")
TOLERANCE = 0.05
# name -> topology, preset, mesh, sequences, length, remat, other fields of TrainConfig
CASES: dict[str, tuple[str, str, str, int, int, str, dict[str, Any]]] = {
    "ZeRO-3": ("v5e:2x2", "LLAMA_350M", "fsdp=4", 8, 2048, "full", {}),
    "data parallel": ("v5e:2x2", "LLAMA_350M", "data=4", 8, 2048, "full", {}),
    "tensor parallel": ("v5e:2x2", "LLAMA_350M", "tensor=4", 8, 2048, "none", {}),
    "tensor parallel recomputed": ("v5e:2x2", "LLAMA_350M", "tensor=4", 8, 2048, "full", {}),
    "context parallel": ("v5e:2x2", "LLAMA_350M", "context=4", 8, 2048, "full", {}),
    "pipeline": ("v5e:2x2", "LLAMA_350M", "stage=4", 16, 2048, "full", {"pipeline": "gpipe", "microbatches": 8}),
    "pipeline 1F1B": ("v5e:2x2", "LLAMA_350M", "stage=4", 16, 2048, "full", {"microbatches": 8}),
}
SMALL = 1 << 20  # bytes: below are norms, scalars and token ids


def main() -> int:
    """Compile the cases, compare, print."""
    options = _options().parse_args()
    if options.table:
        rows = list(meshes.kept("collectives").values())
    else:
        rows = []
        for name in options.cases.split(",") if options.cases else CASES:
            for row in _compiled(name):
                meshes.show(row, options.keep)
                rows.append(row)
    print(table(rows))
    return 0 if all(row["within"] for row in rows) else 1


def _compiled(name: str) -> list[dict[str, Any]]:
    from launch.program import compile_step, on_topology
    from launch.topology import parse_topology

    topology = parse_topology(CASES[name][0])
    trial = on_topology(meshes.trial(*CASES[name][1:6], **CASES[name][6]), topology)
    return compare(name, trial, topology, compile_step(trial, topology).collectives)


def compare(name: str, trial: Any, topology: Any, found: Iterable[Any]) -> list[dict[str, Any]]:
    """One line for each (kind, axis) of the theory; found: the compiled program's collectives."""
    from scaling.train.traffic import expected_traffic

    found = list(found)
    theory = expected_traffic(trial.model, trial.train, trial.mesh)
    rows = []
    for kind, axis in dict.fromkeys((t.kind, t.axis) for t in theory):
        expected = [t for t in theory if (t.kind, t.axis) == (kind, axis)]
        real = [c for c in found if (c.kind, "+".join(c.axes)) == (kind, axis) and c.payload * c.times >= SMALL]
        ours, peer = sum(c.bytes for c in real), sum(t.bytes for t in expected)
        ratio = ours / peer
        rows.append(
            meshes.line(
                "collectives", f"{name}: {kind} over {axis}", "bytes per step and device", ours, peer, round(ratio, 4),
                topology=topology.name, purposes=[t.purpose for t in expected], count=sum(c.times for c in real),
                within=abs(ratio - 1) <= TOLERANCE,
            )
        )  # fmt: skip
    return rows


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The lines as Markdown."""
    lines = ["| case | for | compiled, MB | theory, MB | compiled / theory |", "|---|---|---|---|---|"]
    for row in rows:
        cells = row["case"], ", ".join(row["purposes"]), f"{row['ours'] / 1e6:.1f}", f"{row['peer'] / 1e6:.1f}"
        lines.append(f"| {' | '.join(cells)} | {row['ratio']:.3f} |")
    return "\n".join(lines)


def _options() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--cases", default="", help=f"comma-separated, among {', '.join(CASES)}")
    made.add_argument("--table", action="store_true", help="print the kept lines as a table")
    made.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    return made


if __name__ == "__main__":
    sys.exit(main())
