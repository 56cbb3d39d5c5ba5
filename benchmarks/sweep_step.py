"""One step of eight `micro` models, and a grid of learning rates and batches: as stacks, and one after the other.

    python benchmarks/sweep_step.py [--quick] [--cases map,vmap] [--torch_python PATH] [--no_clip]
    python benchmarks/sweep_step.py --cases grid [--quick] [--keep]

A case is the batch mode: "map" trains the stacked trials one by one inside the program, "vmap" all at once; the peer is
torch's step, one model after the other. "grid" compares ours with ours: 8 learning rates x 8 batches at three sizes as
one `launch.sweep` for each size, against one `launch.train` after another, each in a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness

if TYPE_CHECKING:
    from scaling.sweep.config import SweepConfig

EIGHT = harness.Case("8 micro", "MICRO", batch_size=4, seq_len=64, trials=8, chunk=16)
WIDTHS, RATES, BATCHES = (8, 16, 24), tuple(0.25 / 2**k for k in range(8)), tuple(2**k for k in range(8))
SEQ_LEN, TOKENS = 32, 2**17  # of a run: 47 to 10 tokens for each parameter
ALONE = 8  # the batch at which a run is also trained alone, a first time and so many times more
AGAIN = 2


def grid(width: int, batches: tuple[int, ...] = BATCHES, rates: tuple[float, ...] = RATES) -> SweepConfig:
    """Equal tokens for every learning rate and batch; a stack holds the learning rates of one batch."""
    from models.presets import ladder
    from scaling.sweep.config import SweepConfig
    from scaling.train.config import TrainConfig

    train = TrainConfig(seq_len=SEQ_LEN, eval_sequences=256, log_every=2**20, checkpoint_every=0)
    points = tuple(
        {"train.learning_rate": rate, "train.batch_size": batch, "train.steps": TOKENS // (SEQ_LEN * batch)}
        for batch in batches for rate in rates
    )  # fmt: skip
    return SweepConfig("grid", ladder(width, n_layers=1), train=train, points=points, stack_size=len(rates), workers=1)


def command(name: str, config: Path, workdir: Path) -> harness.Sample:
    """The seconds of a whole command, its workers included."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    line = [sys.executable, "-m", f"launch.{name}", "--config", str(config), "--workdir", str(workdir)]
    subprocess.run(line, check=True, cwd=harness.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return harness.Sample(cpu, time.perf_counter() - begin)


def written(folder: Path, name: str, expression: str) -> Path:
    """A config file whose config is `expression`."""
    path = folder / f"{name}.py"
    path.write_text(f"import sweep_step\n\n\ndef config():\n    return {expression}\n")
    return path


def measure_grid(options: argparse.Namespace) -> None:
    """Print the line of the grid: tokens of a CPU second as stacks over those of one run after another.

    Both sides start with an empty compilation cache. Alone, the first run of a shape fills it, and is left out: the
    ratio supposes that all find their program there. The sides take turns, size by size.
    """
    widths, batches = (WIDTHS[:1], BATCHES[3:5]) if options.quick else (WIDTHS, BATCHES)
    stacked: list[harness.Sample] = []
    alone: list[harness.Sample] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"XDG_CACHE_HOME": name, "PYTHONPATH": str(Path(__file__).parent)}
        everyone = written(folder, "tokens", "sweep_step.grid(8, (8,), (0.01,)).trials()[0]")
        command("train", everyone, folder / "tokens")  # the text is cut into tokens once, for both sides
        for width in widths:
            every = written(folder, f"grid_{width}", f"sweep_step.grid({width}, {batches})")
            stacked.append(command("sweep", every, folder / f"grid_{width}_runs"))
            for again in range(AGAIN + 1):
                one = f"sweep_step.grid({width}, ({ALONE},), ({0.01 + again / 1000},)).trials()[0]"
                sample = command("train", written(folder, f"one_{again}", one), folder / f"{width}_{again}")
                alone += [sample] if again else []
    runs = len(batches) * len(RATES)
    best, other = (sum(s.cpu_s for s in stacked) / len(stacked) / runs, min(s.cpu_s for s in alone))
    middle = statistics.median(s.cpu_s for s in alone)
    harness.emit_alone("sweep_step", {
        "case": f"grid: {len(RATES)} learning rates x {len(batches)} batches, widths {widths}",
        "unit": "cpu s per run, from the command to the report", "ours": round(best, 3),
        "alone_least": round(other, 3), "alone_median": round(middle, 3),
        "ratio": round(other / best, 2), "ratio_median": round(middle / best, 2),
        "ratio_wall": round(statistics.median(s.wall_s for s in alone) / statistics.mean(s.wall_s for s in stacked)
                            * runs, 2),
        "tokens_per_run": TOKENS, "tokens_per_cpu_s": [round(TOKENS / best), round(TOKENS / other)],
        "stacked_cpu_s": [round(s.cpu_s, 1) for s in stacked], "alone_cpu_s": [round(s.cpu_s, 2) for s in alone],
        "versions": versions(),
    }, options.keep)  # fmt: skip


def versions() -> dict[str, Any]:
    """Of what decides the speed."""
    import jax

    return {"python": platform.python_version(), "jax": jax.__version__}


def main() -> None:
    """Print one line for each case."""
    options = harness.parser(__doc__ or "", "map").parse_args()
    malloc = harness.prepare(options.core)
    for mode in options.cases.split(","):
        if mode == "grid":
            measure_grid(options)
            continue
        dtype = "bfloat16" if options.bf16 else "float32"
        case = dataclasses.replace(EIGHT, name=f"8 micro, {mode}", batch_mode=mode, dtype=dtype)
        harness.compare("sweep_step", case, options, malloc)


if __name__ == "__main__":
    main()
