"""Decoding of the 1B shape: tokens per second, the share of the memory's bandwidth, int8, and what a search adds.

All samples of a case have one prompt, which our engine stores once; `transformers` gets the same shape, prompt and
number of samples in a stage of its own. Every round has a new prompt, and its reading is included. The bandwidth share
is what a step cannot do without (all weights once, the prompt's keys and values once, each sample's own) over the
seconds of the decode stages alone and the maker's bandwidth.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

from accelerator_stages import common
from accelerator_stages.common import Cases

PROMPT, NEW = 512, 128
TOY_PROMPT, TOY_NEW = 16, 8
SAMPLES = (1, 64, 256)


def cases(stage: str, toy: bool, out: Path) -> Cases:
    """Samples side by side, the same with int8 weights, and a filter of 64 particles."""
    made: Cases = {}
    for samples in (4,) if toy else SAMPLES:
        made[f"bfloat16 x {samples}"] = partial(generation, "float32", samples, toy)
    for samples in (4,) if toy else (1, 64):
        made[f"int8 x {samples}"] = partial(generation, "int8", samples, toy)
    made["particle filter"] = partial(search, 4 if toy else 64, toy)
    return made


def weights(toy: bool) -> tuple[Any, Any]:
    """(the 1B shape, random parameters in bfloat16)."""
    import jax
    import jax.numpy as jnp

    from accelerator_stages.training import shape
    from models.transformer import init

    model = dataclasses.replace(shape("LLAMA_1B", toy), param_dtype="bfloat16").resolved()
    params = jax.jit(partial(init, model))(jax.random.key(0))
    return model, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)


def generation(mode: str, samples: int, toy: bool) -> dict[str, Any]:
    """Tokens per second of `samples` samples of one prompt; mode: how the weights are kept ("float32": as they are)."""
    import jax
    import numpy as np

    from models import counts
    from models.quantize import quantize
    from search import Engine, EngineConfig, Request

    prompt_len, new = (TOY_PROMPT, TOY_NEW) if toy else (PROMPT, NEW)
    model, params = weights(toy)
    params = quantize(params, model, mode)
    config = EngineConfig(slots=samples, max_len=prompt_len + new, prefill_chunk=prompt_len, precision="bfloat16")
    engine = Engine(model, params, config)
    draw, limits = np.random.default_rng(0), common.limits()

    def once(number: int) -> tuple[float, float]:
        prompt = tuple(int(token) for token in draw.integers(0, model.vocab_size, prompt_len))
        before, began = engine.statistics.decode_seconds, time.perf_counter()
        done = list(engine.generate([Request(number, prompt, samples=samples, max_tokens=new)]))
        assert len(done) == samples and all(len(one.tokens) == new for one in done)
        return time.perf_counter() - began, engine.statistics.decode_seconds - before

    first = once(0)
    rounds = [once(1 + i) for i in range(3)]
    seconds, decode_s = (min(side) for side in zip(*rounds, strict=True))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(engine.device.params))
    per_token = counts.kv_cache_bytes_per_token(engine.model)
    moved = new * held + sum(per_token * (prompt_len + samples * i) for i in range(new))
    return {
        "tokens_per_s": round(samples * new / seconds, 1), "decode_tokens_per_s": round(samples * new / decode_s, 1),
        "bandwidth_share": common.share(moved / decode_s, limits["bandwidth"]), "bytes_per_step": round(moved / new),
        "samples": samples, "prompt": prompt_len, "new": new, "weights": mode, "weight_bytes": held,
        "seconds_per_round": round(seconds, 4), "compile_s": round(first[0] - seconds, 1),
        "peak_bytes": common.peak_bytes(), **limits,
    }  # fmt: skip


def search(particles: int, toy: bool) -> dict[str, Any]:
    """Seconds of a particle filter over those of as many samples drawn by the same loop without any selection."""
    import numpy as np

    from search.config import SearchConfig
    from search.decoder import TransformerDecoder
    from search.searcher import Searcher, SearchProblem
    from search.strategies.catalogue import strategy_by_name
    from search.verifiers.scorer import LikelihoodScorer

    prompt_len, new, step = (8, 8, 4) if toy else (128, 64, 8)
    model, params = weights(toy)
    config = SearchConfig(
        problems=1, prompt_len=prompt_len, max_tokens=new, max_steps=new // step, max_rounds=16, tokens_per_step=step
    )
    decoder = TransformerDecoder(model, params, prompt_len, "bfloat16")
    prompt = tuple(int(token) for token in np.random.default_rng(0).integers(0, model.vocab_size, prompt_len))
    taken = {}
    for name in ("particle_filter", "best_of_n"):
        searcher = Searcher(decoder, strategy_by_name(f"{name}:samples={particles}"), config, LikelihoodScorer())
        seconds = []
        for number in range(4):
            began = time.perf_counter()
            next(iter(searcher.run([SearchProblem(number, prompt)])))
            seconds.append(time.perf_counter() - began)
        taken[name] = min(seconds[1:])
    return {
        "overhead": round(taken["particle_filter"] / taken["best_of_n"] - 1, 4), "particles": particles,
        "tokens_per_s": round(particles * new / taken["particle_filter"], 1), "new": new, "tokens_per_step": step,
        "seconds_of": {name: round(value, 4) for name, value in taken.items()},
    }  # fmt: skip
