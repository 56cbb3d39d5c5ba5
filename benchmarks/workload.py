"""Prompts of very different lengths through the engine: padding, busy slots, memory and compilations.

    python benchmarks/workload.py [--quick] [--prompts 2000] [--keep]

2,000 prompts of 5 to 2,000 tokens (uniform in the logarithm), 16 samples of 32 tokens each, a `tiny` model with a
context of 2,048. One JSON line for each figure; there is no peer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import time
from pathlib import Path

import harness

SAMPLES, NEW, CONTEXT = 16, 32, 2048


def resident_mib() -> float:
    """Resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Run the workload and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="150 prompts instead of 2,000")
    parser.add_argument("--prompts", type=int, help="how many prompts")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--core", type=int, default=(os.cpu_count() or 1) - 1, help="the CPU that it is pinned to")
    parser.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    options = parser.parse_args()
    harness.prepare(options.core)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for line in measure(options.prompts or (150 if options.quick else 2000), options.slots):
        text = json.dumps(line)
        print(text, flush=True)
        if options.keep:
            with (harness.ROOT / "benchmarks" / "results" / "workload.jsonl").open("a") as file:
                file.write(text + "\n")


def measure(count: int, slots: int) -> list[dict]:
    """The lines: warm up on the first 5 % of the prompts, then count."""
    import jax
    import numpy as np

    from models import presets
    from models.transformer import init
    from search.engine.config import EngineConfig
    from search.engine.engine import Engine
    from search.engine.request import Request

    model = dataclasses.replace(presets.TINY, max_seq_len=CONTEXT).resolved()
    engine = Engine(model, init(model, jax.random.key(0)), EngineConfig(slots=slots, max_len=CONTEXT))
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.uniform(np.log(5), np.log(2000), count)).astype(int)
    memory, compiled, done, tokens = [], [], 0, 0

    def requests():
        for i, length in enumerate(lengths):
            yield Request(i, tuple(int(t) for t in rng.integers(0, model.vocab_size, length)), SAMPLES, NEW)

    begin, cpu = time.perf_counter(), harness.cpu_seconds()
    for completion in engine.generate(requests()):
        done, tokens = done + 1, tokens + len(completion.tokens)
        if done % max(1, count * SAMPLES // 20) == 0:
            memory.append(resident_mib())
            compiled.append(engine.compilations)
    cpu, wall = harness.cpu_seconds() - cpu, time.perf_counter() - begin
    s = engine.statistics
    figures = {
        "padding share of prefill": s.padding_share,
        "busy share of slots while samples waited": s.busy_share,
        "compilations after the first twentieth": compiled[-1] - compiled[0],
        "resident MiB, last over first twentieth": memory[-1] / memory[0],
        "generated tokens per CPU second": tokens / cpu,
        "prompt and generated tokens per CPU second": (tokens + int(lengths.sum())) / cpu,
    }
    common = {
        "prompts": count, "samples": done, "prompt_tokens": int(lengths.sum()), "generated_tokens": tokens,
        "slots": slots, "wall_s": round(wall, 1), "peak_mib": round(max(memory)), "compilations": compiled[-1],
        "machine": f"{harness._processor()}", "commit": harness._commit(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
    }  # fmt: skip
    return [
        {"bench": "workload", "case": name, "unit": "", "ours": round(value, 4), "peer": None, "ratio": None} | common
        for name, value in figures.items()
    ]


if __name__ == "__main__":
    main()
