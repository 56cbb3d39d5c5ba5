"""Run cards: what one trial or job was, where it ran, and what it took, in one JSON object beside its results.

Energy is an estimate: the maker's power of each device while it worked, times what a data centre adds. A card says so.
"""

from __future__ import annotations

import functools
import os
import platform
import time
from importlib import metadata
from typing import Any

from scaling.sweep.heldout import git_commit

WATTS = {"a100": 400.0, "h100": 700.0, "h200": 700.0, "b200": 1000.0, "v4": 192.0}  # board power, data sheets; v4: the
# mean that Jouppi et al. 2023 measured. Other TPUs: not published.
WATTS_PER_THREAD = 10.0  # a busy server core and its share of the socket
OVERHEAD = 1.1  # power usage effectiveness of a large data centre
PACKAGES = ("isoflop", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def card(
    config: dict[str, Any], *, device: str, devices: int, threads: int, wall_s: float, flops: float, tokens: int
) -> dict[str, Any]:
    """The card of work that took `wall_s` seconds of `devices` devices, `flops` FLOPs and `tokens` tokens.

    device: jax's device kind. threads: CPU threads of the process, which are what a CPU device is made of.
    """
    return {
        "config": config,
        "commit": _commit(),
        "versions": versions(),
        "device": device,
        "devices": devices,
        "threads": threads,
        "host": platform.node(),
        "process": os.getpid(),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "wall_s": round(wall_s, 3),
        "device_s": round(wall_s * devices, 3),
        "flops": flops,
        "tokens": tokens,
        "energy": energy(device, devices, threads, wall_s),
    }


def energy(device: str, devices: int, threads: int, wall_s: float) -> dict[str, Any]:
    """Kilowatt-hours, and what was assumed; None where the maker publishes no power."""
    kind = device.lower()
    watts = next((value for name, value in WATTS.items() if name in kind.replace("tpu ", "")), None)
    if kind == "cpu":
        total, assumed = WATTS_PER_THREAD * threads, f"{WATTS_PER_THREAD:g} W for each of {threads} CPU threads"
    elif watts is not None:
        total, assumed = watts * devices, f"{watts:g} W for each of {devices} devices, at full load"
    else:
        return {"kwh": None, "assumed": f"no power is published for {device}"}
    kwh = total * OVERHEAD * wall_s / 3.6e6
    return {"kwh": float(f"{kwh:.3g}"), "assumed": f"{assumed}, times {OVERHEAD:g} for the data centre; not measured"}


@functools.cache
def versions() -> dict[str, str]:
    """Python's and the packages' versions."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def _commit() -> str | None:
    return git_commit()
