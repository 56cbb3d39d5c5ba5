"""Run cards: what one trial or job was, where it ran, and what it took, in one JSON object beside its results.

Energy is an estimate: the maker's power of each device while it worked, times what a data centre adds. A card says so.
`faults` is the linter: what a card lacks of what a survey of energy and sharing asks for (hardware, hours, kWh, CO2e,
seeds, digests of what the work left).
"""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from models.errors import require
from scaling import kept

WATTS = {"a100": 400.0, "h100": 700.0, "h200": 700.0, "b200": 1000.0, "v4": 192.0}  # board power, data sheets; v4: the
# mean that Jouppi et al. 2023 measured. Other TPUs: not published.
WATTS_PER_THREAD = 10.0  # a busy server core and its share of the socket
OVERHEAD = 1.1  # power usage effectiveness of a large data centre
CARBON = 0.48  # kg of CO2e per kWh: the world's mean of 2023 (Ember, Global Electricity Review 2024)
FIELDS: dict[str, kept.Shape] = {  # what a complete card must say
    "config": dict, "commit": str, "versions": {str: str}, "device": str, "devices": int, "device_hours": float,
    "ended": str, "flops": float, "tokens": int, "energy": {"kwh": float, "assumed": str},
    "co2e": {"kg": float, "assumed": str}, "seeds": [int], "artifacts": {str: str},
}  # fmt: skip
PACKAGES = ("isoflop", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def card(
    config: dict[str, Any], *, device: str, devices: int, threads: int, wall_s: float, flops: float, tokens: int,
    seeds: Sequence[int] = (), artifacts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The card of work that took `wall_s` seconds of `devices` devices, `flops` FLOPs and `tokens` tokens.

    device: jax's device kind. threads: CPU threads of the process, which are what a CPU device is made of. seeds: of
    the work's random numbers. artifacts: sha256 of what it left, by name.
    """
    used = energy(device, devices, threads, wall_s)
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
        "device_hours": float(f"{wall_s * devices / 3600:.4g}"),
        "flops": flops,
        "tokens": tokens,
        "energy": used,
        "co2e": emissions(used["kwh"]),
        "seeds": list(seeds),
        "artifacts": dict(artifacts or {}),
    }  # fmt: skip


def emissions(kwh: float | None) -> dict[str, Any]:
    """Kilograms of CO2 equivalent of so much energy, and what was assumed; None where the energy is not known."""
    assumed = f"{CARBON:g} kg/kWh, the world's mean of 2023; the grid that was used may be far from it"
    return {"kg": None if kwh is None else float(f"{kwh * CARBON:.3g}"), "assumed": assumed}


def faults(card: Mapping[str, Any]) -> list[str]:
    """What an incomplete card lacks, field by field, in words; [] for a complete one."""
    found = [fault for field in FIELDS if (fault := kept.misshapen(dict(card), {field: FIELDS[field]}))]
    if not found:
        found += [f"{name} is empty" for name in ("device", "ended", "seeds", "artifacts") if not card[name]]
        found += [f"artifacts.{name} is no sha256" for name, value in card["artifacts"].items()
                  if not re.fullmatch(r"[0-9a-f]{64}", value)]  # fmt: skip
        found += [f"{name} is negative" for name in ("device_hours", "flops", "tokens") if card[name] < 0]
    return found


def completeness(cards: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of the cards that have each field, and under "all" of those that lack nothing.

    ConfigError without cards.
    """
    require(len(cards) > 0, "cards", "are none", "give the directory of a sweep or job that has run")
    lacking = [faults(card) for card in cards]
    have = {field: sum(not any(_about(fault, field) for fault in one) for one in lacking) for field in FIELDS}
    return {name: count / len(cards) for name, count in (have | {"all": sum(not one for one in lacking)}).items()}


def _about(fault: str, field: str) -> bool:
    return re.split(r"[ .\[]", fault, maxsplit=1)[0] == field


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


def git_commit() -> str | None:
    """The commit of the working directory, None outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@functools.cache
def _commit() -> str | None:
    return git_commit()
