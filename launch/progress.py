"""What a person sees while a sweep runs: work done, tokens/s, share of the peak, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from models.devices import peak_flops
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


class SweepDisplay:
    """Follows the workers' reports; use as a context manager and call `update()` a few times a second."""

    def __init__(self, directory: RunDirectory, stacks: Sequence[Stack], label: str):
        self.directory, self.label = directory, label
        self.work = {stack.id: stack.work for stack in stacks}
        self.total = sum(self.work.values()) or 1.0
        self.finished = {stack.id for stack in stacks if directory.is_done(stack)}
        self.stacks = [stack for stack in stacks if stack.id not in self.finished]
        self.console = Console(stderr=True)
        self.begin = self.last_line = time.time()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% {task.fields[speed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
        )
        self.task = self.bar.add_task(label, total=self.total, speed="")

    def __enter__(self) -> SweepDisplay:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def update(self) -> None:
        """Read the reports and redraw."""
        reports = self.directory.read_progress().values()
        current = {r["stack"]: r["fraction"] for r in reports if r["stack"] in self.work}
        for stack in list(self.stacks):
            if current.get(stack.id, 1.0) >= 1.0 and self.directory.is_done(stack):
                self.finished.add(stack.id)
                self.stacks.remove(stack)
        done = sum(self.work[i] for i in self.finished)
        done += sum(self.work[i] * f for i, f in current.items() if i not in self.finished)
        speed = self._speed([r for r in reports if r["time"] > self.begin])
        self.bar.update(self.task, completed=done, speed=speed)
        if not self.console.is_terminal and time.time() - self.last_line > LINE_EVERY_S:
            self.last_line = time.time()
            elapsed = time.time() - self.begin
            left = f"{elapsed * (self.total - done) / done:.0f} s left" if done else ""
            said = ", ".join(part for part in (f"{done / self.total:.0%}", speed, left) if part)
            print(f"{self.label}: {said}", file=sys.stderr, flush=True)

    @staticmethod
    def _speed(reports: Sequence[dict]) -> str:
        """Tokens/s first, then MFU = exact training FLOPs / (seconds x peak), with the peak stated."""
        if not any(r["seconds"] > 0 for r in reports):
            return ""
        tokens = sum(r["tokens"] / r["seconds"] for r in reports)
        flops = sum(r["flops"] / r["seconds"] for r in reports)
        peak = sum(r["peak_flops"] for r in reports)
        return f"{tokens / 1e3:,.0f}k tokens/s, MFU {flops / peak:.0%} of {peak / 1e9:,.0f} GFLOP/s"


class JobDisplay:
    """Samples done, tokens/s and time left of an inference job; use as a context manager."""

    def __init__(self, samples: int):
        self.samples, self.done, self.tokens = samples, 0, 0
        self.console = Console(stderr=True)
        self.begin = self.last_line = time.time()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} samples {task.fields[speed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
        )
        self.task = self.bar.add_task("generate", total=samples, speed="")

    def __enter__(self) -> JobDisplay:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def show(self, done: int) -> None:
        """Redraw with so many samples done, by other processes."""
        self.done = done
        self.bar.update(self.task, completed=done, speed="")
        if not self.console.is_terminal and time.time() - self.last_line > LINE_EVERY_S:
            self.last_line = time.time()
            print(f"generate: {done}/{self.samples} samples", file=sys.stderr, flush=True)

    def add(self, tokens: int) -> None:
        """Count one more sample of so many generated tokens, and redraw."""
        self.done, self.tokens = self.done + 1, self.tokens + tokens
        elapsed = time.time() - self.begin
        speed = f"{self.tokens / elapsed:,.0f} tokens/s" if elapsed > 0 else ""
        self.bar.update(self.task, completed=self.done, speed=speed)
        if not self.console.is_terminal and time.time() - self.last_line > LINE_EVERY_S:
            self.last_line = time.time()
            left = elapsed * (self.samples - self.done) / self.done
            line = f"generate: {self.done}/{self.samples} samples, {speed}, {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)


def peak_of(device_kind: str, devices: int) -> float:
    """Peak FLOP/s of this process's devices: the table's bf16 figure, or a measured float32 product on a CPU."""
    known = peak_flops(device_kind)
    return known * devices if known else measured_cpu_peak()
