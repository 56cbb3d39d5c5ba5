"""This checkout against another commit, in turn, in one run: did a change make anything slower?

    python benchmarks/against_commit.py COMMIT [--cases train_step:tiny,generate:small:1] [--rounds 10] [--least 0.97]

The other commit is checked out beside this one (`git worktree`) for as long as it takes. Each side is a process on the
same core with one thread, which runs its own checkout's benchmarks; both are compiled and warmed up first, then they
step in turn: other, this, other, this. Half of the samples are then taken by a second pair of processes that begins
with this checkout, since memory lies elsewhere in every process. The ratio is other / this, above 1 this checkout is
ahead. Against HEAD it says how far two equal programs come apart on this machine: no smaller difference means anything.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = {  # samples of each side: of all, and with --quick; a sample takes 0.1 to 5 s on one core
    "train_step:tiny": (20, 6),
    "train_step:small": (20, 6),
    "sweep_step:map": (20, 6),
    "generate:small:1": (12, 4),
    "generate:small:64": (6, 2),
    "workload": (6, 2),
    "fit:one": (10, 4),
    "fit:bootstrap": (6, 2),
    "fit:resamples": (2, 2),
    "fit:compare": (2, 2),
    "search:beam": (12, 4),
    "search:dvts": (12, 4),
    "search:rebase": (12, 4),
    "search:particle_filter": (12, 4),
    "search:mcts": (12, 4),
    "search:astar": (8, 4),
    "search:coverage": (4, 2),
}
Step = Callable[[], Any]  # a harness.Sample: seconds of CPU and of the wall


# -- in a process of one side ---------------------------------------------------------------------------------------


def step_of(case: str) -> Step:
    """One sample of this case, by the benchmarks of the checkout that sys.path names."""
    bench, _, rest = case.partition(":")
    if bench == "generate":
        import generate

        return generate.Ours(generate.Case.parse(rest)).step
    if bench == "workload":
        return workload_step()
    if bench == "fit":
        return fit_step(rest)
    if bench == "search":
        return search_step(rest)
    import harness
    import sweep_step
    import train_step

    chosen = train_step.CASES[rest] if bench == "train_step" else sweep_step.EIGHT
    return harness.our_step(chosen)[0]


def workload_step(prompts: int = 24, samples: int = 16, new: int = 32, context: int = 2048) -> Step:
    """Prompts of 5 to 2,000 tokens through one engine, as in benchmarks/workload.py, new ones for every sample."""
    import dataclasses

    import harness
    import jax
    import numpy as np

    from models import presets
    from models.transformer import init
    from search.engine.config import EngineConfig
    from search.engine.engine import Engine
    from search.engine.request import Request

    model = dataclasses.replace(presets.TINY, max_seq_len=context).resolved()
    engine = Engine(model, init(model, jax.random.key(0)), EngineConfig(slots=64, max_len=context))
    lengths = np.exp(np.random.default_rng(0).uniform(np.log(5), np.log(2000), prompts)).astype(int)
    rounds = itertools.count()

    def step() -> Any:
        number = next(rounds)
        rng = np.random.default_rng(number)
        requests = [
            Request(number * prompts + i, tuple(int(t) for t in rng.integers(0, model.vocab_size, n)), samples, new)
            for i, n in enumerate(lengths)
        ]
        wall, cpu = time.perf_counter(), harness.cpu_seconds()
        done = sum(1 for _ in engine.generate(requests))
        cpu, wall = harness.cpu_seconds() - cpu, time.perf_counter() - wall
        assert done == prompts * samples
        return harness.Sample(cpu, wall)

    return step


def fit_step(what: str) -> Step:
    """Chinchilla's law on drawn runs: 20 certified fits of 240, their bootstrap of 1,000, 1,000 resamples of 5,568
    runs, or two laws compared at six cuts of 432."""
    import harness
    import numpy as np
    import pandas as pd

    from scaling.laws import CHINCHILLA, compare, fit

    rng, count = np.random.default_rng(0), {"resamples": 5568, "compare": 432}.get(what, 240)
    flops, params = np.exp(rng.uniform(np.log([[6e18], [5e7]]), np.log([[3e21], [1.6e10]]), (2, count)))
    runs = pd.DataFrame({"params": params, "tokens": flops / (6 * params), "flops": flops})
    truth = dict(A=482.0, B=2085.0, E=1.817, alpha=0.348, beta=0.366)
    noise = np.exp(0.005 * rng.standard_t(4, count))
    runs["loss"] = CHINCHILLA(truth, params=runs["params"], tokens=runs["tokens"]) * noise
    fitted = fit(CHINCHILLA, runs)
    done = {
        "one": lambda: [fit(CHINCHILLA, runs) for _ in range(20)],
        "bootstrap": lambda: fitted.resampled(1000),
        "resamples": lambda: fitted.resampled(1000),
        "compare": lambda: compare(["chinchilla", "overtraining"], runs),
    }[what]

    def step() -> Any:
        wall, cpu = time.perf_counter(), harness.cpu_seconds()
        done()
        return harness.Sample(harness.cpu_seconds() - cpu, time.perf_counter() - wall)

    return step


def search_step(what: str, prompt_len: int = 24, new: int = 48, vocabulary: int = 32) -> Step:
    """One search with 64 particles of the policy of benchmarks/search.py, or (coverage) 256 samples of one problem."""
    import harness
    import jax
    import numpy as np

    from models.presets import ladder
    from models.transformer import init
    from search.config import SearchConfig
    from search.decoder import TransformerDecoder
    from search.searcher import Searcher, SearchProblem
    from search.strategies.best_of_n import best_of_n
    from search.strategies.catalogue import strategy_by_name
    from search.verifiers.scorer import LikelihoodScorer

    arguments = {
        "beam": "samples=64,width=4", "dvts": "samples=64,width=4", "astar": "branch=64,capacity=256",
        "mcts": "simulations=6,actions=64",
    }  # fmt: skip
    strategy: Any = best_of_n(256, scored=False)
    if what != "coverage":
        strategy = strategy_by_name(f"{what}:{arguments.get(what, 'samples=64')}")
    model = ladder(168, n_layers=3, n_heads=4, vocab_size=vocabulary).resolved()
    steps = {} if what == "coverage" else {"max_steps": new // 8, "max_rounds": 16, "tokens_per_step": 8}
    config = SearchConfig(problems=1, prompt_len=prompt_len, max_tokens=new, **steps)
    decoder = TransformerDecoder(model, init(model, jax.random.key(0)), prompt_len)
    searcher, numbers = Searcher(decoder, strategy, config, LikelihoodScorer()), itertools.count()

    def step() -> Any:
        number = next(numbers)
        prompt = np.random.default_rng(number).integers(0, vocabulary, prompt_len)
        problem = SearchProblem(number, tuple(int(t) for t in prompt))
        wall, cpu = time.perf_counter(), harness.cpu_seconds()
        done = sum(1 for _ in searcher.run([problem]))
        cpu, wall = harness.cpu_seconds() - cpu, time.perf_counter() - wall
        assert done == 1
        return harness.Sample(cpu, wall)

    return step


def serve(checkout: Path, case: str, core: int) -> None:
    """Compile, warm up, say so, and then take one step for every line on stdin."""
    sys.path[0] = str(checkout / "benchmarks")  # in place of this file's own folder
    import harness

    os.environ["JAX_PLATFORMS"] = "cpu"
    harness.prepare(core)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a benchmark prints is not an answer
    begin = time.perf_counter()
    step = step_of(case)
    step()
    step()
    print(json.dumps({"ready_s": round(time.perf_counter() - begin, 1)}), file=answers, flush=True)
    for _ in sys.stdin:
        sample = step()
        print(json.dumps({"cpu": sample.cpu_s, "wall": sample.wall_s}), file=answers, flush=True)


# -- in the process that compares -----------------------------------------------------------------------------------


class Side:
    """One checkout's process for one case."""

    def __init__(self, checkout: Path, case: str, core: int):
        command = [sys.executable, __file__, "--serve", str(checkout), "--cases", case, "--core", str(core), "-"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=checkout)
        self.checkout = checkout
        self.ready = self._answer()

    def step(self) -> dict[str, float]:
        """Seconds of one sample."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self.checkout}: the benchmark ended with {self.process.wait()}: see above")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def git(*arguments: str) -> str:
    """What git says of this checkout; the error for one that it refuses."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"error: git {arguments[0]}: {done.stderr.strip().splitlines()[-1]}: name a commit of this clone"
        )
    return done.stdout.strip()


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The commit in a folder of its own, while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="against-") as folder:
        place = Path(folder).resolve() / "other"
        git("worktree", "add", "--detach", str(place), commit)
        try:
            yield place
        finally:
            git("worktree", "remove", "--force", str(place))


def compared(case: str, other: Path, options: argparse.Namespace, names: tuple[str, str]) -> dict[str, Any]:
    """The line of one case; names: of this commit and of the other."""
    rounds = options.rounds or ROUNDS[case][options.quick]
    samples: dict[Path, list[dict[str, float]]] = {other: [], ROOT: []}
    ready: dict[Path, float] = {}
    for order in ((other, ROOT), (ROOT, other)):
        with contextlib.ExitStack() as stack:
            sides = [stack.enter_context(contextlib.closing(Side(place, case, options.core))) for place in order]
            ready |= {side.checkout: side.ready["ready_s"] for side in sides}
            for _, side in itertools.product(range(-(-rounds // 2)), sides):
                samples[side.checkout].append(side.step())
    peer, ours = ({clock: [s[clock] for s in samples[place]] for clock in ("cpu", "wall")} for place in (other, ROOT))

    def median(side: dict[str, list[float]], clock: str) -> float:
        return round(statistics.median(side[clock]) * 1e3, 2)

    least = min(ours["cpu"]), min(peer["cpu"])
    return {
        "bench": "against_commit", "case": case, "unit": "least cpu ms per sample",
        "ours": round(least[0] * 1e3, 2), "peer": round(least[1] * 1e3, 2), "ratio": round(least[1] / least[0], 4),
        "ratio_median_cpu": round(median(peer, "cpu") / median(ours, "cpu"), 4),
        "ratio_of_pairs_cpu": round(statistics.median(b / a for a, b in zip(ours["cpu"], peer["cpu"])), 4),
        "ours_median_cpu_ms": median(ours, "cpu"), "peer_median_cpu_ms": median(peer, "cpu"),
        "ours_median_wall_ms": median(ours, "wall"), "peer_median_wall_ms": median(peer, "wall"),
        "ours_ready_s": ready[ROOT], "peer_ready_s": ready[other],
        "rounds": len(ours["cpu"]), "peer_is": f"commit {names[1]}", "commit": names[0],
    }  # fmt: skip


def main() -> int:
    """Print one line per case; 1 when --least is given and some ratio is below it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="what to compare with: a branch, a tag or a hash")
    parser.add_argument("--cases", default=",".join(ROUNDS), help=f"comma-separated; default {','.join(ROUNDS)}")
    parser.add_argument("--quick", action="store_true", help="a third of the samples")
    parser.add_argument("--rounds", type=int, help="samples of each side, in every case")
    parser.add_argument("--least", type=float, help="exit 1 when a ratio is below this, such as 0.97")
    parser.add_argument("--core", type=int, default=(os.cpu_count() or 1) - 1, help="the CPU that both are pinned to")
    parser.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.cases, options.core)
        return 0
    cases = options.cases.split(",")
    if unknown := [case for case in cases if case not in ROUNDS]:
        parser.error(f"--cases: {', '.join(unknown)} is none: use {', '.join(ROUNDS)}")
    changed = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    names = git("rev-parse", "--short", "HEAD") + changed, git("rev-parse", "--short", f"{options.commit}^{{commit}}")
    machine = f"{processor()}, core {options.core}"
    below = False
    with checked_out(names[1]) as other:
        for case in cases:
            line = compared(case, other, options, names) | {"machine": machine, "python": platform.python_version()}
            below = below or (options.least is not None and line["ratio"] < options.least)
            text = json.dumps(line)
            print(text, flush=True)
            if options.keep:
                with (ROOT / "benchmarks" / "results" / "against_commit.jsonl").open("a") as file:
                    file.write(text + "\n")
    return int(below)


def processor() -> str:
    """The CPU, as the other benchmarks name it."""
    import harness

    return harness._processor()


if __name__ == "__main__":
    sys.exit(main())
