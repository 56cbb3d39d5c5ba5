"""What a person sees while a sweep runs: work done, tokens/s, share of the peak, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from models.devices import peak_flops
from models.errors import printable
from scaling.sweep.directory import RunDirectory
from scaling.sweep.stack import Stack

LINE_EVERY_S = 30.0  # where there is no terminal to redraw


def measured_cpu_peak() -> float:
    """FLOP/s of one float32 matrix product on this process's threads: what "peak" means on a CPU."""
    a = np.ones((768, 768), np.float32)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - begin)
    return 2 * 768**3 / best


class _Display:
    """A bar where there is a terminal, a line now and then where there is none; use as a context manager."""

    def __init__(self, amount: str):
        self.console = Console(stderr=True)
        self.begin = self.last_line = time.monotonic()
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn(amount), TimeElapsedColumn()
        self.bar = Progress(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=self.console)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def say(self, label: str, *parts: str) -> None:
        """The line, unless there is a terminal or one was written just now."""
        if not self.console.is_terminal and time.monotonic() - self.last_line > LINE_EVERY_S:
            self.last_line = time.monotonic()
            line = f"{label}: {', '.join(part for part in parts if part)}"
            print(printable(line), file=sys.stderr, flush=True)

    def left(self, done: float, total: float) -> str:
        """Time left at the speed so far, in words; nothing while nothing is done."""
        return f"{(time.monotonic() - self.begin) * (total - done) / done:.0f} s left" if done else ""


class SweepDisplay(_Display):
    """Follows the workers' reports; call `update()` a few times a second."""

    def __init__(self, directory: RunDirectory, stacks: Sequence[Stack], label: str):
        self.directory, self.label = directory, label
        self.work = {stack.id: stack.work for stack in stacks}
        self.total = sum(self.work.values()) or 1.0
        self.finished = {stack.id for stack in stacks if directory.is_done(stack)}
        self.stacks = [stack for stack in stacks if stack.id not in self.finished]
        self.before = directory.read_progress()  # of earlier workers: no clock tells, since theirs may differ or be set
        super().__init__("{task.percentage:>3.0f}% {task.fields[speed]}")
        self.task = self.bar.add_task(label, total=self.total, speed="")

    def update(self) -> None:
        """Read the reports and redraw."""
        found = self.directory.read_progress()
        current = {r["stack"]: r.get("fraction", 0.0) for r in found.values() if r.get("stack") in self.work}
        for stack in list(self.stacks):
            if current.get(stack.id, 1.0) >= 1.0 and self.directory.is_done(stack):
                self.finished.add(stack.id)
                self.stacks.remove(stack)
        done = sum(self.work[i] for i in self.finished)
        done += sum(self.work[i] * f for i, f in current.items() if i not in self.finished)
        speed = self._speed([r for name, r in found.items() if r != self.before.get(name)])
        self.bar.update(self.task, completed=done, speed=speed)
        self.say(self.label, f"{done / self.total:.0%}", speed, self.left(done, self.total))

    @staticmethod
    def _speed(reports: Sequence[dict]) -> str:
        """Tokens/s first, then MFU = exact training FLOPs / (seconds x peak), with the peak stated."""
        told = [r for r in reports if r.get("seconds", 0) > 0 and r.get("peak_flops", 0) > 0]
        if not told:
            return ""
        tokens = sum(r.get("tokens", 0) / r["seconds"] for r in told)
        flops = sum(r.get("flops", 0) / r["seconds"] for r in told)
        peak = sum(r["peak_flops"] for r in told)
        return f"{tokens / 1e3:,.0f}k tokens/s, MFU {flops / peak:.0%} of {peak / 1e9:,.0f} GFLOP/s"


class JobDisplay(_Display):
    """Samples done, tokens/s and time left of an inference job."""

    def __init__(self, samples: int):
        self.samples, self.done, self.tokens = samples, 0, 0
        super().__init__("{task.completed}/{task.total} samples {task.fields[speed]}")
        self.task = self.bar.add_task("generate", total=samples, speed="")

    def show(self, done: int) -> None:
        """Redraw with so many samples done, by other processes."""
        self.done = done
        self.bar.update(self.task, completed=done, speed="")
        self.say("generate", f"{self.done}/{self.samples} samples")

    def add(self, tokens: int) -> None:
        """Count one more sample of so many generated tokens, and redraw."""
        self.done, self.tokens = self.done + 1, self.tokens + tokens
        elapsed = time.monotonic() - self.begin
        speed = f"{self.tokens / elapsed:,.0f} tokens/s" if elapsed > 0 else ""
        self.bar.update(self.task, completed=self.done, speed=speed)
        self.say("generate", f"{self.done}/{self.samples} samples", speed, self.left(self.done, self.samples))


class StudyDisplay(_Display):
    """Which part of a study is being searched, how much of all of it is done, and time left.

    cells: every part still to do -> what it costs, in any unit.
    """

    def __init__(self, cells: Mapping[Any, float]):
        self.total, self.before, self.now = sum(cells.values()) or 1.0, 0.0, 0.0
        self.cells = cells
        super().__init__("{task.percentage:>3.0f}%")
        self.task = self.bar.add_task("search", total=self.total)
        self.label = "search"

    def start(self, cell: Any, label: str, done: Iterable[Any]) -> None:
        """The next part that this process makes, None while it waits for others; done: the cells that are."""
        self.before, self.now = sum(self.cells[one] for one in done), float(self.cells.get(cell, 0.0))
        self.label = label
        self.bar.update(self.task, completed=self.before, description=label)

    def update(self, fraction: float) -> None:
        """How much of the part is done."""
        done = self.before + fraction * self.now
        self.bar.update(self.task, completed=done)
        self.say(self.label, f"{done / self.total:.0%} of the study", self.left(done, self.total))


def peak_of(device_kind: str, devices: int) -> float:
    """Peak FLOP/s of this process's devices: the table's bf16 figure, or a measured float32 product on a CPU."""
    known = peak_flops(device_kind)
    return known * devices if known else measured_cpu_peak()
