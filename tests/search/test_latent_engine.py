"""Models of latent attention and biased experts generate in the engine what they do alone, in any company."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from models import counts, transformer
from models.channels.dense import Dense
from models.channels.experts import Experts
from models.config import ModelConfig
from models.errors import ConfigError
from models.layer import Layer
from models.mixers.latent import Latent
from models.rotary import RopeScaling, Rotary
from models.sharding import MeshConfig, make_mesh
from models.weight import map_weights
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Completion, Request
from search.engine.sampling import Sampling
from tests.search.oracle import Oracle

VOCAB, MAX_LEN, END = 18, 40, 5
MIXER = Latent(rank=8, query_rank=6, key_dim=4, rotary_dim=4, value_dim=6, rotary=Rotary(interleaved=True), gain=1.2)
EXPERTS = Experts(
    4, 2, 8, shared=1, dispatch="dropless", score="sigmoid", scale=1.5, groups=2, group_score="top2", bias_rate=1e-3
)
MODEL = ModelConfig(
    vocab_size=VOCAB, d_model=16, n_layers=2, n_heads=4, d_ff=24, prologue=(Layer(MIXER, Dense()),),
    pattern=(Layer(dataclasses.replace(MIXER, query_rank=None), EXPERTS),),
)  # fmt: skip
SMALL = EngineConfig(
    slots=4, max_len=MAX_LEN, page_size=8, pages=7, prefill_chunk=16, stage_tokens=4, share_rows=2, quantum=3,
    ends=(END,),
)  # fmt: skip
ROOMY = dataclasses.replace(SMALL, pages=24, quantum=None, reuse_prefixes=False)
SAMPLINGS = (Sampling(temperature=0), Sampling())


@pytest.fixture(scope="module")
def params() -> dict:
    """Away from zero, so that logits differ and biases matter."""
    rng = np.random.default_rng(3)
    return map_weights(lambda w: np.float32(0.3 * rng.standard_normal(w.shape)), transformer.weights(MODEL))


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


def busy(params: dict, sizes: EngineConfig) -> tuple[Engine, dict[tuple[int, int], Completion]]:
    """An engine with few slots and the fewest pages, after two runs that agree; the second knows the common head."""
    engine, requests = Engine(MODEL, params, sizes), work()
    done = run(engine, requests)
    assert same(run(engine, requests[::-1]), done)
    assert engine.statistics.preempted > 3 and engine.pool.swapped_in > 3 and engine.pool.reused_tokens >= 3 * 24
    assert not engine.slots.taken and engine.pool.available == engine.config.page_count
    return engine, done


@pytest.mark.slow  # compiles two engines and the model without cache
@pytest.mark.parametrize("share", ["never", "always"])
def test_samples_are_those_of_the_plain_model_and_bits_do_not_depend_on_the_others(params: dict, share: str) -> None:
    _, done = busy(params, dataclasses.replace(SMALL, share=share))
    oracle = Oracle(MODEL, params, MAX_LEN, SAMPLINGS)
    for request in work():
        for i in range(request.samples):
            oracle.check(request, done[request.problem, i], SMALL.ends)
    assert oracle.ties == 0 and oracle.checked > 60
    alone = Engine(MODEL, params, dataclasses.replace(ROOMY, share=share))
    one = dataclasses.replace(work()[5], skip=(0, 2))  # as a resumed run asks for it
    assert same(run(alone, [one]), {(5, 1): done[5, 1]})


@pytest.mark.slow  # compiles two engines
def test_an_int8_cache_rounds_latents_alike_in_any_company(params: dict) -> None:
    sizes = dataclasses.replace(SMALL, kv_cache="int8")
    engine, done = busy(params, sizes)
    alone = Engine(MODEL, params, dataclasses.replace(ROOMY, kv_cache="int8"))
    one = dataclasses.replace(work()[5], skip=(0, 2))
    assert same(run(alone, [one]), {(5, 1): done[5, 1]})
    numbers = MIXER.rank + MIXER.rotary_dim
    assert engine.prices.cache_bytes == MODEL.n_layers * (numbers + 4)  # a byte each, and one scale
    scored, apart = jax.jit(lambda tokens: jax.nn.log_softmax(transformer.apply(MODEL, params, tokens[None])[0])), []
    for request in work():
        sample, start = done[request.problem, 0], len(request.prompt) - 1
        text = [*request.prompt, *sample.tokens]
        exact = np.asarray(scored(np.array(text + [0] * (MAX_LEN - len(text)), np.int32)))
        places = start + np.arange(len(sample.tokens))
        apart += list(np.abs(exact[places, list(sample.tokens)] - np.array(sample.logprobs)))
    assert 0 < np.median(apart) < 0.02  # a step is 1/254 of the largest number


@pytest.mark.slow  # compiles an engine for a mesh
def test_heads_over_tensor_give_the_same_tokens(params: dict) -> None:
    """Every device holds all latents, which each of its heads reads."""
    requests = work()
    engine = Engine(MODEL, params, SMALL, make_mesh(MeshConfig(tensor=2), jax.devices()[:2]))
    done = run(engine, requests)
    latent = engine.device.pool.pages[0]["latent"]
    assert latent.sharding.shard_shape(latent.shape) == latent.shape
    oracle = Oracle(MODEL, params, MAX_LEN, SAMPLINGS)
    for request in requests:
        for i in range(request.samples):
            oracle.check(request, done[request.problem, i], SMALL.ends)
    assert oracle.ties == 0


def test_a_token_is_charged_the_bytes_of_its_latents_and_rotated_keys() -> None:
    assert counts.kv_cache_bytes_per_token(MODEL) == 2 * 4 * (8 + 4)


def test_scaling_that_depends_on_the_length_is_refused_where_a_mixer_has_it_too() -> None:
    scaled = dataclasses.replace(MIXER, rotary=Rotary(scaling=RopeScaling("dynamic", 2.0, 16)))
    model = dataclasses.replace(MODEL, pattern=(Layer(scaled),))
    with pytest.raises(ConfigError) as error:
        SMALL.check(model)
    assert error.value.field == "engine.max_len"
