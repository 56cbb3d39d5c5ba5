"""Products with quantised weights against float32, on the matrices of a 124M-parameter GPT-2.

    python benchmarks/quantized_matmul.py                  # rows 1, 8, 64; one core, least CPU time of 7
    python benchmarks/quantized_matmul.py --rows 1,512

One JSON line per matrix and number of rows: milliseconds of every mode, its speed relative to float32, bytes of the
weight, and the share of the machine's own int8 and float32 peaks; then one line per number of rows for all products of
a forward pass, with the mode that `models.quantize.fastest` picks. Activations are quantised inside what is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform

from harness import ROOT, _commit, _processor, measured_peak, prepare

SHAPES = {"qkv": (768, 2304), "attention out": (768, 768), "up": (768, 3072), "down": (3072, 768), "head": (768, 50257)}
LAYERS = 12


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,8,64", help="comma-separated numbers of rows")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of which the least counts")
    parser.add_argument("--core", type=int, default=os.cpu_count() - 1, help="the CPU to run on")
    parser.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    options = parser.parse_args()
    prepare(options.core)
    import jax

    from models.quantize import MODES, fastest, measure_product

    peak, peak_is = measured_peak("float32")
    facts = {
        "unit": "least CPU ms", "rounds": options.rounds, "float32_peak_flops": peak, "peak_is": peak_is,
        "machine": f"{_processor()}, {jax.devices()[0].device_kind}, core {options.core}",
        "versions": {"python": platform.python_version(), "jax": jax.__version__}, "commit": _commit(),
    }  # fmt: skip
    for rows in (int(n) for n in options.rows.split(",")):
        total = dict.fromkeys(MODES, 0.0)
        for name, (fan_in, out) in SHAPES.items():
            seconds = {mode: measure_product(rows, fan_in, out, mode, options.rounds) for mode in MODES}
            for mode, s in seconds.items():
                total[mode] += s * (1 if name == "head" else LAYERS)
            flops = 2 * rows * fan_in * out
            emit(options, {"case": name, "rows": rows, "in": fan_in, "out": out, **figures(seconds)} | {
                "gflops_per_s": {mode: round(flops / s / 1e9, 1) for mode, s in seconds.items()},
                "bytes": {mode: weight_bytes(fan_in, out, mode) for mode in MODES}} | facts)  # fmt: skip
        emit(options, {"case": "124M forward pass", "rows": rows, **figures(total), "fastest": fastest(total)} | facts)


def figures(seconds: dict) -> dict:
    """Milliseconds of each mode, and how many times as fast as float32 it is."""
    base = seconds["float32"]
    return {
        "ms": {mode: round(s * 1e3, 3) for mode, s in seconds.items()},
        "speed_of_float32": {mode: round(base / s, 2) for mode, s in seconds.items()},
    }


def weight_bytes(fan_in: int, out: int, mode: str) -> int:
    """Bytes of one weight in a mode."""
    import jax
    import jax.numpy as jnp

    from models.quantized import quantize_weight

    if mode == "float32":
        return 4 * fan_in * out
    made = jax.eval_shape(lambda w: quantize_weight(w, mode), jax.ShapeDtypeStruct((fan_in, out), jnp.float32))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made))


def emit(options: argparse.Namespace, line: dict) -> None:
    """Print one JSON line, and keep it if asked to."""
    text = json.dumps({"bench": "quantized_matmul"} | line)
    print(text, flush=True)
    if options.keep:
        with (ROOT / "benchmarks" / "results" / "quantized_matmul.jsonl").open("a") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
