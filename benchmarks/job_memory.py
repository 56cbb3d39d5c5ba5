"""What an inference job keeps in memory however long it is: peak resident bytes for 10^4, 10^5 and 10^6 prompts.

    python benchmarks/job_memory.py [--quick] [--keep]

Every size is a process of its own that splits a file of prompts, writes a made-up sample of 24 tokens for each of them
through the shards, merges them into JSON lines and Parquet, and verifies. No model: its memory does not depend on the
number of prompts, since it gets them from an iterator.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

SIZES = (10_000, 100_000, 1_000_000)
SHARD = 1024
LEDGER = {"prompt_tokens": 12, "generated_tokens": 24, "flops": 1e9, "bytes": 1e6, "depth": 24}


def run(folder: Path, prompts: int) -> dict[str, Any]:
    """A whole job of this process; its peak memory in MB, seconds, and rows merged."""
    from launch.jobs import Job, JobConfig, ShardWriter
    from launch.prompts import PromptFile

    with open(folder / "prompts.jsonl", "w") as file:
        for i in range(prompts):
            file.write(json.dumps({"prompt": f"What is {i} plus {i + 1}?"}) + "\n")
    begin = time.perf_counter()
    job = Job.open(folder / "job", JobConfig(shard_size=SHARD), PromptFile(folder / "prompts.jsonl"), "no model")
    opened = peak_mb()
    for index, shard in enumerate(job.shards):
        writer = ShardWriter(job, index)
        writer.expected = shard.rows
        for prompt in job.prompts.read(shard):
            words = {"text": "x" * 40, "tokens": [prompt.line % 256] * 24, "logprobs": [-0.5] * 24}
            writer.add({"line": prompt.line, "sample": 0} | words | {"finish_reason": "length", "ledger": LEDGER})
        writer.close()
    drawn = peak_mb()
    job.finish()
    samples = job.verify()["samples"]
    if samples != prompts or list(job.bad_lines()):
        raise AssertionError(f"{samples} samples of {prompts} prompts")
    seconds = round(time.perf_counter() - begin, 1)
    return {"peak_mb": peak_mb(), "after_drawing_mb": drawn, "after_splitting_mb": opened, "seconds": seconds}


def peak_mb() -> float:
    """The most that this process has held so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def main() -> None:
    """One line for each number of prompts."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="without the largest")
    made.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    made.add_argument("--one", type=int, default=0, help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(run(Path(folder), options.one)))
        return
    for prompts in SIZES[:-1] if options.quick else SIZES:
        command = [sys.executable, __file__, "--one", str(prompts)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        harness.emit_alone("job_memory", {
            "case": f"{prompts} prompts", "unit": "MB peak", "ours": found.pop("peak_mb"), **found,
            "shard": SHARD, "versions": {"python": platform.python_version()},
        }, options.keep)  # fmt: skip


if __name__ == "__main__":
    main()
