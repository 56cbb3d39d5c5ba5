"""Recurrent mixers: how much faster blocks learn than the recurrence, token by token; and a token's cost, beside
attention's, after 1,024 to 32,768 others.

    python benchmarks/recurrent.py [--quick] [--keep] [--parts decode,learn] [--mixers delta,mlstm]

One row, float32, one thread, by CPU time, all sides in turn within a round. `learn`: 2,048 tokens through the mixer
and back at d_model 256 with heads of 64, in its own blocks (ours) and in blocks of one token, the recurrence (peer):
projections included, which both sides share. `decode`: a token through two layers; one line per mixer, with the bytes
that a row keeps, ratio = time at the longest context / at the shortest. ChunkExperts is left out: its state routes.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import harness

CONTEXTS, SEQUENCE, D_MODEL, HEADS, CALLS = (1024, 4096, 32_768), 2048, 256, 4, 20


def mixers() -> dict[str, Any]:
    """Attention and every mixer that keeps a state, in blocks of their own."""
    from models.mixers import MLGRU, MLSTM, Attention, Delta, Linear, Mamba2, ThirdOrder

    return {
        "attention": Attention(), "delta": Delta(), "mlstm": MLSTM(), "mamba2": Mamba2(), "linear": Linear(),
        "mlgru": MLGRU(), "delta channel": Delta(decay="channel", block=32), "third_order": ThirdOrder(),
    }  # fmt: skip


def model_of(mixer: Any) -> Any:
    """Two layers of it without channels."""
    from models.config import Layer, ModelConfig

    return ModelConfig(256, D_MODEL, 2, HEADS, pattern=(Layer(mixer, None),))


def learning(mixer: Any, length: int) -> Callable[[], Any]:
    """A call that takes the gradient of a sum of squares by weights and inputs."""
    import jax
    import jax.numpy as jnp

    from models.past import WholeSequence

    stream = model_of(mixer).stream
    keys = jax.random.split(jax.random.key(0), 20)
    w = {name: weight.initial(key) for key, (name, weight) in zip(keys, mixer.weights(stream).items(), strict=False)}
    past, x = WholeSequence(jnp.arange(length)[None]), jax.random.normal(keys[-1], (1, length, D_MODEL))
    slope = jax.jit(jax.grad(lambda w, x: jnp.square(mixer.apply(stream, w, x, past)[0]).sum(), (0, 1)))
    return lambda: jax.block_until_ready(slope(w, x))


def decoding(mixer: Any, contexts: tuple[int, ...]) -> tuple[list[Callable[[], Any]], list[int]]:
    """For each context: a call that decodes one token after it, and the bytes that the row keeps."""
    import jax
    import jax.numpy as jnp

    from models import cache, transformer
    from search.engine import decode

    model = model_of(mixer)
    params = jax.jit(partial(transformer.init, model))(jax.random.key(0))
    step, token, none = jax.jit(partial(decode.forward, model)), jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, jnp.int32)
    calls, kept = [], []
    for context in contexts:
        blocks, states = (cache.empty(model, 1, context),), cache.empty_states(model, 1)
        pool, at, active = cache.empty_pool(model, 1, 8), none + context - 1, jnp.ones(1, bool)
        given = params, pool, blocks, states, (), token, none, at, active
        calls.append(lambda given=given: jax.block_until_ready(step(*given)))
        kept.append(sum(x.nbytes for x in jax.tree.leaves((blocks, states))))
    return calls, kept


def in_turn(sides: list[Callable[[], Any]], rounds: int, calls: int) -> list[list[float]]:
    """CPU seconds of a call of each side, for each round after the first two, of which one compiles."""
    found: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 2):
        for side, seconds in zip(sides, found, strict=True):
            begin = time.process_time()
            for _ in range(calls if turn else 1):
                side()
            if turn > 1:
                seconds.append((time.process_time() - begin) / calls)
    return found


def learn_line(name: str, mixer: Any, quick: bool) -> dict[str, Any]:
    """Blocks beside the recurrence."""
    length, rounds = (64, 2) if quick else (SEQUENCE, 7)
    sides = [learning(side, length) for side in (mixer, dataclasses.replace(mixer, block=1))]
    ours, peer = in_turn(sides, rounds, 1)
    return {
        "case": f"{name} learns", "unit": f"least cpu ms of {length} tokens, forward and backward",
        "ours": round(min(ours) * 1e3, 1), "peer": round(min(peer) * 1e3, 1), "ratio": round(min(peer) / min(ours), 3),
        "ours_median": round(statistics.median(ours) * 1e3, 1), "peer_median": round(statistics.median(peer) * 1e3, 1),
        "block": mixer.block, "d_model": D_MODEL, "heads": HEADS, "rounds": rounds,
    }  # fmt: skip


def decode_line(name: str, mixer: Any, quick: bool) -> dict[str, Any]:
    """A token after each context."""
    contexts, rounds = ((64, 256), 2) if quick else (CONTEXTS, 7)
    calls, kept = decoding(mixer, contexts)
    found = in_turn(calls, rounds, CALLS)
    least = [min(seconds) * 1e6 for seconds in found]
    return {
        "case": f"{name} decodes", "unit": "least cpu us of a token, at each context", "contexts": contexts,
        "ours": [round(t, 1) for t in least], "ratio": round(least[-1] / least[0], 3),
        "ours_median": [round(statistics.median(seconds) * 1e6, 1) for seconds in found], "kept_bytes": kept,
        "d_model": D_MODEL, "heads": HEADS, "layers": 2, "rounds": rounds,
    }  # fmt: skip


def main() -> None:
    """Measure the chosen parts of the chosen mixers; a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short sequences and two rounds")
    parser.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    parser.add_argument("--parts", default="decode,learn", help="comma-separated; default both")
    parser.add_argument("--mixers", help="comma-separated; default all")
    parser.add_argument("--core", type=int, default=(os.cpu_count() or 1) - 1, help="the CPU that it is pinned to")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    harness.prepare(options.core)
    every = mixers()
    chosen = options.mixers.split(",") if options.mixers else list(every)
    for part, line in (("decode", decode_line), ("learn", learn_line)):
        for name in chosen if part in options.parts.split(",") else ():
            if part == "decode" or every[name].block:
                harness.emit_alone("recurrent", line(name, every[name], options.quick), options.keep)


if __name__ == "__main__":
    main()
