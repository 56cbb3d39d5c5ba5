"""Choose how to divide a training run: every legal mesh, estimated, pruned by memory, ranked by time, then verified.

    from launch.choose_mesh import choose_mesh
    choice = choose_mesh(trial, parse_topology("v5p:4x4x4"), verify=1)
    choice.best.trial                               # the trial with mesh, remat and micro-batches filled in

Nothing here runs a step. Memory and time come from exact counts and the device table (models/devices.py), which
measured figures may replace (`read_device_table`); with `verify` the compiler has the last word.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from launch.executors.executor import importable
from launch.topology import Topology
from models import counts
from models.config import ModelConfig, divisors
from models.devices import Device
from models.errors import ConfigError
from models.serialize import field_types, from_json, to_json
from scaling.sweep.trial import Trial
from scaling.train.memory import Memory, estimate_memory
from scaling.train.step_time import StepTime, estimate_step

CHOSEN_AXES = ("data", "fsdp", "stage", "expert", "context", "tensor")
REMAT: tuple[Literal["none", "dots", "full"], ...] = ("none", "dots", "full")
MICROBATCHES = (1, 2, 4)  # times the stages
MARGIN = 0.94  # of a device's memory that an estimate may fill: it is good to about 6 %
SETTINGS = ("data", "fsdp", "stage", "expert", "context", "tensor", "microbatches", "remat")


@dataclass(frozen=True)
class Candidate:
    """One way to run the trial on the topology, with what it is estimated to need and, once compiled, needs.

    compiled: peak bytes on a device as the compiler says; rejected: why it is out, "" while it is not.
    """

    trial: Trial
    memory: Memory
    time: StepTime
    compiled: int | None = None
    rejected: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen, by the names of the table's columns."""
        trial = self.trial
        micro = trial.train.schedule_over(trial.mesh.stage).microbatches if trial.mesh.stage > 1 else 1
        sizes = {axis: trial.mesh.sizes[axis] for axis in CHOSEN_AXES}
        return sizes | {"microbatches": micro, "remat": trial.model.remat}

    @property
    def flags(self) -> str:
        """The overrides that make a config this candidate."""
        train = self.trial.train
        flags = [f"--config.mesh.{axis}={self.trial.mesh.sizes[axis]}" for axis in CHOSEN_AXES]
        flags.append(f"--config.model.remat={self.trial.model.remat}")
        if self.trial.mesh.stage > 1:
            flags += [f"--config.train.microbatches={train.microbatches}", "--config.model.scan_layers=true"]
        return " ".join(flags)


@dataclass(frozen=True)
class Choice:
    """ranked: candidates that fit by estimate, fastest first; those that the compiler refused say so.

    illegal, too_large: reason -> number of candidates left out. best: the first that nothing speaks against, or None.
    """

    topology: Topology
    device: Device
    ranked: tuple[Candidate, ...]
    illegal: dict[str, int] = field(default_factory=dict)
    too_large: dict[str, int] = field(default_factory=dict)
    smallest: Candidate | None = None
    verified: bool = False

    @property
    def best(self) -> Candidate | None:
        """The fastest that fits; once verified, the fastest that the compiler has accepted."""
        good = (c for c in self.ranked if not c.rejected and (c.compiled is not None or not self.verified))
        return next(good, None)


def candidates(trial: Trial, devices: int) -> Iterator[dict[str, Any]]:
    """Fields of the trial on every mesh of `devices` and with every remat, micro-batches too where there are stages.

    Not all of them are legal. The `trial` axis and everything else stay as they are.
    """
    each = devices // trial.mesh.trial if devices % trial.mesh.trial == 0 else 0
    for sizes in factorizations(each, len(CHOSEN_AXES)):
        mesh = dataclasses.replace(trial.mesh, **dict(zip(CHOSEN_AXES, sizes, strict=True)))
        for remat, factor in itertools.product(REMAT, MICROBATCHES if mesh.stage > 1 else (1,)):
            model = dataclasses.replace(trial.model, remat=remat)
            train = trial.train
            if mesh.stage > 1:
                model = dataclasses.replace(model, scan_layers=True)
                train = dataclasses.replace(train, microbatches=factor * mesh.stage)
            yield {"model": model, "train": train, "mesh": mesh}


def factorizations(n: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to write n as an ordered product of `parts` factors; none for n = 0."""
    if parts == 1:
        if n:
            yield (n,)
        return
    for first in divisors(n):
        for rest in factorizations(n // first, parts - 1):
            yield (first, *rest)


def is_sensible(trial: Trial) -> str:
    """Why nobody would want a legal candidate; "" if one might."""
    mesh, model = trial.mesh, trial.model.resolved()
    assert model.n_kv_heads
    if mesh.context > 1 and trial.train.seq_len // mesh.context < 128:
        return "context leaves fewer than 128 positions to a device"
    if mesh.tensor > 1 and model.d_model // mesh.tensor < 64:
        return "tensor leaves fewer than 64 features to a device"
    return ""


def choose_mesh(
    trial: Trial,
    topology: Topology,
    *,
    device: Device | None = None,
    verify: int = 0,
    compile_one: Callable[[Trial, Topology], int] | None = None,
    sensible: bool = True,
) -> Choice:
    """Rank every way to run `trial` on `topology`.

    device: figures to use instead of the table's. verify: compile candidates from the fastest on until so many fit;
    compile_one(trial, topology) gives peak bytes, or raises DoesNotFit or CompilerFailed (default: the real compiler).
    sensible=False keeps meshes that are legal but foolish. Raises ConfigError when no mesh is legal.
    """
    device = device or topology.device
    platform = "tpu" if topology.is_tpu else "cpu" if topology.family == "cpu" else "gpu"
    illegal: Counter[str] = Counter()
    too_large: Counter[str] = Counter()
    fitting, smallest, last = [], None, None
    for fields in candidates(trial.resolved(), topology.devices):
        try:
            option = dataclasses.replace(trial, **fields)  # checks itself
        except ConfigError as error:
            illegal[f"{error.field}: {error.problem}"] += 1
            last = error
            continue
        foolish = is_sensible(option) if sensible else ""
        if foolish:
            illegal[foolish] += 1
            continue
        memory = estimate_memory(option.model, option.train, option.mesh, platform)
        time = estimate_step(option.model, option.train, option.mesh, device, topology.shape if topology.is_tpu else ())
        candidate = Candidate(option, memory, time)
        if smallest is None or memory.peak < smallest.memory.peak:
            smallest = candidate
        if memory.peak > MARGIN * device.capacity:
            too_large[f"remat={option.model.remat}"] += 1
        else:
            fitting.append(candidate)
    if smallest is None:
        problem = (
            f"no way to divide the run over {topology.name} is legal ({last.field}: {last.problem})" if last else ""
        )
        raise ConfigError(
            "mesh", problem or f"{topology.devices} devices do not divide", "change batch_size or topology"
        )
    fitting.sort(key=lambda c: (c.time.total, c.memory.peak))
    choice = Choice(topology, device, tuple(fitting), dict(illegal), dict(too_large), smallest)
    return verified(choice, verify, compile_one or peak_bytes) if verify else choice


def verified(choice: Choice, count: int, compile_one: Callable[[Trial, Topology], int]) -> Choice:
    """The choice with candidates compiled from the fastest on, until `count` of them fit."""
    from launch.program import CompilerFailed, DoesNotFit

    ranked, good = list(choice.ranked), 0
    for i, candidate in enumerate(ranked):
        if good == count:
            break
        try:
            ranked[i] = dataclasses.replace(candidate, compiled=compile_one(candidate.trial, choice.topology))
            good += 1
        except (DoesNotFit, CompilerFailed) as error:
            ranked[i] = dataclasses.replace(candidate, rejected=f"the compiler: {error}")
    return dataclasses.replace(choice, ranked=tuple(ranked), verified=True)


def peak_bytes(trial: Trial, topology: Topology) -> int:
    """Bytes that a compiled step occupies on a device at its peak.

    Compiled in a process of its own, since a compiler that meets a bug of its own ends the process that it runs in.
    Raises DoesNotFit or CompilerFailed.
    """
    from launch.program import CompilerFailed, DoesNotFit

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(to_json(trial)), encoding="utf-8")
        command = [sys.executable, "-m", "launch.compile", f"--config={config}", f"--topology={topology.name}"]
        made = os.environ | {"PYTHONPATH": importable(os.environ)}
        done = subprocess.run(command, capture_output=True, text=True, env=made)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        said = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
        raise CompilerFailed(re.sub(r"^F\d{4} .*?\] ", "", said)[:80]) from None  # without time, process and place
    if not report["fits"]:
        raise DoesNotFit(report["needed"], report["available"])
    return report["memory"]["peak"]


def read_device_table(path: str | Path, base: Device) -> Device:
    """`base` with the figures of a JSON file: fields of models.devices.Device, such as {"link": 4.5e10}.

    A "matrix" of bytes/s between devices stands for a real cluster. ConfigError names what does not fit.
    """
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"is not JSON ({error})", "correct the file") from None
    if not isinstance(given, dict):
        fix = f"write an object with fields among {', '.join(field_types(Device))}"
        raise ConfigError(str(path), f"holds a {type(given).__name__}", fix)
    return from_json(Device, to_json(base) | given)


def as_json(choice: Choice, top: int) -> dict[str, Any]:
    """The choice as one JSON object; memory per device, in bytes, time in seconds."""
    best = choice.best
    return {
        "topology": choice.topology.name,
        "devices": choice.topology.devices,
        "device_memory": round(choice.device.capacity),
        "verified": choice.verified,
        "chosen": None if best is None else best.settings | {"flags": best.flags},
        "ranked": [_row(candidate, choice) for candidate in choice.ranked[:top]],
        "fitting": len(choice.ranked),
        "too_large": choice.too_large,
        "smallest": None if choice.smallest is None else _row(choice.smallest, choice),
        "illegal": dict(Counter(choice.illegal).most_common(12)),
    }


def _row(candidate: Candidate, choice: Choice) -> dict[str, Any]:
    time = candidate.time
    return candidate.settings | {
        "peak_estimate": candidate.memory.peak,
        "peak_compiled": candidate.compiled,
        "step_s": time.total,
        "compute_s": time.compute,
        "memory_s": time.memory,
        "elementwise_s": time.elementwise,
        "exposed_s": dict(time.exposed),
        "bubble_s": time.bubble,
        "overhead_s": time.overhead,
        "mfu": mfu(candidate.trial, choice.topology.devices, choice.device, time.total),
        "rejected": candidate.rejected,
    }


def mfu(trial: Trial, devices: int, device: Device, seconds: float) -> float:
    """Model FLOPs (causal attention, head included, recomputation not) of all trials over the peak of all devices."""
    model: ModelConfig = trial.model
    flops = trial.mesh.trial * counts.train_flops(model, trial.train.tokens_per_step, trial.train.seq_len)
    return flops / (devices * device.flops * seconds)


def as_table(choice: Choice, top: int) -> str:
    """The fastest `top` candidates as lines of text, with what speaks against the others."""
    header = [*SETTINGS, "GiB", "step ms", "MFU %", "exposed ms", "note"]
    rows = [header, *(_cells(c, choice) for c in choice.ranked[:top])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    left_out = sum(choice.too_large.values()), sum(choice.illegal.values())
    lines.append(f"{len(choice.ranked)} fit {choice.topology.name}; {left_out[0]} too large, {left_out[1]} not legal")
    if choice.best is not None:
        lines.append(f"chosen: {choice.best.flags}")
    return "\n".join(lines)


def _cells(candidate: Candidate, choice: Choice) -> Sequence[str]:
    peak, time = candidate.compiled or candidate.memory.peak, candidate.time
    share = mfu(candidate.trial, choice.topology.devices, choice.device, time.total)
    exposed = sum(time.exposed.values())
    note = candidate.rejected or ("compiled" if candidate.compiled else "")
    numbers = f"{peak / 2**30:.2f}", f"{1e3 * time.total:.1f}", f"{100 * share:.1f}", f"{1e3 * exposed:.1f}"
    return [*(str(value) for value in candidate.settings.values()), *numbers, note]


def nearest_fit(trial: Trial, choice: Choice) -> Candidate | None:
    """Of the candidates that fit, the one that changes the fewest settings of `trial`; the fastest among equals."""
    wanted = Candidate(trial, *_UNKNOWN).settings

    def changes(candidate: Candidate) -> tuple[int, float]:
        given = candidate.settings
        differing = [name for name in SETTINGS if given[name] != wanted[name]]
        moved = sum(abs(math.log2(given[name] / wanted[name])) for name in CHOSEN_AXES)
        return len(differing) + round(moved), candidate.time.total

    return min((c for c in choice.ranked if not c.rejected), key=changes, default=None)


_UNKNOWN = Memory(0, 0, 0, 0, 0, 0, 0, 0, 0, 0), StepTime(0, 0, 0, {}, 0, 0)
