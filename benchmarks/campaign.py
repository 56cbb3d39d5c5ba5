"""A fault campaign: a sweep and an inference job under many faults, compared with the same ones left in peace.

Part of faults.py (--campaign). Two workers on this machine; every fault is drawn from --seed, strikes at a random
moment of somebody's work, and must be followed by progress. Whatever ends the command, the same command is started
again, as a person would. At the end every trial and every prompt must be there once, with the quiet run's values.
Where SLURM is installed, the sweep runs once more on two nodes of a real cluster, which lose their power meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.launch.clusters import Slurm

PATIENCE_S = 900.0
CASES = ("sweep", "job", "slurm")
LEASE_S = "20"  # silence after which a process counts as hung, so that hangs do not fill the campaign's time
DAY_S = 86400.0
SWEEP_FAULTS = ("worker SIGKILL", "worker SIGTERM", "worker hangs", "launcher SIGKILL", "launcher SIGTERM",
                "launcher Ctrl-C", "second launcher", "disk full", "damaged checkpoint", "clock jump")  # fmt: skip
SLURM_FAULTS = ("node SIGKILL", "controller SIGKILL", "node SIGTERM", "worker SIGKILL", "launcher SIGKILL")
JOB_FAULTS = tuple(kind for kind in SWEEP_FAULTS if kind not in ("damaged checkpoint", "second launcher"))
CONFIG = '''"""The sweep of the campaign."""
from models.config import ModelConfig
from scaling.data import DataConfig
from scaling.sweep.combinators import grid
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig

def config():
    train = TrainConfig(steps={steps}, batch_size=4, seq_len=16, learning_rate=0.01, eval_sequences=8, log_every=50,
                        checkpoint_every={every})
    data = DataConfig(source="text", path={text!r}, cache_dir={cache!r}, heldout_fraction=0.1)
    points = grid({{"model.d_model": [8, 16], "train.seed": range({seeds})}})
    model = ModelConfig(d_model=8, n_layers=1, n_heads=2, d_ff=16)
    return SweepConfig("campaign", model, data, train, points=tuple(points), stack_size={stack}, workers=2)
'''


@dataclass
class Strike:
    """One fault: what, what the command did next, and seconds until there was more on disk than before."""

    kind: str
    outcome: str
    seconds: float


@dataclass
class Case:
    """A sweep or a job: the command, its directory, and what must be equal at the end."""

    name: str
    command: list[str]
    directory: Path
    kinds: tuple[str, ...]
    result: Callable[[Path], Any]
    log: Path
    cluster: Slurm | None = None
    strikes: list[Strike] = field(default_factory=list)
    starts: int = 0
    codes: Counter[str] = field(default_factory=Counter)

    def start(self) -> subprocess.Popen[bytes]:
        """The command in a session of its own, its output in a file."""
        self.starts += 1
        out = open(self.log, "ab")
        made = os.environ | {"ISOFLOP_LEASE_S": LEASE_S} | (self.cluster.variables if self.cluster else {})
        return subprocess.Popen(self.command, stdout=out, stderr=out, env=made, start_new_session=True)


def workers(directory: Path) -> list[int]:
    """Process ids of the workers of a directory; the kernel's list, so that no file of the run is believed."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            line = (process / "cmdline").read_bytes().decode().split("\0")
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if "launch.worker" in line and str(directory) in line and state != "Z":
                found.append(int(process.name))
    return sorted(found)


def disturb(case: Case, faults: int, draw: random.Random, end: Callable[[], bool]) -> None:
    """Run the command to its end while `faults` faults strike; starts it again whenever it ends before that."""
    from launch.executors.executor import progress_of

    launcher = case.start()
    queue = [case.kinds[i % len(case.kinds)] for i in range(faults)]
    draw.shuffle(queue)
    kept: dict[Path, tuple[int, int]] = {}
    while not (end() and launcher.poll() is not None):
        watch_rows(case.directory, kept)
        if launcher.poll() is not None:
            case.codes[str(launcher.returncode)] += 1
            launcher = case.start()
        if queue and not end() and at_work(case, launcher):
            time.sleep(draw.uniform(0, 2))
            before, begin = progress_of(case.directory), time.monotonic()
            outcome = strike(case, queue[0], launcher, draw)
            if outcome:
                launcher = follow(case, launcher, before, end)
                case.strikes.append(Strike(queue.pop(0), outcome, round(time.monotonic() - begin, 1)))
                print(
                    json.dumps(vars(case.strikes[-1]) | {"case": case.name, "left": len(queue)}),
                    file=sys.stderr,
                    flush=True,
                )
        time.sleep(0.1)
    watch_rows(case.directory, kept)
    case.codes[str(launcher.returncode)] += 1
    if queue:
        print(f"{case.name}: ended with {len(queue)} faults to come: give it more steps", file=sys.stderr)


def watch_rows(directory: Path, kept: dict[Path, tuple[int, int]]) -> None:
    """A row that was written once must never be written again."""
    for path in directory.glob("trials/*/result.json"):
        found = (path.stat().st_ino, path.stat().st_mtime_ns)
        if kept.setdefault(path, found) != found:
            raise AssertionError(f"{path} was written twice")


def at_work(case: Case, launcher: subprocess.Popen[bytes]) -> bool:
    """Whether workers hold something: a fault should hit work."""
    from scaling.sweep.lease import holders

    held = [name for name in holders(case.directory / ".leases") if name != "launcher"]
    return launcher.poll() is None and bool(workers(case.directory)) and bool(held)


def follow(
    case: Case, launcher: subprocess.Popen[bytes], before: float, end: Callable[[], bool]
) -> subprocess.Popen[bytes]:
    """Wait for progress, starting the command again when it ends; the running command."""
    from launch.executors.executor import progress_of

    limit = time.monotonic() + PATIENCE_S
    while progress_of(case.directory) <= before and not end():
        if launcher.poll() is not None:
            case.codes[str(launcher.returncode)] += 1
            launcher = case.start()
        if time.monotonic() > limit:
            raise AssertionError(f"no progress after {case.strikes[-1:]}: see {case.log}")
        time.sleep(0.1)
    return launcher


def strike(case: Case, kind: str, launcher: subprocess.Popen[bytes], draw: random.Random) -> str:
    """One fault; what followed at once, or "" when there was nothing to strike."""
    living = workers(case.directory)
    if not living:
        return ""
    victim = draw.choice(living)
    if case.cluster is not None and kind.startswith(("node", "controller")):
        return unplug(case.cluster, kind, victim, draw)
    with contextlib.suppress(ProcessLookupError):
        if kind == "disk full":
            resource.prlimit(victim, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
            return "its writes fail"
        if kind == "damaged checkpoint":
            return damage(case.directory, victim, draw)
        if kind == "clock jump":
            return jump(case.directory, draw)
        if kind == "second launcher":
            return second(case)
        target = victim if kind.startswith("worker") else launcher.pid
        names = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "hangs": signal.SIGSTOP, "Ctrl-C": signal.SIGINT}
        os.kill(target, names[kind.split()[1]])
        if target == launcher.pid:
            launcher.wait(PATIENCE_S)  # at once, or when its workers have saved: only then is the directory free
        return f"process {'of a worker' if target == victim else 'of the launcher'} struck"
    return ""


def damage(directory: Path, victim: int, draw: random.Random) -> str:
    """Flip one byte of the newest checkpoint of a stack and kill its reader, so that it is read."""
    steps = [path for path in directory.glob("stacks/*/*") if path.name.isdigit()]
    if not steps:
        return ""
    newest = max(steps, key=lambda path: (path.stat().st_mtime_ns, int(path.name)))
    files = [path for path in newest.rglob("*") if path.is_file() and path.stat().st_size > 64]
    with contextlib.suppress(FileNotFoundError, ValueError):
        path = max(files, key=lambda path: path.stat().st_size)
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        for worker in workers(directory):
            os.kill(worker, signal.SIGKILL)
        return f"step {newest.name} damaged, its readers killed"
    return ""


def jump(directory: Path, draw: random.Random) -> str:
    """Every time stamp that a file server with a jumped clock would give, a day off."""
    now = time.time() + draw.choice([-DAY_S, DAY_S])
    for path in [*directory.glob(".leases/**/*"), *directory.glob("progress/*"), *directory.glob("stacks/*/*")]:
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (now, now))
    return f"time stamps moved by {(now - time.time()) / DAY_S:+.0f} day"


def unplug(cluster: Slurm, kind: str, victim: int, draw: random.Random) -> str:
    """End the controller, or the node of a worker with all that runs there, and let it come back after a while."""
    name = next((node for node in cluster.nodes if victim in cluster.processes(node)), "")
    name = "slurmctld" if kind.startswith("controller") else name
    if not name:
        return ""  # the worker ended meanwhile
    cluster.lose(name, signal.Signals[kind.split()[1]])
    away = draw.uniform(1, 8)
    time.sleep(away)
    cluster.start(name)
    return f"{'the controller' if name == 'slurmctld' else 'a node and its steps'} gone, back after 1 to 8 s"


def second(case: Case) -> str:
    """The same command while the first one runs: it must be refused."""
    done = subprocess.run(case.command, capture_output=True, text=True, env=os.environ | {"ISOFLOP_LEASE_S": LEASE_S})
    if done.returncode != 2 or "is in use by process" not in done.stderr:
        raise AssertionError(f"a second launcher ended with {done.returncode}: {done.stderr}")
    return "refused, exit 2, the holder named"


# -- the two cases --------------------------------------------------------------------------------------------------


def table(directory: Path) -> Any:
    """The results of a sweep, times and devices aside, its metrics, and digests of its final parameters."""
    from scaling.sweep.results import TIMES_AND_DEVICES, Results
    from scaling.train.checkpoint import load_params

    rows = [
        {k: v for k, v in row.items() if k not in TIMES_AND_DEVICES} for row in Results(directory).table().to_pylist()
    ]
    metrics = {path.parent.name: path.read_text() for path in sorted(directory.glob("trials/*/metrics.jsonl"))}
    import jax
    import numpy as np

    digests = {}
    for row in rows:
        leaves = jax.tree.leaves(load_params(directory / "trials" / row["trial"]))
        digests[row["trial"]] = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest()
    return {"rows": rows, "metrics": metrics, "params": digests}


def samples(directory: Path) -> Any:
    """The lines of a job, without the bytes moved: they depend on how many samples read a prompt together."""
    lines = [json.loads(line) for line in (directory / "samples.jsonl").read_text().splitlines()]
    for line in lines:
        line.get("ledger", {}).pop("bytes", None)
    keys = [(line["line"], line.get("sample")) for line in lines]
    if len(set(keys)) != len(keys):
        raise AssertionError(f"{directory}: a sample is there twice")
    return lines


@contextlib.contextmanager
def nothing_left(directory: Path) -> Iterator[None]:
    """Kill what a failure of the campaign leaves at work."""
    try:
        yield
    finally:
        for worker in workers(directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def prepare(root: Path, trials: int, steps: int, prompts: int, seed: int) -> None:
    """The text, the config of the sweep and the prompts of the job."""
    draw = random.Random(seed)
    (root / "text").mkdir(parents=True)
    for n in range(60):
        words = " ".join(draw.choices(("loss", "compute", "tokens", "law", "width", "step"), k=60))
        (root / "text" / f"{n}.txt").write_text(f"{n} {words}")
    (root / "sweep.py").write_text(CONFIG.format(
        steps=steps, every=max(1, steps // 8), text=str(root / "text"), cache=str(root / "cache"), seeds=trials // 2,
        stack=3,
    ))  # fmt: skip
    lines = [
        json.dumps({"prompt": " ".join(draw.choices(("loss", "law", "step"), k=1 + i % 7))}) for i in range(prompts)
    ]
    (root / "prompts.jsonl").write_text("\n".join(lines) + "\n")


def sweep_case(root: Path, name: str, cluster: Slurm | None = None) -> Case:
    """The sweep in DIR/<name>, on this machine or on a cluster."""
    command = [sys.executable, "-m", "launch.sweep", f"--config={root}/sweep.py", f"--workdir={root / name}"]
    log = root / f"{name}.log"
    if cluster is None:
        return Case("sweep", command, root / name, SWEEP_FAULTS, table, log)
    return Case("slurm", [*command, "--executor=slurm"], root / name, SLURM_FAULTS, table, log, cluster)


def job_case(root: Path, name: str, trial: Path, prompts: int) -> Case:
    """The inference job in DIR/<name>, on the parameters of a trial."""
    sizes = {"slots": 8, "max_len": 64, "page_size": 8, "prefill_chunk": 16, "stage_tokens": 4, "share_rows": 2}
    command = [sys.executable, "-m", "launch.infer", f"--checkpoint={trial}", f"--prompts={root}/prompts.jsonl",
               f"--out={root / name}", "--samples=1", "--max_tokens=24", "--workers=2",
               f"--config.shard_size={max(1, prompts // 60)}"]  # fmt: skip
    command += [f"--config.engine.{key}={value}" for key, value in sizes.items()]
    return Case("job", command, root / name, JOB_FAULTS, samples, root / f"{name}.log")


def quiet(case: Case) -> Any:
    """Run to the end in peace; its results."""
    begin = time.monotonic()
    code = case.start().wait()
    if code:
        raise RuntimeError(f"the quiet {case.name} ended with {code}: see {case.log}")
    print(f"quiet {case.name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return case.result(case.directory)


def survived(case: Case, faults: int, seed: int, expected: Any, units: int) -> list[dict[str, Any]]:
    """Run a case under faults; its lines. AssertionError when anything is lost, there twice, or different."""
    from scaling.sweep.results import Results

    last = case.directory / ("manifest.json" if case.name == "job" else "report.html")
    with nothing_left(case.directory):
        disturb(case, faults, random.Random(seed), last.exists)
    same = case.result(case.directory) == expected
    if not same:
        raise AssertionError(f"{case.directory} differs from the quiet run")
    if case.name != "job" and len(Results(case.directory).frame()) != units:
        raise AssertionError(f"{case.directory} has {len(Results(case.directory).frame())} rows, not {units}")
    lines = []
    for kind in case.kinds:
        found = [s for s in case.strikes if s.kind == kind]
        if found:
            lines.append({"case": case.name, "kind": kind, "struck": len(found), "outcome": found[0].outcome,
                          "seconds": sorted(s.seconds for s in found)[len(found) // 2]})  # fmt: skip
    lines.append({"case": case.name, "kind": "all", "struck": len(case.strikes), "starts": case.starts,
                  "exit codes": dict(case.codes), "units": units, "identical": same})  # fmt: skip
    return lines


def campaign(
    root: Path, trials: int, steps: int, prompts: int, faults: int, seed: int, cases: Sequence[str] = CASES
) -> Iterator[list[dict[str, Any]]]:
    """Run `cases`; the lines of each as it ends. A sixth more faults strike where SLURM is installed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else a command inherits that a shell's & ignores Ctrl-C
    shutil.rmtree(root, ignore_errors=True)
    prepare(root, trials, steps, prompts, seed)
    expected = quiet(sweep_case(root, "sweep-quiet"))
    if "sweep" in cases:
        yield survived(sweep_case(root, "sweep-faults"), faults * 3 // 5, seed, expected, trials)
    if "job" in cases:
        yield on_job(root, faults - faults * 3 // 5, seed, expected, prompts)
    if "slurm" in cases:
        yield from on_slurm(root, max(1, faults // 6), seed, expected, trials)


def on_job(root: Path, faults: int, seed: int, expected: Any, prompts: int) -> list[dict[str, Any]]:
    """An inference job with the model of a trial of the quiet sweep."""
    folder = root / "sweep-quiet" / "trials" / expected["rows"][0]["trial"]
    drawn = quiet(job_case(root, "job-quiet", folder, prompts))
    return survived(job_case(root, "job-faults", folder, prompts), faults, seed, drawn, prompts)


def on_slurm(root: Path, faults: int, seed: int, expected: Any, trials: int) -> Iterator[list[dict[str, Any]]]:
    """The sweep on two nodes of a cluster that is started here; says so where it cannot be."""
    from tests.launch import clusters

    if clusters.missing():
        print(f"no faults of nodes: {clusters.missing()}", file=sys.stderr, flush=True)
        return
    with clusters.slurm(root / "cluster", kill_wait_s=10) as cluster:
        yield survived(sweep_case(root, "slurm-faults", cluster), faults, seed, expected, trials)
