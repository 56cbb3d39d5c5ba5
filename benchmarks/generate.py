"""Sampling from one prompt: our engine and transformers' `generate` in turn, one core, prompt 128 + 128 new tokens.

    python benchmarks/generate.py [--quick] [--cases small:1,small:64,gpt2:1,gpt2:8] [--torch_python PATH] [--keep]

A case is shape:samples, with `/int8` or another mode of models.quantize after it for quantised weights (its peer is our
own float32); `/measured` takes the mode that models.quantize.fastest picks for that many rows on this machine. Every
round has a new prompt, so that nothing is served from an earlier round; prefill is included. The roofline is the larger
of two times: the FLOPs at the measured peak of the products' type, and the weights once per step with every sample's
own keys and values at the bandwidth measured on as many bytes as the weights have.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

PEER = Path(__file__).parent / "peers" / "hf_generate.py"
SHAPES = {"small": "SMALL", "gpt2": "GPT2"}
PROMPT, NEW = 128, 128


@dataclasses.dataclass(frozen=True)
class Case:
    """One line: a preset, how many samples of the prompt, and how the weights are stored."""

    shape: str
    samples: int
    mode: str = ""

    @staticmethod
    def parse(text: str) -> Case:
        """shape:samples[/mode]."""
        shape, _, rest = text.partition(":")
        samples, _, mode = rest.partition("/")
        return Case(shape, int(samples), mode)

    @property
    def name(self) -> str:
        """As given on the command line."""
        return f"{self.shape}:{self.samples}" + (f"/{self.mode}" if self.mode else "")

    def model(self) -> Any:
        """The resolved model."""
        from models import presets

        return getattr(presets, SHAPES[self.shape]).resolved()


class Ours:
    """Our engine with random weights; `step` draws all samples of one new prompt."""

    def __init__(self, case: Case):
        import jax

        from models.transformer import init
        from search.engine.config import EngineConfig
        from search.engine.engine import Engine

        self.case, model = case, case.model()
        params = init(model, jax.random.key(0))
        self.mode = case.mode
        if case.mode:
            from models.quantize import fastest, measure_modes, quantize

            if case.mode == "measured":
                self.mode = fastest(measure_modes(model, case.samples))
            params = quantize(params, model, self.mode)
        self.engine = Engine(model, params, EngineConfig(slots=case.samples, max_len=PROMPT + NEW))
        self.numbers = itertools.count()

    def step(self) -> harness.Sample:
        """One round."""
        import numpy as np

        from search.engine.request import Request

        number = next(self.numbers)
        rng = np.random.default_rng(number)
        prompt = tuple(int(t) for t in rng.integers(0, self.case.model().vocab_size, PROMPT))
        request = Request(problem=number, prompt=prompt, samples=self.case.samples, max_tokens=NEW)
        wall, cpu = time.perf_counter(), harness.cpu_seconds()
        done = list(self.engine.generate([request]))
        cpu, wall = harness.cpu_seconds() - cpu, time.perf_counter() - wall
        assert len(done) == self.case.samples and all(len(c.tokens) == NEW for c in done)
        return harness.Sample(cpu, wall)

    def close(self) -> None:
        """Nothing to end."""


class HuggingFace:
    """The peer as a process; `version` is None where it cannot start."""

    def __init__(self, case: Case, options: Any, malloc: dict[str, int]):
        model = case.model()
        numbers = dict(
            d_model=model.d_model, layers=model.n_layers, heads=model.n_heads, vocab_size=model.vocab_size,
            samples=case.samples, prompt=PROMPT, new=NEW,
        )  # fmt: skip
        command = [options.torch_python, str(PEER), "--mallopt", json.dumps(malloc)]
        command += [f"--{name}={value}" for name, value in numbers.items()]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        ready = self.process.stdout.readline()
        self.version = json.loads(ready) if ready else None

    def step(self) -> harness.Sample:
        """Ask for one round."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return harness.Sample(answer["cpu_s"], answer["wall_s"])

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def bandwidth(size: int) -> float:
    """Bytes/s of reading a float32 array of `size` bytes again and again, by CPU time, best of 5."""
    import numpy as np

    x = np.ones(size // 4, np.float32)
    best = float("inf")
    for _ in range(5):
        begin = harness.cpu_seconds()
        x.sum()
        best = min(best, harness.cpu_seconds() - begin)
    return x.nbytes / best


def roofline_s(case: Case, engine: Any, peak: float, bytes_per_s: float) -> float:
    """Least seconds of one round: FLOPs and bytes that it cannot do without, whichever takes longer."""
    from models import counts

    model, n = case.model(), case.samples
    prefill = counts.prefill_flops(model, PROMPT)
    decode = sum(counts.decode_flops(model, PROMPT + i) for i in range(1, NEW))
    per_token = counts.kv_cache_bytes_per_token(model)
    weights = sum(leaf.nbytes for leaf in leaves(engine.device.params))
    moved = NEW * weights + sum(per_token * (PROMPT + n * i) for i in range(1, NEW))
    return max((prefill + n * decode) / peak, moved / bytes_per_s)


def int8_peak(size: int = 1024) -> tuple[float, str]:
    """Operations/s of the best of 10 int8 products of [size, size], by CPU time."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((size, size), jnp.int8)
    product = jax.jit(
        lambda a, b: jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)
    )
    seconds = []
    for _ in range(11):
        begin = harness.cpu_seconds()
        product(x, x).block_until_ready()
        seconds.append(harness.cpu_seconds() - begin)
    return float(f"{2 * size**3 / min(seconds):.4g}"), f"measured: {size}^3 int8 matrix product, one core"


def leaves(tree: Any) -> list[Any]:
    """The arrays of a pytree."""
    import jax

    return jax.tree.leaves(tree)


def run(case: Case, options: Any, malloc: dict[str, int]) -> None:
    """Measure one case and print its line."""
    ours = Ours(case)
    peer: Any = Ours(dataclasses.replace(case, mode="")) if case.mode else HuggingFace(case, options, malloc)
    version = None if case.mode else peer.version
    sides: tuple[list[harness.Sample], list[harness.Sample]] = ([], [])
    steps: list[Callable[[], harness.Sample]] = [ours.step]
    if case.mode or version:
        steps.append(peer.step)
    for step in steps:
        step()
    before = ours.engine.compilations
    for _ in range(options.rounds or (3 if options.quick else 8)):
        for side, step in zip(sides, steps, strict=False):
            side.append(step())
    peer.close()
    report(case, options, ours, sides, version, ours.engine.compilations - before)


def report(case: Case, options: Any, ours: Ours, sides: Any, version: Any, compiled: int) -> None:
    """The JSON line of one case: tokens/s by least CPU time, ratio above 1 when we are ahead."""
    import platform

    import jax

    from models import counts

    best = min(s.cpu_s for s in sides[0])
    other = min(s.cpu_s for s in sides[1]) if sides[1] else None
    tokens = case.samples * NEW
    peak, peak_is = int8_peak() if ours.mode not in ("", "float32") else harness.measured_peak("float32")
    speed = bandwidth(sum(leaf.nbytes for leaf in leaves(ours.engine.device.params)))
    model = case.model()
    line = {
        "bench": "generate", "case": case.name, "unit": "tokens/s by least CPU time, prefill included",
        "ours": round(tokens / best, 1), "peer": other and round(tokens / other, 1),
        "ratio": other and round(other / best, 3),
        "mode": ours.mode or "float32", "peer_is": "our own float32" if case.mode else "transformers generate, float32",
        "ours_median_wall": round(tokens / harness.statistics.median(s.wall_s for s in sides[0]), 1),
        "peer_median_wall": other and round(tokens / harness.statistics.median(s.wall_s for s in sides[1]), 1),
        "roofline_share": round(roofline_s(case, ours.engine, peak, speed) / best, 3),
        "peak_flops": peak, "peak_is": peak_is, "bytes_per_s": round(speed),
        "cache_bytes": counts.kv_cache_bytes_per_token(model) * (PROMPT + case.samples * NEW),
        "cache_bytes_without_sharing": counts.kv_cache_bytes_per_token(model) * case.samples * (PROMPT + NEW),
        "compilations_after_warm_up": compiled, "rounds": len(sides[0]), "prompt": PROMPT, "new": NEW,
        "machine": f"{harness._processor()}, core {options.core}", "commit": harness._commit(),
        "versions": (version or {}) | {"python": platform.python_version(), "jax": jax.__version__},
    }  # fmt: skip
    text = json.dumps(line)
    print(text, flush=True)
    if options.keep:
        with (harness.ROOT / "benchmarks" / "results" / "generate.jsonl").open("a") as file:
            file.write(text + "\n")


def main() -> None:
    """Print one line per case."""
    options = harness.parser(__doc__ or "", "small:1,small:64,gpt2:1,gpt2:8").parse_args()
    malloc = harness.prepare(options.core)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for text in options.cases.split(","):
        run(Case.parse(text), options, malloc)


if __name__ == "__main__":
    main()
