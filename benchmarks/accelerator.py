r"""What this project does on an accelerator, in one command of eight minutes: truth, speed, kernels, a law.

    python benchmarks/accelerator.py --out runs/accelerator [--minutes 8] [--only truth,train_350m]
    python benchmarks/accelerator.py --out runs/rehearsal --toy          # every stage at toy sizes on a CPU
    JAX_PLATFORMS=cpu python benchmarks/accelerator.py --write_truth     # the CPU's values that `truth` compares with

Stages run in the order of their worth, each in a process of its own that this one, which never imports jax, ends at its
deadline. A stage is a list of cases; a case's JSON line is in OUT/lines.jsonl the moment it ends. A case that fails or
runs out of memory is a line that says so, and one that hangs or dies costs that case: its process is ended and the
stage goes on with the next. What a stage leaves of its time goes to those after it. OUT holds lines.jsonl, stages.jsonl
(one line per stage), summary.json, device_table.json (what `launch.compile --device_table` reads) and log.txt.

Peers run where torch and transformers are installed, after ours, in processes of their own; else a line says "absent".
Needs jax, flax, optax and NumPy; the stage `science` needs the whole install. Exit code 0 when every stage ended and
no case failed, else 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from accelerator_stages import common, summary

MARK = "ISOFLOP_ACCELERATOR_RUN"  # in the environment of everything that a run starts, so that it can end it all
LEAST_S = 4.0  # a stage is not started with less: a process needs as much to find its devices


@dataclass(frozen=True)
class Stage:
    """One stage: where its cases are, and what it may cost.

    share: of the time that is left, in proportion to those of the stages not yet run. case_share: of the stage's own
    time that one case may take, its compile included; what takes longer hangs.
    """

    name: str
    module: str
    share: float
    case_share: float = 0.7
    fixed_s: float = 0.0  # in place of a share; of stages that are made to go wrong, and part of a rehearsal alone


STAGES = (
    Stage("fails", "rehearsal", 0, fixed_s=20),
    Stage("exhausts", "rehearsal", 0, fixed_s=30),
    Stage("dies", "rehearsal", 0, fixed_s=20),
    Stage("hangs", "rehearsal", 0, 0.1, fixed_s=20),
    Stage("truth", "truth", 45),
    Stage("train_350m", "training", 80),
    Stage("train_350m_torch", "peers", 45),
    Stage("train_1b", "training", 80),
    Stage("train_1b_torch", "peers", 45),
    Stage("decode", "decode", 75),
    Stage("decode_transformers", "peers", 45),
    Stage("many", "training", 45),
    Stage("kernels", "kernels", 40),
    Stage("table", "table", 25),
    Stage("science", "science", 75, 1.0),
)


def main() -> int:
    """The parent, or, with --stage, one stage's process."""
    options = parser().parse_args()
    if options.stage:
        return common.run_cases(_stage(options.stage), options)
    if options.write_truth:
        from accelerator_stages import truth

        return truth.write()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("lines.jsonl", "stages.jsonl", "summary.json", "device_table.json", "log.txt", "begun.txt"):
        (options.out / name).unlink(missing_ok=True)
    asked = _chosen(options)
    began, end = time.monotonic(), time.monotonic() + 60 * options.minutes
    outcomes = []
    for i, stage in enumerate(asked):
        left = end - time.monotonic()
        box = stage.fixed_s or left * stage.share / sum(later.share for later in asked[i:])
        outcome = Child(stage, options, min(box, left)).run() if box >= LEAST_S else _not_started(stage, box)
        common.append(options.out / "stages.jsonl", outcome)
        print(json.dumps(outcome), flush=True)
        outcomes.append(outcome)
    whole = summary.summarise(common.read(options.out / "lines.jsonl"), outcomes)
    whole["seconds"] = round(time.monotonic() - began, 1)
    (options.out / "summary.json").write_text(json.dumps(whole, indent=1) + "\n")
    (options.out / "begun.txt").unlink(missing_ok=True)
    print(summary.as_text(whole), flush=True)
    return 0 if all(outcome["status"] == "done" and not outcome["failed"] for outcome in outcomes) else 1


def parser() -> argparse.ArgumentParser:
    """The options; `--stage` is what the parent gives to its children."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path("runs/accelerator"), help="folder for what is measured")
    made.add_argument("--minutes", type=float, default=8.0, help="for all stages together")
    made.add_argument("--toy", action="store_true", help="rehearse on a CPU: toy sizes, and stages made to go wrong")
    made.add_argument("--only", default="", help="comma-separated stages, in place of all")
    made.add_argument("--python", default=sys.executable, help="a Python with torch and transformers, for the peers")
    made.add_argument("--write_truth", action="store_true", help="compute the values that `truth` compares with")
    made.add_argument("--stage", default="", help=argparse.SUPPRESS)
    return made


def _stage(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)


def _chosen(options: argparse.Namespace) -> list[Stage]:
    names = [name for name in options.only.split(",") if name]
    unknown = sorted(set(names) - {stage.name for stage in STAGES})
    if unknown:
        known = ", ".join(stage.name for stage in STAGES)
        print(f"error: --only: {', '.join(unknown)} is no stage; use {known}", file=sys.stderr)
        raise SystemExit(2)
    return [stage for stage in STAGES if (stage.name in names if names else options.toy or not stage.fixed_s)]


def _not_started(stage: Stage, box: float) -> dict[str, Any]:
    return {"stage": stage.name, "status": "no time left", "box_s": round(box, 1), "seconds": 0.0, "cases": 0,
            "failed": 0}  # fmt: skip


class Child:
    """The process of one stage, started again for the cases that are left when one hangs or ends it."""

    def __init__(self, stage: Stage, options: argparse.Namespace, box_s: float):
        self.stage, self.options, self.box_s = stage, options, box_s
        self.began, self.mark = time.monotonic(), uuid.uuid4().hex
        self.end = self.began + box_s

    def run(self) -> dict[str, Any]:
        """The stage's own line: how it ended, how many cases it tried and how many of them failed."""
        status = "done"
        while True:
            before = len(self._begun())
            code, why = self._attempt()
            if code == 0:
                break
            begun = self._begun()
            if len(begun) > before and begun[-1] not in [line["case"] for line in self._lines()]:
                common.append(self.options.out / "lines.jsonl", self._lost(begun[-1], why))
            status = why if len(begun) == before else status
            if time.monotonic() >= self.end - LEAST_S:
                status = "timed out" if why.startswith("timed out") else status
                break
            if len(begun) == before:
                break
        lines = self._lines()
        failed = sum(line["status"] not in ("done", "absent") for line in lines)
        return {"stage": self.stage.name, "status": status, "box_s": round(self.box_s, 1),
                "seconds": round(time.monotonic() - self.began, 1), "cases": len(lines), "failed": failed}  # fmt: skip

    def _attempt(self) -> tuple[int | None, str]:
        """(exit code, why it is not 0): the process runs until it ends, its time is up, or a case takes too long."""
        options = self.options
        python = options.python if self.stage.module == "peers" else sys.executable
        command = [python, __file__, "--stage", self.stage.name, "--out", str(options.out)]
        command += ["--toy"] if options.toy else []
        variables = common.variables(options.toy) | {MARK: self.mark}
        with (options.out / "log.txt").open("ab") as log:
            log.write(f"== {self.stage.name}\n".encode())
            log.flush()
            process = subprocess.Popen(command, stdout=log, stderr=log, env=variables, start_new_session=True)
        tried, since = len(self._begun()), time.monotonic()
        why = ""
        while process.poll() is None and not why:
            time.sleep(0.05)
            now = time.monotonic()
            if len(self._begun()) != tried:
                tried, since = len(self._begun()), now
            if now >= self.end:
                why = f"timed out: its stage has {self.box_s:.0f} s"
            elif now - since >= self.stage.case_share * self.box_s:
                why = f"timed out: a case has {self.stage.case_share * self.box_s:.0f} s"
        self._kill(process)
        code = None if why else process.returncode
        if code is not None and code < 0:
            why = f"died of {signal.Signals(-code).name}"
        return code, why or f"exit code {code}"

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """End the stage's process and all that it started, also what has left its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        marked = f"{MARK}={self.mark}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if marked in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)

    def _lines(self) -> list[dict[str, Any]]:
        return [x for x in common.read(self.options.out / "lines.jsonl") if x["stage"] == self.stage.name]

    def _begun(self) -> list[str]:
        return common.begun(self.options.out, self.stage.name)

    def _lost(self, case: str, why: str) -> dict[str, Any]:
        return {"stage": self.stage.name, "case": case, "status": why.partition(":")[0], "error": why}


if __name__ == "__main__":
    raise SystemExit(main())
