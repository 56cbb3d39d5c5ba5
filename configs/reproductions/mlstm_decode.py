"""mLSTM decodes in time and memory that do not grow with the context, where attention's do; a minute on two cores.

    python -m launch.reproduce mlstm_decode --workdir runs/reproductions/mlstm_decode

Two layers of d_model 256, one row, float32: a token after 1,024 to 32,768 others, for mLSTM and attention, and beside
them the other recurrent mixers, with how much faster each reads a sequence in blocks than token by token. Times are of
the processor, not of the clock, so that other work on the machine does not count.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from models import counts
from models.config import Layer, ModelConfig
from models.mixers import MLSTM, Attention, Delta, Linear, Mamba2, Mixer
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval

MIXERS: dict[str, Mixer] = {"mlstm": MLSTM(), "attention": Attention(), "delta": Delta(), "linear": Linear(),
                            "mamba2": Mamba2(block=64)}  # fmt: skip
CONTEXTS, SEQUENCE, REPEATS, CALLS = (1024, 4096, 32_768), 1024, 8, 20


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="mlstm_decode", methods=(179,),
        claim="a decoded token of an mLSTM costs the same after 32,768 tokens as after 1,024, where attention's grows",
        source="Beck et al. 2025, xLSTM 7B: a recurrent LLM for fast and efficient inference",
        smallest_effect=1.0, unit="doublings of attention's decode time beyond those of mLSTM's, from 1k to 32k tokens",
        minutes=4, not_covered="the loss beside a transformer's, accelerators, batches of many rows",
        simulated=False, run=run,
    )  # fmt: skip


def model_of(mixer: Mixer) -> ModelConfig:
    return ModelConfig(256, 256, 2, 4, pattern=(Layer(mixer, None),))


def seconds(run: Callable[[], Any], calls: int) -> list[float]:
    """Processor seconds of one call, for each repetition after the first, which compiles."""
    import jax

    found = []
    for repeat in range(REPEATS + 1):
        start = time.process_time()
        for _ in range(calls if repeat else 1):
            jax.block_until_ready(run())
        found.append((time.process_time() - start) / calls)
    return found[1:]


def measured(mixer: Mixer, quick: bool) -> dict[str, Any]:
    """Decode seconds of every repetition and bytes kept at each context, and seconds of reading a sequence."""
    import jax
    import jax.numpy as jnp

    from models import cache, transformer
    from search.engine import decode

    model = model_of(mixer)
    params = jax.jit(partial(transformer.init, model))(jax.random.key(0))
    step = jax.jit(partial(decode.forward, model))
    found: dict[str, Any] = {"decode": [], "bytes": [], "read": {}}
    for context in (64, 256, 1024) if quick else CONTEXTS:
        blocks, states = (cache.empty(model, 1, context),), cache.empty_states(model, 1)
        pool, token, none = cache.empty_pool(model, 1, 8), jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, jnp.int32)
        inputs = params, pool, blocks, states, (), token, none, none + context - 1, jnp.ones(1, bool)
        found["decode"].append(seconds(partial(step, *inputs), 2 if quick else CALLS))
        found["bytes"].append(sum(x.nbytes for x in jax.tree.leaves((blocks, states))))
    tokens = jnp.zeros((1, 64 if quick else SEQUENCE), jnp.int32)
    if mixer.block:
        for block in (mixer.block, 1):
            of_blocks = model_of(dataclasses.replace(mixer, block=block))
            read = jax.jit(partial(transformer.apply, of_blocks))
            found["read"][str(block)] = min(seconds(partial(read, params, tokens), 1))
    return found


def run(work: Workspace) -> Measured:
    table = {name: work.keep(name, partial(measured, mixer, work.quick)) for name, mixer in MIXERS.items()}
    lines, factors = {}, {}
    for name, found in table.items():
        times = np.min(found["decode"], axis=1)
        lines[name] = {"x": list(CONTEXTS), "y": (1e6 * times).tolist()}
        ends = [found["read"][block] for block in sorted(found["read"], key=int)]
        factors[name] = ends[0] / ends[-1] if ends else None
        work.say(f"{name}: {1e6 * times} us a token, {found['bytes']} bytes; blocks {factors[name]} times as fast")
    growth = {name: np.log2(np.divide(found["decode"][-1], found["decode"][0])) for name, found in table.items()}
    beyond = growth["attention"] - growth["mlstm"]
    flops = sum(REPEATS * CALLS * counts.decode_flops(model_of(mixer), context)
                for mixer in MIXERS.values() for context in CONTEXTS)  # fmt: skip
    curves = [{"x": "tokens before", "y": "us of the processor a token", "log": "xy", "lines": lines}]
    details = {"table": table, "blocks faster by": factors, "curves": curves,
               "growth in doublings": {name: float(np.median(values)) for name, values in growth.items()}}  # fmt: skip
    return Measured(float(beyond.mean()), t_interval(beyond), float(flops), details)
