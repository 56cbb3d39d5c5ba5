"""What faults cost: steps lost and seconds until training is past where it was, for two processes of one run.

    python benchmarks/faults.py [--quick] [--cases sigkill_one,flipped] [--devices 4] [--keep]
    python benchmarks/faults.py --campaign [--trials 60] [--steps 16000] [--prompts 5000] [--faults 50] [--seed 0]
                                         [--cases sweep,job,slurm]

Every case trains the same tiny model in two processes of `--devices` virtual CPU devices each, under the supervisor,
and disturbs it once. Seconds include the restart: starting Python, meeting, restoring and compiling. No peer: the
tools that train on several hosts leave restarting to the scheduler.

--campaign: a sweep and an inference job on two workers under many faults of all kinds; see campaign.py.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import platform
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness

INTERVAL = 10  # steps between checkpoints
PATIENCE_S = 300.0
SIGNALS = {
    "sigterm_one": (signal.SIGTERM, 1),
    "sigkill_one": (signal.SIGKILL, 1),
    "sigkill_first": (signal.SIGKILL, 0),
    "hang_one": (signal.SIGSTOP, 1),  # silent, not dead: the heartbeat (10 s here) has to notice
}
DAMAGE = ("flipped", "truncated", "removed")
CASES = (*SIGNALS, *DAMAGE, "disk_full")


@dataclass(frozen=True)
class Cost:
    """What one fault took: steps that were trained again, seconds until training was past where it had been."""

    steps_lost: int
    seconds: float
    note: str


class Bench:
    """One tiny trial, its text, and the run directories of the cases, all in a temporary folder."""

    def __init__(self, root: Path, steps: int, devices: int):
        from models.config import ModelConfig
        from models.sharding import MeshConfig
        from scaling.data import DataConfig
        from scaling.sweep.trial import Trial
        from scaling.train.config import TrainConfig

        draw = random.Random(0)
        (root / "text").mkdir()
        for n in range(60):
            words = " ".join(draw.choices(("loss", "compute", "tokens", "law", "width", "step"), k=60))
            (root / "text" / f"{n}.txt").write_text(f"{n} {words}")
        self.root, self.devices = root, devices
        self.trial = Trial(
            ModelConfig(d_model=16, n_layers=2, n_heads=2, d_ff=32),
            DataConfig(source="text", path=str(root / "text"), cache_dir=str(root / "cache"), heldout_fraction=0.1),
            TrainConfig(
                steps=steps, batch_size=2 * devices, seq_len=16, eval_sequences=8, log_every=2,
                checkpoint_every=INTERVAL,
            ),
            MeshConfig(data=2, fsdp=-1),
        )  # fmt: skip

    def planned(self, name: str) -> Path:
        """A fresh run directory."""
        from launch.preflight import check_trials
        from scaling.sweep.config import SweepConfig
        from scaling.sweep.directory import RunDirectory

        t = self.trial
        directory = RunDirectory(self.root / name)
        sweep = SweepConfig("faults", t.model, t.data, t.train, t.mesh, workers=1)
        directory.claim(sweep, check_trials(sweep.trials()))
        directory.plan(sweep.trials(), 1, {})
        return directory.path

    def reached(self, workdir: Path) -> int:
        """The step of the last row of metrics."""
        path = workdir / "trials" / self.trial.id / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        with contextlib.suppress(ValueError):
            return json.loads(lines[-1])["step"] if lines else 0
        return json.loads(lines[-2])["step"] if len(lines) > 1 else 0  # the last one is being written

    @contextlib.contextmanager
    def running(self, workdir: Path, limit: str = "") -> Iterator[tuple[Any, Callable[[], int]]]:
        """(the supervisor at work, what waits for its exit code); nothing of it is left behind."""
        from launch.supervisor import Supervisor

        command = [sys.executable, "-m", "launch.worker", "--workdir", str(workdir)]
        command = ["bash", "-c", f'{limit}; exec "$@"', "limited", *command] if limit else command
        boss = Supervisor(command, 2, workdir / "logs", self.devices, heartbeat_s=10)
        codes: list[int] = []
        thread = threading.Thread(target=lambda: codes.append(boss.run()))
        thread.start()

        def finish() -> int:
            thread.join(PATIENCE_S)
            if not codes:
                raise RuntimeError(f"no end: see {workdir}/logs")
            return codes[0]

        try:
            yield boss, finish
        finally:
            boss.restarts, boss.stop_signal = 0, boss.stop_signal or signal.SIGTERM
            for rank in boss.ranks:
                with contextlib.suppress(ProcessLookupError):
                    rank.process.kill()
            thread.join(PATIENCE_S)


def wait(condition: Callable[[], Any], what: str) -> Any:
    """Poll until `condition` holds; its value."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.005)
    raise RuntimeError(f"waited in vain for {what}")


def saved(workdir: Path) -> list[int]:
    """Complete checkpoints of the only stack."""
    return sorted(int(path.name) for path in workdir.glob("stacks/*/*") if path.name.isdigit())


def resumed(workdir: Path) -> int:
    """The step that process 0 says it went on from last; 0 when it started anew."""
    lines = (workdir / "logs" / "rank-0.log").read_text().splitlines()
    steps = [int(line.rsplit(" ", 1)[1]) for line in lines if " resuming " in line]
    return steps[-1] if steps else 0


def disturbed(bench: Bench, case: str) -> Cost:
    """Send a signal to one of two processes after two checkpoints; after SIGTERM the same command starts again."""
    number, victim = SIGNALS[case]
    workdir = bench.planned(case)
    with bench.running(workdir) as (boss, finish):
        wait(lambda: len(saved(workdir)) >= 2, "two checkpoints")
        wait(lambda: bench.reached(workdir) % INTERVAL >= INTERVAL // 2, "the middle of an interval")
        first = boss.ranks[victim].process
        first.send_signal(number)
        begin = time.monotonic()
        if number == signal.SIGTERM:
            code = finish()
            note = f"all exit {code}"
        else:
            wait(lambda: boss.ranks[victim].process is not first, "a restart")
            note = "all restarted"
        reached = bench.reached(workdir)
        if number != signal.SIGTERM:
            wait(lambda: "resuming" in (workdir / "logs" / "rank-0.log").read_text(), "the resume")
            lost = reached - resumed(workdir)
            wait(lambda: bench.reached(workdir) > reached, "the step where it was")
            return Cost(lost, time.monotonic() - begin, note)
    return again(bench, workdir, reached, begin, note)


def again(bench: Bench, workdir: Path, reached: int, begin: float, note: str) -> Cost:
    """Start the command on `workdir` again and wait until it is past `reached`."""
    with bench.running(workdir):
        wait(lambda: bench.reached(workdir) > reached, "the step where it was")
        return Cost(reached - resumed(workdir), time.monotonic() - begin, note)


def damaged(bench: Bench, case: str, template: Path) -> Cost:
    """Harm the newest of two checkpoints of a stopped run, then start the command again."""
    workdir = bench.root / case
    shutil.copytree(template, workdir)
    newest = saved(workdir)[-1]
    (step,) = workdir.glob(f"stacks/*/{newest}")
    victim = max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    if case == "removed":
        victim.unlink()
    else:
        victim.write_bytes(content[: len(content) // 2] if case == "truncated" else content)
    reached = bench.reached(workdir)
    return again(bench, workdir, reached, time.monotonic(), f"step {newest} damaged, step {saved(workdir)[-2]} used")


def full(bench: Bench) -> Cost:
    """Process 1 may write no file of more than 16 KiB for a start; then the command starts again without the limit."""
    workdir = bench.planned("disk_full")
    with bench.running(workdir, 'if [ "$JAX_PROCESS_ID" = 1 ]; then ulimit -f 16; fi') as (boss, finish):
        code = finish()
        line = boss.ranks[1].error_line() or ""
    return again(bench, workdir, bench.reached(workdir), time.monotonic(), f"exit {code}: {line.split(': ', 1)[-1]}")


def main() -> None:
    """Two lines per case: steps lost, and seconds to recover."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="shorter runs")
    made.add_argument("--cases", default="", help="comma-separated; default all")
    made.add_argument("--devices", type=int, default=4, help="virtual CPU devices of each process")
    made.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    made.add_argument("--campaign", action="store_true", help="many faults of all kinds on a sweep and on a job")
    sizes = {"trials": 60, "steps": 16000, "prompts": 5000, "faults": 50, "seed": 0}
    for name, value in sizes.items():
        made.add_argument(f"--{name}", type=int, default=value, help=f"of the campaign (default {value})")
    options = made.parse_args()
    import jax

    from launch import environment

    environment.prepare()
    if options.campaign:
        strike_all(options, {"python": platform.python_version(), "jax": jax.__version__})
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), 60 if options.quick else 200, options.devices)
        template: Path | None = None
        for case in options.cases.split(",") if options.cases else CASES:
            if case in DAMAGE and template is None:
                template = bench.planned("template")
                with bench.running(template) as (boss, finish):
                    wait(lambda path=template: len(saved(path)) >= 2, "two checkpoints")
                    boss.stop(signal.SIGTERM)
                    finish()
            cost = full(bench) if case == "disk_full" else None
            cost = cost or (damaged(bench, case, template) if template and case in DAMAGE else disturbed(bench, case))
            emit(case, cost, options, {"python": platform.python_version(), "jax": jax.__version__})


def strike_all(options: argparse.Namespace, versions: dict[str, str]) -> None:
    """The campaign: one line for each kind of fault, and one for all."""
    import campaign

    with tempfile.TemporaryDirectory() as folder:
        sizes = (options.trials, options.steps, options.prompts, options.faults, options.seed)
        cases = options.cases.split(",") if options.cases else campaign.CASES
        run = campaign.campaign(Path(folder) / "campaign", *sizes, cases)
        for found in itertools.chain.from_iterable(run):
            name = f"campaign: {found.pop('case')}, {found.pop('kind')}"
            harness.emit_alone("faults", {
                "case": name, "unit": "s to progress", "ours": found.pop("seconds", None), **found,
                "seed": options.seed, "versions": versions,
            }, options.keep)  # fmt: skip


def emit(case: str, cost: Cost, options: argparse.Namespace, versions: dict[str, str]) -> None:
    """The lines of one case."""
    for unit, ours in (("steps lost", cost.steps_lost), ("s to recover", round(cost.seconds, 1))):
        harness.emit_alone("faults", {
            "case": case, "unit": unit, "ours": ours, "interval": INTERVAL, "processes": 2,
            "devices": options.devices, "note": cost.note, "versions": versions,
        }, options.keep)  # fmt: skip


if __name__ == "__main__":
    main()
