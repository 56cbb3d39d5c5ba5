"""One step of eight `micro` models, and a grid of learning rates and batches: as stacks, and one after the other.

    python benchmarks/sweep_step.py [--quick] [--cases map,vmap] [--torch_python PATH] [--no_clip]
    python benchmarks/sweep_step.py --cases grid_8,grid_16,grid_24 [--quick] [--keep]

A case is the batch mode: "map" trains the stacked trials one by one inside the program, "vmap" all at once; the peer is
torch's step, one model after the other. "grid_WIDTH" compares ours with ours: 8 learning rates x 8 batches of a
width as one `launch.sweep`, against one `launch.train` after another, each in a process of its own.
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
RATES, BATCHES = tuple(2.0 ** -(4 + k) for k in range(8)), tuple(2**k for k in range(8))
SEQ_LEN, TOKENS = 32, 2**17  # of a run: 47 to 10 tokens for each parameter
ALONE = 8  # the batch at which a run is also trained alone


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


def measure_grid(width: int, options: argparse.Namespace) -> None:
    """Print the line of a grid: CPU seconds of one run alone over those of one in stacks, whole commands.

    Both sides start with an empty compilation cache. Alone, the first run fills it and is left out: the ratio supposes
    that all others find their program there.
    """
    batches = BATCHES[3:5] if options.quick else BATCHES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"XDG_CACHE_HOME": name, "PYTHONPATH": str(Path(__file__).parent)}
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # `prepare` has set it to the user's, which may be full

        def lone(n: int) -> harness.Sample:
            one = written(folder, f"one_{n}", f"sweep_step.grid({width}, ({ALONE},), ({0.01 + n / 1000},)).trials()[0]")
            return command("train", one, folder / f"one_{n}_runs")

        lone(0)  # cuts the text into tokens for both sides, and compiles
        alone = [lone(1)]
        every = written(folder, "grid", f"sweep_step.grid({width}, {batches})")
        stacked = command("sweep", every, folder / "grid_runs")
        alone.append(lone(2))
    runs = len(batches) * len(RATES)
    cpu, wall = ([getattr(one, clock) for one in alone] for clock in ("cpu_s", "wall_s"))
    ours, middle = stacked.cpu_s / runs, statistics.median(cpu)
    harness.emit_alone("sweep_step", {
        "tokens_per_s": round(TOKENS / ours), "case": f"grid of {len(RATES)} x {len(batches)}, width {width}",
        "unit": "cpu s per run, from the command to the report", "ours": round(ours, 3), "alone": round(min(cpu), 3),
        "ratio": round(min(cpu) / ours, 2), "ratio_median": round(middle / ours, 2),
        "ratio_wall": round(statistics.median(wall) * runs / stacked.wall_s, 2),
        "tokens_per_run": TOKENS, "stacked_cpu_s": round(stacked.cpu_s, 1), "alone_cpu_s": [round(s, 2) for s in cpu],
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
        if mode.startswith("grid_"):
            measure_grid(int(mode.removeprefix("grid_")), options)
            continue
        dtype = "bfloat16" if options.bf16 else "float32"
        case = dataclasses.replace(EIGHT, name=f"8 micro, {mode}", batch_mode=mode, dtype=dtype)
        harness.compare("sweep_step", case, options, malloc)


if __name__ == "__main__":
    main()
