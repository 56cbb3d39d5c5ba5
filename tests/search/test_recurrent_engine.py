"""Models that carry a state generate in the engine what they do alone: pages and slots hand the state over."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from models import cache, counts, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.layer import Layer
from models.mixers import MLSTM, Attention, Delta, Linear, Mamba2
from models.sharding import MeshConfig, make_mesh
from models.weight import map_weights
from search.engine.config import EngineConfig
from search.engine.device import Device
from search.engine.engine import Engine
from search.engine.prefill import Layout
from search.engine.request import Completion, Request
from search.engine.sampling import Sampling
from search.engine.speculative import Speculation, SpeculativeEngine
from tests.search.oracle import Oracle

VOCAB, MAX_LEN, END = 18, 40, 5
MIXER = Mamba2(head_dim=4, state=6, groups=2, block=5)
PURE = ModelConfig(vocab_size=VOCAB, d_model=16, n_layers=2, positions="none", pattern=(Layer(MIXER, None),))
HYBRID = ModelConfig(
    vocab_size=VOCAB, d_model=16, n_layers=3, n_heads=4, n_kv_heads=2, d_ff=24,
    pattern=(Layer(MIXER), Layer(MIXER), Layer(Attention())),
)  # fmt: skip
SMALL = EngineConfig(
    slots=4, max_len=MAX_LEN, page_size=8, pages=7, prefill_chunk=16, stage_tokens=4, share_rows=2, share="never",
    quantum=3, ends=(END,),
)  # fmt: skip
SAMPLINGS = (Sampling(temperature=0), Sampling())


def drawn(config: ModelConfig) -> dict:
    """Parameters away from zero, which make logits that differ."""
    rng = np.random.default_rng(3)
    return map_weights(lambda w: np.float32(0.3 * rng.standard_normal(w.shape)), transformer.weights(config))


def work() -> list[Request]:
    """Prompts with a common head of three pages, and short ones; several samples of each."""
    rng = np.random.default_rng(0)
    head = tuple(rng.integers(0, VOCAB, 26).tolist())
    prompts = [head[:n] + tuple(rng.integers(0, VOCAB, tail).tolist()) for n, tail in
               ((26, 3), (0, 1), (25, 1), (0, 9), (17, 0), (24, 7))]  # fmt: skip
    return [Request(p, prompt, 1 + p % 3, 9, SAMPLINGS[p % 2], seed=p) for p, prompt in enumerate(prompts)]


def run(engine: Engine, requests: list[Request]) -> dict[tuple[int, int], Completion]:
    return {(c.problem, c.sample): c for c in engine.generate(requests)}


def same(a: dict, b: dict) -> bool:
    """Equal tokens and log-probabilities, bit by bit."""
    return a.keys() == b.keys() and all(a[k].tokens == b[k].tokens and a[k].logprobs == b[k].logprobs for k in a)


@pytest.mark.slow  # compiles an engine and the model without cache
@pytest.mark.parametrize("share", ["never", "always"])
@pytest.mark.parametrize("config", [PURE, HYBRID], ids=["pure", "hybrid"])
def test_samples_are_those_of_the_plain_model_and_bits_do_not_depend_on_the_others(
    config: ModelConfig, share: str
) -> None:
    """Continuous batching with few slots and the fewest pages: prefixes reused, samples preempted, pages swapped."""
    params, requests, sizes = drawn(config), work(), dataclasses.replace(SMALL, share=share)
    engine = Engine(config, params, sizes)
    done = run(engine, requests)
    again = run(engine, requests)  # the common head is known now
    assert same(again, done)
    assert engine.statistics.preempted > 3 and engine.pool.swapped_in > 3 and engine.pool.reused_tokens >= 3 * 24
    assert not engine.slots.taken and engine.pool.available == engine.config.page_count
    oracle = Oracle(engine.model, params, MAX_LEN, SAMPLINGS)
    for request in requests:
        for i in range(request.samples):
            oracle.check(request, done[request.problem, i], SMALL.ends)
    assert oracle.ties == 0 and oracle.checked > 60
    one = dataclasses.replace(requests[5], skip=(0, 2))  # as a resumed run asks for it
    roomy = Engine(config, params, dataclasses.replace(sizes, quantum=None, reuse_prefixes=False))
    assert same(run(roomy, [one]), {(5, 1): done[5, 1]})


def test_decode_memory_is_flat_in_the_context() -> None:
    """A slot holds one state however long its sample may get, and a page the state after its last token."""
    bytes_of = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))  # noqa: E731
    found = {}
    for max_len in (16, 128):
        sizes = EngineConfig(slots=3, max_len=max_len, page_size=8, pages=18, prefill_chunk=8)
        device = Device(PURE, drawn(PURE), sizes, None)
        device.fit(max_len)
        assert bytes_of(device.blocks) == 0 and bytes_of(device.pool.pages) == 0
        assert bytes_of(device.states) == 3 * counts.state_bytes_per_row(PURE)
        found[max_len] = device.cache_bytes
    assert found[16] == found[128] == (3 + 18) * counts.state_bytes_per_row(PURE)
    made = jax.eval_shape(lambda: cache.empty_pool(HYBRID.resolved(), 18, 8))
    states = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made.states))
    assert states == 18 * counts.state_bytes_per_row(HYBRID) and counts.kv_cache_bytes_per_token(HYBRID) == 4 * 2 * 8


def test_blocks_of_a_chunk_end_with_pages_and_are_no_longer_than_the_mixers() -> None:
    def align(block: int) -> int:
        mixer = dataclasses.replace(MIXER, block=block)
        return Layout.of(dataclasses.replace(PURE, pattern=(Layer(mixer, None), Layer(Attention()))), 48, 32).align

    assert [align(block) for block in (1, 5, 16, 128)] == [1, 4, 16, 16]
    assert Layout.of(ModelConfig(), 48, 32).align == 1 == Layout.of(ModelConfig(), 47, 32).align
    with pytest.raises(ConfigError) as error:
        Layout.of(PURE, 47, 32)
    assert str(error.value) == (
        "engine.prefill_chunk: is 47, which with pages of 32 cuts blocks of states into single tokens: "
        "use a multiple of engine.page_size, such as 64"
    )


@pytest.mark.slow  # compiles an engine for a mesh
def test_slots_over_data_and_heads_over_tensor_split_the_states() -> None:
    params, sizes = drawn(HYBRID), dataclasses.replace(SMALL, ends=())
    mesh = make_mesh(MeshConfig(data=2, tensor=2), jax.devices()[:4])
    engine = Engine(HYBRID, params, sizes, mesh)
    state = engine.device.states[0]["state"]
    assert state.shape == (4, 8, 6, 4) and state.sharding.shard_shape(state.shape) == (2, 4, 6, 4)
    oracle, requests = Oracle(HYBRID, params, MAX_LEN, SAMPLINGS), work()[:3]
    done = run(engine, requests)
    for request in requests:
        for i in range(request.samples):
            oracle.check(request, done[request.problem, i], ())
    assert oracle.ties == 0


def test_guesses_name_the_layer_that_cannot_go_back() -> None:
    with pytest.raises(ConfigError) as error:
        SpeculativeEngine(HYBRID, {}, SMALL, Speculation())
    assert str(error.value) == (
        "speculation: layer 0 (Mamba2) keeps a state, which cannot go back behind a guess: "
        "decode without speculation, or use a model without such layers"
    )
    for mixer in (Delta(), Linear(), MLSTM()):
        with pytest.raises(ConfigError, match=rf"layer 0 \({type(mixer).__name__}\) keeps a state"):
            SpeculativeEngine(dataclasses.replace(PURE, pattern=(Layer(mixer, None),)), {}, SMALL, Speculation())


def test_the_ledger_charges_states_that_are_read_written_and_copied() -> None:
    """A decode step reads and writes a state; a prompt's is written once and copied to the slot."""
    engine = Engine(PURE, drawn(PURE), dataclasses.replace(SMALL, ends=(), quantum=None))
    (done,) = engine.generate([Request(0, tuple(range(9)), 1, 4, SAMPLINGS[0])])
    state = counts.state_bytes_per_row(PURE)
    assert done.bytes == 2 * 4 * state
    assert engine.ledger[0].bytes == 2 * 4 * state + 2 * state
