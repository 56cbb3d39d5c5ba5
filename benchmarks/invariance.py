"""Do samples depend on what runs beside them, on the number of slots, or on the number of devices?

    python benchmarks/invariance.py [--quick] [--keep]

64 prompts, half of them greedy and half with `--samples` samples at temperature 1, on a `tiny` model with random
weights. One JSON line for each precision at a fixed number of slots (1, 7 and 64 requests, shuffled, interrupted and
resumed: the bits must agree), and one for every number of slots (1, 7, 64) and of virtual devices (1, 2, 4;
tensor-parallel) against 64 slots on one device. Where a sample differs from the reference, its first different token is
a flip. `layercast` counts near-ties as it decodes: every flip must be one of them. bfloat16 and float32 stand beside
it; they count nothing. `twins` is layercast on a model whose tokens come in pairs with logits some 1e-6 apart, so that
greedy decoding meets a near-tie at every step: without it hardly anything ever flips.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import time
from typing import Any

import harness

PLACES = ((64, 1), (1, 1), (7, 1), (7, 2), (7, 4), (64, 2), (64, 4))  # (slots, devices); the first is the reference
PRECISIONS = "layercast,bfloat16,float32,twins"
PROMPTS, CONTEXT = 64, 256


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 tokens per sample instead of 128")
    parser.add_argument("--samples", type=int, default=4, help="of each prompt at temperature 1")
    parser.add_argument("--precisions", default=PRECISIONS, help=f"comma-separated; default {PRECISIONS}")
    parser.add_argument("--core", type=int, default=(os.cpu_count() or 1) - 1, help="the CPU that it is pinned to")
    parser.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    options = parser.parse_args()
    harness.prepare(options.core)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["JAX_NUM_CPU_DEVICES"] = "4"
    bench = Bench(16 if options.quick else 128, options.samples)
    for precision in options.precisions.split(","):
        for line in bench.lines(precision):
            text = json.dumps({"bench": "invariance"} | line | bench.facts)
            print(text, flush=True)
            if options.keep:
                with (harness.ROOT / "benchmarks" / "results" / "invariance.jsonl").open("a") as file:
                    file.write(text + "\n")


class Bench:
    """The model, the requests, and what a run of them gives."""

    def __init__(self, tokens: int, samples: int):
        import jax
        import numpy as np

        from models import presets
        from models.transformer import init
        from search.engine.request import Request
        from search.engine.sampling import Sampling

        self.model = dataclasses.replace(presets.TINY, max_seq_len=CONTEXT).resolved()
        self.params = {"": init(self.model, jax.random.key(0))}
        self.params["twins"] = twins(self.params[""])
        rng = np.random.default_rng(0)
        self.requests = [
            Request(
                i, tuple(int(t) for t in rng.integers(0, self.model.vocab_size, rng.integers(5, 100))),
                samples if i % 2 else 1, tokens, Sampling(temperature=float(i % 2)),
            )
            for i in range(PROMPTS)
        ]  # fmt: skip
        self.order = [int(i) for i in rng.permutation(PROMPTS)]
        self.facts = {
            "model": "tiny, random weights", "prompts": PROMPTS, "new": tokens, "commit": harness._commit(),
            "machine": harness._processor(), "versions": {"python": platform.python_version(), "jax": jax.__version__},
        }  # fmt: skip

    def run(self, precision: str, slots: int, devices: int, requests: list[Any] | None = None, **changes: Any) -> dict:
        """Completions by problem and sample."""
        import jax

        from models.sharding import MeshConfig, make_mesh
        from search.engine.config import EngineConfig
        from search.engine.engine import Engine

        mesh = make_mesh(MeshConfig(tensor=devices), jax.devices()[:devices]) if devices > 1 else None
        params = self.params["twins" if precision == "twins" else ""]
        numerics = "layercast" if precision == "twins" else precision
        config = EngineConfig(slots=slots, max_len=CONTEXT, precision=numerics, **changes)
        engine = Engine(self.model, params, config, mesh)
        return {
            (done.problem, done.sample): done
            for done in engine.generate(self.requests if requests is None else requests)
        }

    def lines(self, precision: str) -> list[dict]:
        """All lines of one precision."""
        slots, devices = PLACES[0]
        reference = self.run(precision, slots, devices)
        made = [self.beside(precision)]
        for slots, devices in PLACES[1:]:
            begin = time.perf_counter()
            found = self.run(precision, slots, devices)
            line = compare(reference, found, counted=precision in ("layercast", "twins"))
            made.append(
                {"case": f"{precision}, {slots} slots, {devices} devices", "against": "64 slots, 1 device"}
                | line | {"wall_s": round(time.perf_counter() - begin, 1)}
            )  # fmt: skip
        return made

    def beside(self, precision: str) -> dict:
        """At 7 slots: every way of arriving must give the bits of all requests in order."""
        whole = self.run(precision, 7, 1)
        shuffled = [self.requests[i] for i in self.order]
        runs = {
            "shuffled": self.run(precision, 7, 1, shuffled),
            "7 requests": self.run(precision, 7, 1, shuffled[:7]),
            "1 request": self.run(precision, 7, 1, shuffled[:1]),
            "interrupted every 20 tokens": self.run(precision, 7, 1, quantum=20, stage_tokens=10),
        }
        different = {
            name: sum((d.tokens, d.logprobs) != (whole[i].tokens, whole[i].logprobs) for i, d in found.items())
            for name, found in runs.items()
        }
        return {"case": f"{precision}, 7 slots: samples whose bits differ", "different": different}


def twins(params: dict) -> dict:
    """The parameters with every second token a copy of the one before, but for a millionth in one feature."""
    table = params["tokens"]
    pair = table[::2].at[:, 0].set(0.0)
    other = pair.at[:, 0].set(1e-6)
    return params | {"tokens": table.at[::2].set(pair).at[1::2].set(other)}


def compare(reference: dict, found: dict, counted: bool) -> dict:
    """How two runs of the same requests differ: flips, and how far log-probabilities were apart before them."""
    flips, caught, apart, agreed, tokens = 0, 0, 0.0, 0, 0
    for key, one in reference.items():
        other = found[key]
        tokens += len(one.tokens)
        differ = [i for i, (s, t) in enumerate(zip(one.tokens, other.tokens)) if s != t]
        first = differ[0] if differ else len(one.tokens)
        agreed += first
        apart = max([apart, *(abs(a - b) for a, b in zip(one.logprobs[:first], other.logprobs[:first]))])
        flips += bool(differ)
        caught += bool(differ) and (first in one.near_ties or first in other.near_ties)
    line = {
        "samples": len(reference), "tokens": tokens, "flipped_samples": flips,
        "share_of_tokens_before_a_flip": round(agreed / tokens, 4), "largest_logprob_difference": float(f"{apart:.3g}"),
    }  # fmt: skip
    if counted:
        line |= {
            "flips_counted_as_near_ties": caught, "flips_not_counted": flips - caught,
            "near_ties_counted": sum(len(done.near_ties) for done in found.values()),
        }  # fmt: skip
    return line


if __name__ == "__main__":
    main()
