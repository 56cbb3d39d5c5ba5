"""What the step benchmarks share: our real step, the torch peer in turn with it, and the JSON line.

Both sides run on one core, with the same allocator settings, one sample each in turn, so that whatever else the
machine does falls on both. The least CPU time of a step moves least on a shared machine; medians stand beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / "benchmarks" / "peers" / "torch_train.py"
sys.path.insert(0, str(ROOT))


class Sample(NamedTuple):
    """Seconds of one step: user + system CPU time, and wall time."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class Case:
    """What is measured: `trials` models of one preset, trained with `batch_size` sequences a step each."""

    name: str
    preset: str
    batch_size: int
    seq_len: int
    trials: int = 1
    batch_mode: str = "map"
    dtype: str = "float32"
    chunk: int = 1  # steps per call and per sample, for the peer too

    def model(self) -> Any:
        """The resolved model."""
        import dataclasses

        from models import presets

        return dataclasses.replace(getattr(presets, self.preset), dtype=self.dtype).resolved()

    @property
    def tokens(self) -> int:
        """Scored tokens of one step of all trials."""
        return self.trials * self.batch_size * self.seq_len


def parser(text: str, cases: str) -> argparse.ArgumentParser:
    """The options that all step benchmarks have."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="5 rounds instead of 20")
    made.add_argument("--rounds", type=int, help="samples of each side")
    made.add_argument("--cases", default=cases, help=f"comma-separated; default {cases}")
    made.add_argument("--torch_python", default=sys.executable, help="a Python that has torch, for the peer")
    made.add_argument("--bf16", action="store_true", help="bfloat16 computation; the peer's by autocast")
    made.add_argument("--compile", action="store_true", help="the peer under torch.compile")
    made.add_argument("--no_clip", action="store_true", help="the peer without gradient clipping (ours keeps it)")
    made.add_argument("--core", type=int, default=os.cpu_count() - 1, help="the CPU that both sides are pinned to")
    made.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    return made


def prepare(core: int) -> dict[str, int]:
    """Pin this process and its children to one core with one thread; the allocator's settings, now in force.

    Before jax is imported: it reads the environment then.
    """
    from launch import environment

    if hasattr(os, "sched_setaffinity") and os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
        os.sched_setaffinity(0, {core})
        for name in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = "1"
    os.environ.update(environment.settings(os.environ))
    environment.keep_freed_memory()
    return {str(option): value for option, value in environment.MALLOC_OPTIONS.items()}


def cpu_seconds() -> float:
    """User and system time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def our_step(case: Case) -> tuple[Callable[[], Sample], float]:
    """(a function that trains all trials `chunk` steps and times one of them, seconds that compiling took).

    The program is the loop's own: `advance` over the stack with donated state, compiled by `Placement`.
    """
    from functools import partial

    import jax
    import numpy as np

    from models.sharding import MeshConfig, make_mesh
    from scaling.train.config import TrainConfig, hyperparameters
    from scaling.train.placement import Placement
    from scaling.train.step import advance, init_state, over_trials

    model, n = case.model(), case.trials
    # Random tokens are memorised and then spike; the factor keeps the step from stopping, and costs the same.
    train = TrainConfig(steps=10**6, batch_size=case.batch_size, seq_len=case.seq_len, spike_factor=1e30)
    hyper = jax.tree.map(lambda x: np.stack([x] * n), hyperparameters(train))
    seeds = np.arange(n, dtype=np.uint32)
    initial = over_trials(partial(init_state, model, train), case.batch_mode)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    placement = Placement(model, mesh, jax.eval_shape(initial, seeds, hyper))
    state = placement.jit_init(initial)(seeds, hyper)
    shape = (n, case.chunk, case.batch_size, case.seq_len + 1)
    batches = {"tokens": np.random.default_rng(0).integers(0, model.vocab_size, shape).astype(np.int32)}
    program = placement.jit_advance(over_trials(partial(advance, model, train), case.batch_mode))
    begin = time.perf_counter()
    compiled = program.lower(state, batches, hyper, np.zeros(n, np.int32), np.zeros(n, np.int32)).compile()
    compile_s, at = time.perf_counter() - begin, 0

    def step() -> Sample:
        nonlocal state, at
        first = np.full(n, at, np.int32)
        at += case.chunk
        wall, cpu = time.perf_counter(), cpu_seconds()
        state, metrics = compiled(state, batches, hyper, first, first + case.chunk)
        jax.block_until_ready(metrics)
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
        if not np.isfinite(np.asarray(metrics.last_loss)).all():
            raise FloatingPointError(f"{case.name}: the loss is not finite, so the step did not run")
        return Sample(cpu / case.chunk, wall / case.chunk)

    return step, compile_s


class Peer:
    """The torch peer as a process that takes a step when asked; `version` is None where it cannot start."""

    def __init__(self, case: Case, options: argparse.Namespace, malloc: dict[str, int]):
        model = case.model()
        command = [options.torch_python, str(PEER), "--mallopt", json.dumps(malloc)]
        numbers = dict(
            d_model=model.d_model, layers=model.n_layers, heads=model.n_heads, seq_len=case.seq_len,
            vocab_size=model.vocab_size, batch_size=case.batch_size, models=case.trials, steps=case.chunk,
        )  # fmt: skip
        command += [f"--{name}={value}" for name, value in numbers.items()]
        command += [f"--{name}" for name in ("bf16", "compile", "no_clip") if getattr(options, name)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        ready = self.process.stdout.readline()
        self.version = json.loads(ready)["torch"] if ready else None

    def step(self) -> Sample:
        """Ask for one sample."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return Sample(answer["cpu_s"], answer["wall_s"])

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def compare(bench: str, case: Case, options: argparse.Namespace, malloc: dict[str, int], peer: bool = True) -> None:
    """Measure one case in turn with its peer and print its line."""
    rounds = options.rounds or (5 if options.quick else 20)
    other = Peer(case, options, malloc) if peer else None
    ours, compile_s = our_step(case)
    for _ in range(2):
        ours()
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    for _ in range(rounds):
        samples[0].append(ours())
        if other is not None and other.version is not None:
            samples[1].append(other.step())
    if other is not None:
        other.close()
    emit(bench, case, options, malloc, samples, {"torch": other.version if other else None}, compile_s)


def emit(
    bench: str,
    case: Case,
    options: argparse.Namespace,
    malloc: dict[str, int],
    samples: tuple[list[Sample], list[Sample]],
    versions: dict[str, Any],
    compile_s: float,
) -> None:
    """One JSON line: tokens per second first; ratio = peer / ours, so above 1 we are ahead."""
    import jax
    import jaxlib

    from models import counts

    model, on_cpu = case.model(), jax.default_backend() == "cpu"
    versions |= {"python": platform.python_version(), "jax": jax.__version__, "jaxlib": jaxlib.__version__}
    ours, peer = ({"cpu": [s.cpu_s for s in side], "wall": [s.wall_s for s in side]} for side in samples)
    clock = "cpu" if on_cpu else "wall"  # a GPU's step costs the host nothing
    best, other = min(ours[clock]), min(peer[clock]) if peer[clock] else None
    flops = counts.train_flops(model, case.tokens, case.seq_len)
    peak, peak_is = measured_peak(case.dtype) if on_cpu else stated_peak()
    line = {
        "tokens_per_s": round(case.tokens / best),
        "bench": bench, "case": case.name, "unit": f"least {clock} ms per step",
        "ours": round(best * 1e3, 2), "peer": other and round(other * 1e3, 2),
        "ratio": other and round(other / best, 3),
        "ours_median_cpu_ms": _median_ms(ours["cpu"]), "peer_median_cpu_ms": _median_ms(peer["cpu"]),
        "ours_median_wall_ms": _median_ms(ours["wall"]), "peer_median_wall_ms": _median_ms(peer["wall"]),
        "mfu": peak and round(flops / best / peak, 3),
        "mfu_formula": "3 x causal forward FLOPs (head included) / seconds / peak",
        "flops_per_step": flops, "peak_flops": peak, "peak_is": peak_is, "dtype": case.dtype,
        "trials": case.trials, "batch_mode": case.batch_mode, "chunk": case.chunk, "rounds": len(samples[0]),
        "compile_s": round(compile_s, 2), "mallopt_of_both": malloc, "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "peer_is": _peer_is(options) if other else None,
        "machine": f"{_processor()}, {jax.devices()[0].device_kind}" + (f", core {options.core}" if on_cpu else ""),
        "versions": versions, "commit": _commit(),
    }  # fmt: skip
    text = json.dumps(line)
    print(text, flush=True)
    if options.keep:
        with (ROOT / "benchmarks" / "results" / f"{bench}.jsonl").open("a") as file:
            file.write(text + "\n")


def emit_alone(bench: str, line: dict[str, Any], keep: bool) -> None:
    """Print the line of a benchmark that has no peer, and append it to its results if asked."""
    head = {"bench": bench, "peer": None, "ratio": None}
    text = json.dumps(head | line | {"machine": _processor(), "commit": _commit()})
    print(text, flush=True)
    if keep:
        with (ROOT / "benchmarks" / "results" / f"{bench}.jsonl").open("a") as file:
            file.write(text + "\n")


def measured_peak(dtype: str, size: int = 1024) -> tuple[float, str]:
    """FLOP/s of the best of 10 products of two [size, size] matrices of `dtype` in float32, by CPU time."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    product(x).block_until_ready()
    seconds = []
    for _ in range(10):
        begin = cpu_seconds()
        product(x).block_until_ready()
        seconds.append(cpu_seconds() - begin)
    return float(f"{2 * size**3 / min(seconds):.4g}"), f"measured: {size}^3 {dtype} matrix product, one core"


def stated_peak() -> tuple[float | None, str]:
    """The maker's dense bfloat16 FLOP/s of the first device."""
    import jax

    from models.devices import peak_flops

    kind = jax.devices()[0].device_kind
    return peak_flops(kind), f"stated by the maker: dense bfloat16, {kind}"


def _peer_is(options: argparse.Namespace) -> str:
    words = ["torch", "compiled" if options.compile else "eager", "bfloat16 autocast" if options.bf16 else "float32"]
    return " ".join([*words, "without clipping" if options.no_clip else "with clipping"])


def _median_ms(seconds: list[float]) -> float | None:
    return round(statistics.median(seconds) * 1e3, 2) if seconds else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} CPUs"


def _commit() -> str | None:
    answer = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() or None
