"""Every strategy by name, on every kind of model: jobs that are stopped and gone on with, against a quiet run.

    python benchmarks/strategies.py [--cases dense,int8,split,recurrent,trained] [--strategies beam,mcts] [--keep]

A case is a model: a random transformer in Hugging Face's format, the same with keys and values in int8, the same split
between two devices (virtual ones on a CPU), a random Mamba-2, and a policy that is trained here for some seconds. Each
strategy of the catalogue searches three prompts with it in one go, and once more in a job that is stopped after 0, 1
and 2 looks and then goes on. Both must have written the same bytes. What a model cannot do must be refused in one line.

--kill: the same as jobs of processes, of which the second is killed by SIGKILL as soon as it has written a shard; on
any executor (--executor=ray, or slurm), with two workers there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness

CASES = ("dense", "int8", "split", "recurrent", "trained")
RESULTS = Path(__file__).parent / "results"
STOPS = (0, 1, 2)  # looks at whether it is to stop, of the runs before the last
ARGUMENTS = {  # {0} to {6}: words that are one token each
    "greedy": "", "best_of_n": "samples=4", "majority": "samples=4", "weighted_vote": "samples=4",
    "beam": "samples=4,width=2", "dvts": "samples=4,width=2", "rebase": "samples=4", "particle_filter": "samples=4",
    "odds_filter": "samples=4", "twisted_smc": "samples=4,candidates=2", "particle_gibbs": "samples=4,iterations=2",
    "astar": "branch=2,capacity=6", "mcts": "simulations=4,actions=2", "metropolis": "chains=2,steps=3",
    "short_m": "chains=4,m=2", "early_stopping": "window=2,most=4", "adaptive_consistency": "most=6,batch=2",
    "pruning": "samples=4,checkpoints=[1,3]", "restarts": "samples=4,threshold=0.9",
    "confident_vote": "samples=4,warm_up=2,window=3",
    "budget_forcing": 'samples=2,end_think="{0}",least=3,most=6,wait="{1}"',
    "iterative_deepening": 'samples=2,trigger="{0}",first=4', "revision": 'samples=4,attempts=2,separator="{0}"',
    "step_speculation": "samples=2,small={folder},threshold=0.4",
    "spawn_join": 'children=2,call="{0}",child="{1}",close="{2}",reply="{3}",result="{4}",done="{5}",mark="{6}"',
    "hogwild": 'workers=2,openings=["{0}","{1}"]', "stack": 'samples=4,keep=[2,1],mark="{0}"',
    "atom_of_thoughts": 'samples=2,question="{0}",close="{1}",most=3',
    "plan_search": 'observations=3,observe="{0}",close="{1}",solve="{2}"',
}  # fmt: skip


def main() -> int:
    """Measure and print; 1 when a job went on to other lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated")
    parser.add_argument("--strategies", default="", help="comma-separated; all of the catalogue unless given")
    parser.add_argument("--kill", action="store_true", help="processes, one of which is killed")
    parser.add_argument("--executor", default="local", help="of --kill: local, slurm or ray")
    parser.add_argument("--keep", action="store_true", help=f"append the lines to {RESULTS.name}/strategies.jsonl, too")
    given = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    from search.strategies.catalogue import STRATEGIES

    missing = sorted(set(STRATEGIES) - set(ARGUMENTS))
    if missing:
        print(f"error: strategies without arguments here: {', '.join(missing)}", file=sys.stderr)
        return 2
    chosen = [name for name in given.strategies.split(",") if name] or list(STRATEGIES)
    wrong = 0
    with tempfile.TemporaryDirectory() as root:
        for case in given.cases.split(","):
            folder, words, prompts = model_of(case, Path(root) / case)
            for name in chosen:
                text = f"{name}:{ARGUMENTS[name].format(*words, folder=folder)}".rstrip(":")
                place = Path(root) / f"{case}-{name}"
                run = killed if given.kill else stopped
                found = run(case, folder, text, prompts, place, given.executor)
                line = {"case": case, "strategy": name, **found}
                wrong += found["outcome"] == "different"
                print(json.dumps(line), flush=True)
                if given.keep:
                    with open(RESULTS / "strategies.jsonl", "a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
    return int(wrong > 0)


def model_of(case: str, root: Path) -> tuple[Path, list[str], list[str]]:
    """(folder, words of one token, prompts) of a case's model."""
    root.mkdir(parents=True)
    if case == "trained":
        from configs.search_quickstart import policies
        from launch.sweep import run_sweep

        sweep = policies(("modular:modulus=5,operations=2",), (16,), steps=150, examples=2000)
        run_sweep(sweep, root)
        (folder,) = (root / "trials").iterdir()
        return folder, list("0123456"), ["5:1+2*3=", "5:4*4-1=", "5:2-3+3="]
    from tests.launch.test_infer_huggingface import GOLDEN, with_tokenizer

    folder = with_tokenizer(GOLDEN / ("mamba2" if case == "recurrent" else "qwen3"), root / "model")
    return folder, [f"w{i}" for i in range(40, 47)], ["w10 w20", "w11 w20 w5", "w12"]


def config_of(case: str, text: str) -> Any:
    """The job of a case."""
    from launch.jobs import JobConfig
    from models.sharding import MeshConfig
    from search.config import SearchSizes
    from search.engine.config import EngineConfig
    from search.strategies.catalogue import read_strategy
    from search.verifiers.catalogue import Likelihood

    engine = EngineConfig(max_len=40, **({"kv_cache": "int8"} if case == "int8" else {}))
    mesh = MeshConfig(tensor=2) if case == "split" else MeshConfig()
    return JobConfig(
        max_tokens=12, shard_size=1, engine=engine, mesh=mesh, strategy=read_strategy(text), verifier=Likelihood(),
        search=SearchSizes(rows=8, tokens_per_step=2),
    )  # fmt: skip


def stopped(case: str, folder: Path, text: str, prompts: list[str], place: Path, executor: str) -> dict[str, Any]:
    """In this process: a quiet job, and one that is stopped and goes on."""
    from launch.searching import prepared
    from models.errors import ConfigError
    from search.engine.placement import engine_mesh
    from search.policy import load_policy

    began = time.monotonic()
    try:
        config = config_of(case, text)
        search = prepared(config, load_policy(folder, engine_mesh(config.mesh)))
        quiet = list(_lines(place / "quiet", config, prompts, search, (None,)))
        again = list(_lines(place / "again", config, prompts, search, (*STOPS, None)))
    except ConfigError as error:
        return {"outcome": "refused", "why": str(error)}
    return {"outcome": "equal" if quiet == again and quiet else "different", "seconds": _since(began)}


def _lines(place: Path, config: Any, prompts: list[str], search: Any, looks: tuple[int | None, ...]) -> Iterator[bytes]:
    """The lines of a job that is stopped after so many looks, each time; None: it is not."""
    from launch.jobs import Job
    from launch.prompts import PromptFile
    from launch.searching import answer_prompts

    place.mkdir(parents=True)
    file = _prompts(place, prompts)
    for most in looks:
        made, left = Job.open(place / "job", config, PromptFile(file), search.digest), most
        count = iter(range(10**9 if left is None else left))
        with made.presence("benchmark") as presence:
            answer_prompts(made, search, lambda count=count: next(count, None) is None, presence)
            if all(made.is_done(i) for i in range(len(made.shards))) and most is None:
                made.finish()
    yield from (place / "job" / "samples.jsonl").read_bytes().splitlines()


def killed(case: str, folder: Path, text: str, prompts: list[str], place: Path, executor: str) -> dict[str, Any]:
    """As jobs: a quiet one of one process, and one on `executor` whose processes are killed and begun again."""
    began = time.monotonic()
    place.mkdir(parents=True)
    mesh = ("--config.mesh.tensor=2",) if case == "split" else ()
    cache = ("--config.engine.kv_cache=int8",) if case == "int8" else ()
    command = [
        sys.executable, "-m", "launch.infer", f"--checkpoint={folder}", f"--prompts={_prompts(place, prompts)}",
        f"--strategy={text}", "--verifier=likelihood", "--max_tokens=12", "--config.engine.max_len=40",
        "--config.shard_size=1", "--config.search.rows=8", "--config.search.tokens_per_step=2", *mesh, *cache,
    ]  # fmt: skip
    many = [f"--executor={executor}", "--workers=2"]
    quiet = subprocess.run([*command, f"--out={place / 'quiet'}"], capture_output=True, text=True, cwd=harness.ROOT)
    if quiet.returncode == 2:
        return {"outcome": "refused", "why": quiet.stderr.strip()}
    for kill in (True, False):
        process = subprocess.Popen(
            [*command, f"--out={place / 'again'}", *many], cwd=harness.ROOT, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while kill and process.poll() is None and not list((place / "again").glob("shards/*.jsonl")):
            time.sleep(0.01)
        if kill and process.poll() is None:
            _kill_workers(place / "again")
            os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate()
    same = [(place / name / "samples.jsonl").read_bytes() for name in ("quiet", "again")]
    outcome = "equal" if same[0] == same[1] and same[0] else "different"
    return {"outcome": outcome, "executor": executor, "seconds": _since(began), **({"said": said} if said else {})}


def _kill_workers(path: Path) -> None:
    """End every process of this machine that works on a directory."""
    from scaling.sweep.lease import read_workers

    for worker in read_workers(path / ".leases"):
        if not worker.ended and worker.host == os.uname().nodename:
            try:
                os.kill(worker.process, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _prompts(place: Path, prompts: list[str]) -> Path:
    file = place / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    return file


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


if __name__ == "__main__":
    sys.exit(main())
