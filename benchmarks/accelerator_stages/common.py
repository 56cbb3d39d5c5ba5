"""What the stages share: their lines, the loop over cases, the device's limits, and a clock for device work.

A stage module has `cases(stage, toy) -> {name: function}`; a function measures and returns the fields of its line, or
raises `Absent` with what is missing here.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Cases = dict[str, Callable[[], dict[str, Any]]]
ERROR = 400  # characters of an error that a line keeps; the whole is in the log


class Absent(Exception):
    """A peer, a kernel or a package that is not there: said in the line, and no failure."""


def append(path: Path, line: dict[str, Any]) -> None:
    """One JSON line, on the disk when this returns."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def begun(out: Path, stage: str) -> list[str]:
    """The cases of a stage that were begun, in order."""
    path = out / "begun.txt"
    pairs = [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []
    return [pair[1] for pair in pairs if len(pair) == 2 and pair[0] == stage]


def variables(toy: bool) -> dict[str, str]:
    """The environment of a stage: that of a run, on one CPU device for a rehearsal."""
    from launch import environment

    made = dict(os.environ)
    made["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    if toy:
        # a rehearsal's time is XLA's: its optimisations are of no use to it
        made |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    return made | environment.settings(made)


def run_cases(stage: Any, options: argparse.Namespace) -> int:
    """The process of one stage: every case that was not begun before, one line each."""
    module = importlib.import_module(f"accelerator_stages.{stage.module}")
    skip = set(begun(options.out, stage.name))
    for name, measure in module.cases(stage.name, options.toy, options.out).items():
        if name in skip:
            continue
        with (options.out / "begun.txt").open("a") as file:
            file.write(f"{stage.name}\t{name}\n")
        began = time.perf_counter()
        line: dict[str, Any] = {"stage": stage.name, "case": name}
        try:
            line |= {"status": "done"} | measure()
        except Absent as reason:
            line |= {"status": "absent", "error": str(reason)}
        except Exception as error:
            line |= failure(error)
        line |= {"seconds": round(time.perf_counter() - began, 2)} | machine(options.toy)
        append(options.out / "lines.jsonl", line)
        print(json.dumps(line), flush=True)
        free()
    return 0


def failure(error: Exception) -> dict[str, Any]:
    """How a case failed, in one line; the traceback goes to the log."""
    import traceback

    traceback.print_exc()
    text = f"{type(error).__name__}: {error}"
    memory = "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower() or isinstance(error, MemoryError)
    return {"status": "out of memory" if memory else "failed", "error": " ".join(text.split())[:ERROR]}


def free() -> None:
    """Let go of what a case left on the device, or the next would find its memory taken."""
    gc.collect()
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


@functools.cache
def machine(toy: bool) -> dict[str, Any]:
    """Device, versions, commit and time of a line; of the libraries that this process has loaded."""
    names = [name for name in ("jax", "jaxlib", "torch", "transformers") if name in sys.modules]
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    versions |= {name: sys.modules[name].__version__ for name in names}
    device = None
    if "jax" in sys.modules:
        device = sys.modules["jax"].devices()[0].device_kind
    elif "torch" in sys.modules:
        cuda = sys.modules["torch"].cuda
        device = cuda.get_device_name() if cuda.is_available() else "cpu"
    said = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    commit = said.stdout.strip() or None
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"toy": toy, "device": device, "versions": versions, "commit": commit, "when": when}


def limits() -> dict[str, Any]:
    """The device's stated bfloat16 peak (FLOP/s) and bandwidth (bytes/s); None where its maker's are not known."""
    import jax

    from models.devices import find_device

    found = find_device(jax.devices()[0].device_kind)
    if found is None:
        return {"peak_flops": None, "bandwidth": None, "limits_are": "unknown"}
    return {"peak_flops": found.flops, "bandwidth": found.bandwidth, "limits_are": "stated by the maker, dense bf16"}


def share(part: float, whole: float | None) -> float | None:
    """part / whole, rounded; None where the whole is not known."""
    return None if not whole else round(part / whole, 4)


def seconds_per_call(f: Callable[..., Any], *args: Any, calls: int = 10, rounds: int = 3) -> float:
    """Least mean seconds of `calls` calls in a row of a jitted function, after one that compiles it."""
    import jax

    jax.block_until_ready(f(*args))
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(calls):
            result = f(*args)
        jax.block_until_ready(result)
        best = min(best, (time.perf_counter() - began) / calls)
    return best


def peak_bytes() -> int | None:
    """The most memory that this process has had on the device; None where the device does not say."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")
