"""Finding: a published claim beside what was seen of it, with an interval, and whether that decides.

A claim is oriented so that a positive effect is what it says. The smallest effect of interest is settled before
anything runs; the verdict compares the whole interval with it, so a result that is merely uncertain decides nothing.
"""

from __future__ import annotations

import functools
import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.errors import require
from scaling import kept, registered
from scaling.registered import Registered

Verdict = Literal["holds", "does not hold", "cannot tell"]
SUFFIX = ".json"
FIX = "delete it and run its command again: it is made anew"
_NUMBER = (float, None)
SHAPE: kept.Shape = {
    "name": str, "methods": [int], "claim": str, "source": str, "verdict": str, "effect": _NUMBER,
    "interval": [_NUMBER], "smallest_effect": float, "unit": str, "minutes": _NUMBER, "flops": _NUMBER,
    "command": str, "commit": (str, None), "machine": str, "simulated": bool, "not_covered": str,
}
FORETOLD: kept.Shape = {"predictions?": [registered.SHAPE]}  # fmt: skip


def decide(interval: tuple[float, float], smallest_effect: float) -> Verdict:
    """The answer that an interval gives: it lies above the smallest effect, below it, or on both sides (or is NaN)."""
    low, high = interval
    if low > smallest_effect:
        return "holds"
    return "does not hold" if high < smallest_effect else "cannot tell"


@dataclass(frozen=True)
class Finding:
    """What was seen of one claim.

    effect, interval, smallest_effect: in `unit`; NaN where nothing could be seen. methods: numbers of the published
    methods that the claim belongs to. minutes, flops: what it took, None where it is one of several findings of a run
    that says so itself. simulated: its numbers are those of a simulation, not of trained models. not_covered: what the
    small form leaves out. predictions: what was foretold of its runs before they were measured.
    """

    name: str
    methods: tuple[int, ...]
    claim: str
    source: str
    effect: float
    interval: tuple[float, float]
    smallest_effect: float
    unit: str
    minutes: float | None = None
    flops: float | None = None
    command: str = ""
    commit: str | None = None
    machine: str = ""
    simulated: bool = False
    not_covered: str = ""
    predictions: tuple[Registered, ...] = ()

    def __post_init__(self) -> None:
        low, high = self.interval
        fix = "give (low, high), low first"
        require(not low > high, f"{self.name}.interval", f"is [{low}, {high}]", fix)
        number = f"{self.name}.smallest_effect"
        require(math.isfinite(self.smallest_effect), number, f"is {self.smallest_effect}", "give a finite number")

    @property
    def verdict(self) -> Verdict:
        """Whether the claim holds here."""
        return decide(self.interval, self.smallest_effect)

    def numbers(self, digits: int = 3) -> str:
        """Effect and interval."""
        effect, low, high = (f"{value:.{digits}g}" for value in (self.effect, *self.interval))
        return f"{effect} [{low}, {high}]"

    def seen(self, digits: int = 3) -> str:
        """Effect, interval and unit in one phrase."""
        return f"{self.numbers(digits)} {self.unit}"

    def to_json(self) -> dict[str, Any]:
        """The finding with the names that docs/gallery.md promises; null for what is not known."""
        told = {"predictions": [one.to_json() for one in self.predictions]} if self.predictions else {}
        return {
            "name": self.name,
            "methods": list(self.methods),
            "claim": self.claim,
            "source": self.source,
            "verdict": self.verdict,
            "effect": _written(self.effect),
            "interval": [_written(value) for value in self.interval],
            "smallest_effect": float(self.smallest_effect),
            "unit": self.unit,
            "minutes": None if self.minutes is None else float(f"{self.minutes:.3g}"),
            "flops": None if self.flops is None else float(f"{self.flops:.4g}"),
            "command": self.command,
            "commit": self.commit,
            "machine": self.machine,
            "simulated": self.simulated,
            "not_covered": self.not_covered,
        } | told


def of_json(value: dict[str, Any], place: str | Path = "finding") -> Finding:
    """What `Finding.to_json` gave; ConfigError when its verdict is not what its numbers say."""
    fault = kept.misshapen(value, SHAPE | FORETOLD)
    require(not fault, str(place), f"is damaged ({fault})", FIX)
    require(len(value["interval"]) == 2, str(place), "is damaged (its interval has no two ends)", FIX)
    fields = {name: value[name] for name in SHAPE if name != "verdict"}
    low, high = (_read(end) for end in value["interval"])
    fields |= {"methods": tuple(value["methods"]), "effect": _read(value["effect"]), "interval": (low, high)}
    told = tuple(map(registered.of_json, value.get("predictions", [])))
    finding = Finding(**fields, predictions=told)
    problem = f"is damaged (it says {value['verdict']!r}, and its interval says {finding.verdict!r})"
    require(value["verdict"] == finding.verdict, str(place), problem, FIX)
    return finding


def write(path: Path, findings: Sequence[Finding]) -> None:
    """Write a file of one finding, or of several as a list, in one step."""
    values = [finding.to_json() for finding in findings]
    content = values[0] if len(values) == 1 else values
    kept.write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read(path: Path) -> list[Finding]:
    """The finding or findings of a file. Raises ConfigError for a damaged one, OSError where there is none."""
    value = kept.read(path, (dict, [dict]), FIX)
    return [of_json(one, path) for one in (value if isinstance(value, list) else [value])]


def _written(number: float) -> float | None:
    """JSON knows no NaN; infinity has no place in a finding either."""
    return float(number) if math.isfinite(number) else None


def _read(number: float | None) -> float:
    return math.nan if number is None else float(number)


@functools.cache
def machine() -> str:
    """What this machine is, in words: its processor and how many of its CPUs this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        name = ""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{name or platform.machine()}, {count} CPUs"
