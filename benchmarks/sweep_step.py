"""One step of eight `micro` models: ours as one compiled program, torch's one after the other.

    python benchmarks/sweep_step.py [--quick] [--cases map,vmap] [--torch_python PATH] [--no_clip]

A case is the batch mode: "map" trains the stacked trials one by one inside the program, "vmap" all at once.
"""

from __future__ import annotations

import dataclasses

import harness

EIGHT = harness.Case("8 micro", "MICRO", batch_size=4, seq_len=64, trials=8, chunk=16)


def main() -> None:
    """Print one line per batch mode."""
    options = harness.parser(__doc__ or "", "map").parse_args()
    malloc = harness.prepare(options.core)
    for mode in options.cases.split(","):
        dtype = "bfloat16" if options.bf16 else "float32"
        case = dataclasses.replace(EIGHT, name=f"8 micro, {mode}", batch_mode=mode, dtype=dtype)
        harness.compare("sweep_step", case, options, malloc)


if __name__ == "__main__":
    main()
