"""Samples of the engine are those of one prompt at a time without a cache, whatever runs beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import counts, presets, transformer
from models.channels.experts import Experts
from models.config import ModelConfig
from models.errors import ConfigError
from models.sharding import MeshConfig, make_mesh
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Completion, Request
from search.engine.sampling import Sampling
from search.engine.sharing import all_lanes, lanes
from tests.search.oracle import Oracle

VOCAB, MAX_LEN, END, MOST = 17, 48, 5, 14
MODEL = ModelConfig(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_seq_len=MAX_LEN)
SMALL = EngineConfig(
    slots=5, max_len=MAX_LEN, page_size=8, pages=14, prefill_chunk=16, stage_tokens=6, share="always", share_rows=4,
    ends=(END,), stop_sequences=2, stop_length=3,
)  # fmt: skip
SAMPLINGS = (
    Sampling(temperature=0),
    Sampling(),
    Sampling(temperature=0.7, top_k=6),
    Sampling(temperature=1.2, repetition_penalty=1.3),
    Sampling(top_p=0.8, logit_bias=((END, -2.0), (3, 1.0))),
    Sampling(allowed=(1, 2, 3, 5, 8, 13), forced=(4, 3)),
)
SHARING = ["always", "never"]


@pytest.fixture(scope="module")
def params() -> dict:
    return transformer.init(MODEL, jax.random.key(0))


def run(engine: Engine, requests: Sequence[Request]) -> dict[tuple[int, int], Completion]:
    done = list(engine.generate(requests))
    found = {(c.problem, c.sample): c for c in done}
    assert len(found) == len(done)
    return found


def engine_for(params: dict, **changes: object) -> Engine:
    engine = Engine(MODEL, params, dataclasses.replace(SMALL, **changes))
    engine.warm_up(SAMPLINGS, MOST)
    return engine


def same(a: dict, b: dict) -> bool:
    """Equal tokens and log-probabilities, bit by bit."""
    return a.keys() == b.keys() and all(a[k].tokens == b[k].tokens and a[k].logprobs == b[k].logprobs for k in a)


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    """Prompts that often begin alike, some as long as the context allows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    heads = [tuple(rng.integers(0, VOCAB, n).tolist()) for n in (MAX_LEN, MAX_LEN)]
    found = []
    for problem in range(draw(st.integers(1, 7))):
        shared, own = draw(st.integers(0, 30)), draw(st.integers(1, 12))
        prompt = heads[draw(st.integers(0, 1))][:shared] + tuple(rng.integers(0, VOCAB, own).tolist())
        stops = draw(st.sampled_from([(), ((7,),), ((2,), (1, 4)), ((3, 3), (9, 8, 7))]))
        most = draw(st.integers(3, MOST))
        samples = draw(st.integers(1, 7))
        skip = tuple(draw(st.sets(st.integers(0, samples - 1), max_size=2))) if samples > 2 else ()
        sampling = draw(st.sampled_from(SAMPLINGS))
        if sampling.allowed is not None:
            stops = ()
        found.append(Request(problem, prompt, samples, most, sampling, stops, seed=problem % 3, skip=skip))
    return found


class Workloads:
    """Two engines that differ in what the host decides, one of them with the fewest pages, and the oracle."""

    def __init__(self, params: dict, share: str):
        self.oracle = Oracle(MODEL, params, MAX_LEN, SAMPLINGS)
        self.plain = engine_for(params, reuse_prefixes=False, share=share)
        self.busy = engine_for(params, quantum=2, share=share, pages=MAX_LEN // SMALL.page_size + 2)
        self.count = 0
        self.compilations = [engine.compilations for engine in (self.plain, self.busy)]


@pytest.fixture(scope="module", params=SHARING)
def workloads(params: dict, request: pytest.FixtureRequest) -> Workloads:
    return Workloads(params, request.param)


@pytest.mark.slow
def test_every_token_of_random_workloads_is_the_one_without_cache_or_neighbours(workloads: Workloads) -> None:
    """Continuous batching, pages, chunked and packed prefill, shared and reused prefixes, preemption, swapping."""
    w = workloads

    @settings(max_examples=80)
    @given(work=requests(), order=st.randoms(use_true_random=False))
    def check(work: list[Request], order) -> None:
        done = run(w.plain, work)
        assert len(done) == sum(r.samples - len(r.skip) for r in work)
        for request in work:
            for i in set(range(request.samples)) - set(request.skip):
                w.oracle.check(request, done[request.problem, i], SMALL.ends)
        w.count += 1
        order.shuffle(work)
        assert same(run(w.busy, work), done)

    check()
    assert w.count >= 80
    assert w.oracle.checked > 4_000
    assert w.oracle.ties <= 1e-3 * w.oracle.checked
    assert w.busy.statistics.preempted > 80 and w.busy.pool.swapped_in > 20 and w.busy.pool.reused_tokens > 200
    assert [w.plain.compilations, w.busy.compilations] == w.compilations
    for engine in (w.plain, w.busy):
        assert not engine.slots.taken and engine.pool.available == engine.config.page_count


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "layercast", "bfloat16"])
def test_bits_do_not_depend_on_the_other_requests_their_order_or_interruptions(params: dict, precision: str) -> None:
    rng = np.random.default_rng(1)
    work = [
        Request(p, tuple(rng.integers(0, VOCAB, rng.integers(1, 34)).tolist()), 3, MOST, SAMPLINGS[p % 2])
        for p in range(64)
    ]
    everything = run(engine_for(params, precision=precision), work)
    shuffled = [work[i] for i in rng.permutation(64)]
    assert same(run(engine_for(params, precision=precision, quantum=3), shuffled), everything)
    for few in (work[:7], work[20:21]):
        ids = {r.problem for r in few}
        alone = run(engine_for(params, precision=precision), few)
        assert same(alone, {k: v for k, v in everything.items() if k[0] in ids})
    partly = [dataclasses.replace(r, skip=(0, 2)) for r in work[:7]]
    resumed = run(engine_for(params, precision=precision), partly)
    assert same(resumed, {(p, 1): everything[p, 1] for p in range(7)})


def near_ties_only(a: dict[tuple[int, int], Completion], b: dict[tuple[int, int], Completion]) -> int:
    """The number of samples that differ; each first differs at a token that one of the runs counted as a near-tie."""
    flipped = 0
    for key, x in a.items():
        y = b[key]
        if x.tokens != y.tokens:
            first = next(i for i, (s, t) in enumerate(zip(x.tokens, y.tokens)) if s != t)
            assert first in x.near_ties or first in y.near_ties, (key, first)
            flipped += 1
        else:
            np.testing.assert_allclose(x.logprobs, y.logprobs, atol=2e-5)
    return flipped


@pytest.fixture(scope="module")
def layercast(params: dict) -> tuple[list[Request], dict[tuple[int, int], Completion]]:
    rng = np.random.default_rng(2)
    work = [
        Request(p, tuple(rng.integers(0, VOCAB, rng.integers(1, 34)).tolist()), 4, MOST, SAMPLINGS[p % 4])
        for p in range(24)
    ]
    return work, run(engine_for(params, precision="layercast", near_tie=1e-4), work)


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 7, 64])
def test_across_slot_counts_layercast_differs_at_counted_near_ties_only(params: dict, layercast, slots: int) -> None:
    work, expected = layercast
    engine = engine_for(params, precision="layercast", near_tie=1e-4, slots=slots, share_rows=4, prefill_chunk=32)
    found = run(engine, work)
    flipped = near_ties_only(found, expected)
    counted = sum(len(c.near_ties) for c in found.values())
    assert engine.statistics.near_ties == counted and flipped <= 2 * counted + 2
    assert counted < 0.02 * sum(len(c.tokens) for c in found.values())


@pytest.mark.slow
def test_across_devices_layercast_differs_at_counted_near_ties_only() -> None:
    """Tensor-parallel decoding: weights and caches are split over key-value heads."""
    model = dataclasses.replace(MODEL, n_kv_heads=4)
    params = transformer.init(model, jax.random.key(1))
    rng = np.random.default_rng(2)
    work = [Request(p, tuple(rng.integers(0, VOCAB, 2 + 4 * p).tolist()), 4, MOST, SAMPLINGS[p % 4]) for p in range(8)]
    config = dataclasses.replace(SMALL, precision="layercast", near_tie=1e-4)
    expected = run(Engine(model, params, config), work)
    for devices in (2, 4):
        engine = Engine(model, params, config, make_mesh(MeshConfig(tensor=devices), jax.devices()[:devices]))
        found = run(engine, work)
        assert engine.device.pool.pages[0]["k"].sharding.spec[1] == "tensor"
        counted = sum(len(c.near_ties) for c in (*found.values(), *expected.values()))
        assert near_ties_only(found, expected) <= counted < 0.02 * sum(len(c.tokens) for c in found.values())


def test_a_mesh_that_does_not_divide_the_heads_is_refused(params: dict) -> None:
    mesh = make_mesh(MeshConfig(tensor=4), jax.devices()[:4])
    with pytest.raises(ConfigError, match=r"mesh.tensor: 4 does not divide the kv_heads dim 2"):
        Engine(MODEL, params, SMALL, mesh)


@pytest.mark.slow
def test_experts_with_a_capacity_decode_without_one() -> None:
    """With the slots of training, whether a token passes its expert would depend on what runs beside it."""
    moe = Experts(experts=4, top_k=2, d_ff=16, capacity_factor=0.5)
    model = dataclasses.replace(MODEL, moe=moe, n_layers=1)
    params = transformer.init(model, jax.random.key(1))
    rng = np.random.default_rng(5)
    work = [Request(p, tuple(rng.integers(0, VOCAB, 1 + 4 * p).tolist()), 3, MOST, SAMPLINGS[p % 2]) for p in range(8)]
    config = dataclasses.replace(SMALL, ends=())
    everything = run(Engine(model, params, config), work)
    dropless = dataclasses.replace(model, moe=dataclasses.replace(moe, dispatch="dropless"))
    oracle = Oracle(dropless, params, MAX_LEN, SAMPLINGS[:2])
    for (problem, _), done in everything.items():
        oracle.check(work[problem], done)
    assert oracle.ties <= 1
    alone = {key: done for request in work for key, done in run(Engine(model, params, config), [request]).items()}
    assert same(alone, everything)


def test_prefill_chunks_are_full_and_slots_busy_while_prompts_wait(workloads: Workloads) -> None:
    rng = np.random.default_rng(3)
    work = (
        Request(p, tuple(rng.integers(0, VOCAB, rng.integers(1, 34)).tolist()), 3, 6, SAMPLINGS[0]) for p in range(150)
    )
    engine = workloads.plain
    before = dataclasses.replace(engine.statistics)
    assert len(list(engine.generate(work))) == 450
    s = engine.statistics
    read, padding = s.read_tokens - before.read_tokens, s.padding - before.padding
    assert padding / (read + padding) < 0.05
    waiting = s.slot_steps_waiting - before.slot_steps_waiting
    assert (s.busy_steps_waiting - before.busy_steps_waiting) / waiting > 0.75  # 5 slots: one may idle until 6 tokens


def test_requests_are_taken_as_room_appears_and_samples_come_as_they_end(workloads: Workloads) -> None:
    taken = []

    def source():
        for p in range(60):
            taken.append(p)
            yield Request(p, tuple(range(1, 9)), 2, 4, SAMPLINGS[0])

    stream = workloads.plain.generate(source())
    next(stream)
    assert len(taken) < 20
    stream.close()
    assert not workloads.plain.slots.taken and workloads.plain.pool.available == SMALL.page_count


def test_groups_are_as_large_as_pays() -> None:
    """Few samples do not pay for the rows of a large product, and many need not read their prompt several times."""
    model, config = presets.SMALL.resolved(), EngineConfig()
    found = {samples: lanes(samples, model, config) for samples in (1, 2, 16, 20, 64, 128)}
    assert found == {1: 0, 2: 0, 16: 16, 20: 16, 64: 64, 128: 64}
    assert all_lanes(model, config) == [16, 64]
    assert lanes(64, model, dataclasses.replace(config, slots=8)) == 8
    assert lanes(64, model, dataclasses.replace(config, share="never")) == 0
    assert lanes(1, model, dataclasses.replace(config, share="always")) == 16
    assert all_lanes(model, dataclasses.replace(config, share="never")) == []


def test_free_slots_go_round_over_problems(workloads: Workloads) -> None:
    work = [Request(p, tuple(range(1 + p, 9 + p)), 30 if p == 0 else 3, 4, SAMPLINGS[0]) for p in range(4)]
    order = [c.problem for c in workloads.plain.generate(work)]
    first = max(order.index(p) for p in range(4))
    assert first < 26, "of 39, in groups of up to 4 on 5 slots: first come, first served would give 36"


def test_a_common_head_is_read_once(params: dict) -> None:
    engine = engine_for(params)
    head = tuple(int(x) for x in np.random.default_rng(4).integers(0, VOCAB, 24))
    list(engine.generate([Request(0, (*head, 1), 1, 2, SAMPLINGS[0])]))
    read = engine.statistics.read_tokens
    list(engine.generate([Request(1, (*head, 2, 3), 1, 2, SAMPLINGS[0])]))
    assert engine.statistics.read_tokens - read == 1  # 24 of the 25 tokens of its prefix lie in full pages
    assert engine.ledger[1].reused_tokens == 24 and engine.ledger[1].prompt_tokens == 1


@pytest.mark.parametrize("share", SHARING)
def test_the_ledger_holds_what_a_hand_counts(params: dict, share: str) -> None:
    engine = engine_for(params, ends=(), share_rows=2, share=share)
    prompt, n, samples = tuple(range(1, 12)), 5, 3
    done = list(engine.generate([Request(3, prompt, samples, n, SAMPLINGS[0])]))
    config, prefix = engine.model, len(prompt) - 1
    cost = engine.ledger[3]
    assert (cost.prompt_tokens, cost.generated_tokens, cost.discarded_tokens) == (prefix, samples * n, 0)
    assert cost.depth == n and cost.seconds > 0
    decode = sum(counts.decode_flops(config, prefix + 1 + i) for i in range(n))
    assert cost.flops == counts.prefill_flops(config, prefix, 0) + samples * decode
    assert {c.flops for c in done} == {decode}
    token = 2 * config.n_layers * config.resolved().n_kv_heads * config.resolved().head_dim * 4
    suffix = sum(i + 1 for i in range(n)) + n  # read, its own token included, and written
    reads = 2 * n * prefix if share == "always" else samples * (n * prefix + prefix)  # 2 groups; or copied first
    assert cost.bytes == token * (prefix + samples * suffix + reads)
    assert engine.ledger.total == cost
