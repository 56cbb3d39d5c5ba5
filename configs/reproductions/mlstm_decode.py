"""mLSTM decodes in time and memory that do not grow with the context, where attention's do; a few minutes on two cores.

    python -m launch.reproduce mlstm_decode --workdir runs/reproductions/mlstm_decode

Two layers of d_model 256, one row, float32: a token after 1,024 to 32,768 others, for mLSTM and attention, and beside
them the other recurrent mixers, with how much faster each learns from 512 tokens in blocks than token by token. Times
are of the processor, not of the clock, so that other work on the machine does not count.
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
CONTEXTS, SEQUENCE, REPEATS, CALLS = (1024, 4096, 32_768), 512, 8, 20


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


def decoding(mixer: Mixer, quick: bool) -> dict[str, Any]:
    """Seconds of every repetition and bytes kept, at each context."""
    import jax
    import jax.numpy as jnp

    from models import cache, transformer
    from search.engine import decode

    model = model_of(mixer)
    params = jax.jit(partial(transformer.init, model))(jax.random.key(0))
    step = jax.jit(partial(decode.forward, model))
    found: dict[str, Any] = {"decode": [], "bytes": []}
    for context in (64, 256, 1024) if quick else CONTEXTS:
        blocks, states = (cache.empty(model, 1, context),), cache.empty_states(model, 1)
        pool, token, none = cache.empty_pool(model, 1, 8), jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, jnp.int32)
        inputs = params, pool, blocks, states, (), token, none, none + context - 1, jnp.ones(1, bool)
        found["decode"].append(seconds(partial(step, *inputs), 2 if quick else CALLS))
        found["bytes"].append(sum(x.nbytes for x in jax.tree.leaves((blocks, states))))
    return found


def learning(mixer: Any, quick: bool) -> list[float]:
    """Seconds of a sequence through the mixer and back, in its blocks and token by token."""
    import jax
    import jax.numpy as jnp

    from models.past import WholeSequence

    stream, length = model_of(mixer).stream, 32 if quick else SEQUENCE
    keys, found = jax.random.split(jax.random.key(0), 20), []
    w = {name: weight.initial(key) for key, (name, weight) in zip(keys, mixer.weights(stream).items(), strict=False)}
    past, x = WholeSequence(jnp.arange(length)[None]), jax.random.normal(keys[-1], (1, length, stream.d_model))
    for block in (mixer.block, 1):
        cut = dataclasses.replace(mixer, block=block)
        slope = jax.jit(jax.grad(lambda w, x, cut=cut: jnp.square(cut.apply(stream, w, x, past)[0]).sum(), (0, 1)))
        found.append(min(seconds(partial(slope, w, x), 1)))
    return found


def run(work: Workspace) -> Measured:
    table = {name: work.keep(name, partial(decoding, mixer, work.quick)) for name, mixer in MIXERS.items()}
    recurrent = {name: mixer for name, mixer in MIXERS.items() if mixer.block}
    learned = {n: work.keep(f"learn_{n}", partial(learning, m, work.quick)) for n, m in recurrent.items()}
    factors = {name: alone / blocks for name, (blocks, alone) in learned.items()}
    lines = {}
    for name, found in table.items():
        times = np.min(found["decode"], axis=1)
        lines[name] = {"x": list(CONTEXTS), "y": (1e6 * times).tolist()}
        work.say(f"{name}: {1e6 * times} us a token, {found['bytes']} bytes; blocks {factors.get(name)} times as fast")
    growth = {name: np.log2(np.divide(found["decode"][-1], found["decode"][0])) for name, found in table.items()}
    beyond = growth["attention"] - growth["mlstm"]
    flops = sum(REPEATS * CALLS * counts.decode_flops(model_of(mixer), context)
                for mixer in MIXERS.values() for context in CONTEXTS)  # fmt: skip
    curves = [{"x": "tokens before", "y": "us of the processor a token", "log": "xy", "lines": lines}]
    details = {
        "table": table, "seconds of learning in blocks and alone": learned, "blocks faster by": factors,
        "growth in doublings": {name: float(np.median(values)) for name, values in growth.items()}, "curves": curves,
    }  # fmt: skip
    return Measured(float(beyond.mean()), t_interval(beyond), float(flops), details)
