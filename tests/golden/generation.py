"""Seeded samples of the engine: every way to store the cache and the weights, shared prefixes, guesses, families."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from models import transformer
from models.config import ModelConfig
from models.quantize import quantize
from models.transformer import Params
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Completion, Request
from search.engine.sampling import Sampling
from search.engine.speculative import DraftModel, Speculation, SpeculativeEngine
from search.ledger import Cost
from tests.golden import record
from tests.golden.training import GEMMA, GROUPED, MIXTRAL

VOCAB, END = 48, 7
PLAIN = ModelConfig(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, scan_layers=True)
LEARNED = dataclasses.replace(
    PLAIN, positions="learned", norm="layernorm", activation="gelu", bias="all", max_seq_len=32, n_kv_heads=None
)
DRAFT = dataclasses.replace(PLAIN, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24)
ENGINE = EngineConfig(
    slots=4, max_len=32, page_size=8, pages=12, prefill_chunk=16, stage_tokens=6, share="always", share_rows=3,
    ends=(END,), stop_sequences=1, stop_length=2,
)  # fmt: skip
TREE, CHAIN = (
    Speculation("table+text", nodes=4, candidates=4, context=2, table_size=64),
    Speculation("model", shape="chain", nodes=3, candidates=4, context=2, table_size=64),
)


@cache
def params_of(model: ModelConfig, scale: float = 2.0) -> Params:
    """Initial parameters, on the host; matrices twice as large, so that tokens differ in probability."""
    made = jax.device_get(jax.jit(partial(transformer.init, model))(jax.random.key(1)))
    return jax.tree.map(lambda x: x * np.float32(scale) if x.ndim > 1 else x, made)


def requests(greedy: bool = False) -> list[Request]:
    """Four prompts, three of which begin alike; more samples than slots."""
    rng = np.random.default_rng(0)
    head = tuple(rng.integers(8, VOCAB, 11).tolist())
    tails = [tuple(rng.integers(8, VOCAB, n).tolist()) for n in (2, 7, 1)]
    sampling = Sampling(temperature=0) if greedy else Sampling()
    made = [Request(i, (*head, *tail), 3, 8, sampling, ((9, 3),), seed=5) for i, tail in enumerate(tails)]
    return [*made, Request(3, tails[1], 2, 12, sampling, seed=6)]


def written(done: Completion) -> dict[str, Any]:
    """One sample."""
    return {
        "tokens": " ".join(map(str, done.tokens)),
        "logprobs": record.bits(done.logprobs),
        "reason": done.finish_reason,
        "flops": done.flops,
        "bytes": done.bytes,
    }


def cost(of: Cost) -> dict[str, Any]:
    """A ledger's amounts, the seconds aside."""
    amounts = dataclasses.asdict(of)
    del amounts["seconds"]
    return {name: record.number(x) if isinstance(x, float) else x for name, x in amounts.items()}


def generated(engine: Engine, work: list[Request]) -> dict[str, Any]:
    """What the engine makes of the requests, and what it cost."""
    done = sorted(engine.generate(work), key=lambda c: (c.problem, c.sample))
    found: dict[str, Any] = {f"{c.problem}.{c.sample}": written(c) for c in done}
    found["ledger"] = {str(r.problem): cost(engine.ledger[r.problem]) for r in work}
    if isinstance(engine, SpeculativeEngine):
        found["speculated"] = dataclasses.asdict(engine.speculated)
    return found


def plain(model: ModelConfig, greedy: bool = False, **changes: Any) -> dict[str, Any]:
    """The engine on a model as it is."""
    return generated(Engine(model, params_of(model), dataclasses.replace(ENGINE, **changes)), requests(greedy))


def quantised(mode: Any) -> dict[str, Any]:
    """The engine on integer weights."""
    model = dataclasses.replace(PLAIN, scan_layers=False)
    return generated(Engine(model, quantize(params_of(model), model, mode), ENGINE), requests())


def speculative(speculation: Speculation, model: ModelConfig = PLAIN, **changes: Any) -> dict[str, Any]:
    """The engine with guesses."""
    draft = DraftModel(DRAFT, params_of(DRAFT)) if speculation.drafter == "model" else None
    config = dataclasses.replace(ENGINE, **changes)
    return generated(SpeculativeEngine(model, params_of(model), config, speculation, draft), requests())


def cases() -> dict[str, Callable[[], dict[str, Any]]]:
    """Every generation, by name."""
    return {
        "plain": partial(plain, PLAIN),
        "int8_cache": partial(plain, PLAIN, kv_cache="int8", quantum=2),
        "gemma": partial(plain, GEMMA),
        "mixtral": partial(plain, MIXTRAL, greedy=True),
        "learned": partial(plain, LEARNED, precision="layercast", share="never"),
        "int8_weights": partial(quantised, "int8"),
        "int4_weights": partial(quantised, "int4"),
        "draft": partial(speculative, CHAIN),
        "tree": partial(speculative, TREE, GEMMA),
    }


def long_cases() -> dict[str, Callable[[], dict[str, Any]]]:
    """The same and rarer ones."""
    return cases() | {
        "dropless": partial(plain, GROUPED),
        "w8a8_weights": partial(quantised, "w8a8"),
        "bfloat16": partial(plain, PLAIN, precision="bfloat16"),
        "gemma_int8_cache": partial(plain, GEMMA, kv_cache="int8"),
        "rejection": partial(speculative, dataclasses.replace(TREE, rule="rejection")),
        "tree_int8_cache": partial(speculative, TREE, MIXTRAL, kv_cache="int8"),
    }
