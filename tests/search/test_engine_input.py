"""What the engine cannot do it says in one line, before anything runs."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from models import transformer
from models.config import ModelConfig, RopeScaling
from models.errors import ConfigError
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling

CONFIG = EngineConfig(slots=2, max_len=16, page_size=4, pages=8, stop_sequences=2, stop_length=3, ends=(0,))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(1, ()), "request 1.prompt: is empty"),
        (Request(1, tuple(range(10)) * 2), "has 20 tokens, but the context holds 16"),
        (Request(1, (3,) * 16), "and a sample needs one"),
        (Request(1, (3, 99, -1)), "holds unknown tokens [-1, 99]"),
        (Request(1, (3,), stop=((4, 99),)), "holds unknown tokens [99]"),
        (Request(1, (3,), max_tokens=2, stop=((1, 2, 3),)), "longer than max_tokens 2, so it can never match"),
        (Request(1, (3,), stop=((0, 2),)), "can never match: token [0] ends the sample before"),
        (Request(1, (3,), stop=((1, 2, 3, 4),)), "a sequence of 4 tokens"),
        (Request(1, (3,), stop=((1,), (2,), (3,))), "has 3 sequences"),
        (Request(1, (3,), stop=((),)), "holds an empty sequence"),
        (Request(1, (3,), samples=0), "request 1.samples: is 0"),
        (Request(1, (3,), max_tokens=0), "request 1.max_tokens: is 0"),
        (Request(-1, (3,)), "is no 32-bit number"),
        (Request(1, (3,), sampling=Sampling(forced=(77,))), "sampling.forced"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_with_its_field(request_: Request, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        request_.check(20, CONFIG)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_request_that_reaches_the_end_of_the_context_is_served() -> None:
    Request(1, (3,) * 15, max_tokens=100, stop=((1,),)).check(20, CONFIG)


MODEL = ModelConfig(vocab_size=20, d_model=8, n_layers=1, n_heads=1, d_ff=8, max_seq_len=16, tied_embeddings=False)


def test_a_request_that_fails_is_reported_and_the_others_go_on() -> None:
    params = transformer.init(MODEL, jax.random.key(0))
    params["tokens"] = params["tokens"].at[13].set(jnp.nan)  # who reads it computes nothing
    engine = Engine(MODEL, params, CONFIG)
    good = [
        Request(i, (3, 4), samples=2, max_tokens=4, sampling=Sampling(logit_bias=((13, -float("inf")),)))
        for i in (1, 4)
    ]
    alone = sorted((c.problem, c.sample, c.tokens) for c in engine.generate(good))
    told: dict[int, str] = {}
    requests = [good[0], Request(2, (3, 13), 3, 4), Request(3, (99,)), good[1]]
    found = list(engine.generate(requests, lambda problem, error: told.update({problem: str(error)})))
    assert sorted((c.problem, c.sample, c.tokens) for c in found) == alone
    assert told.keys() == {2, 3}
    assert "leaves no token to draw after 0" in told[2] and "holds unknown tokens [99]" in told[3]
    assert not engine.slots.taken and engine.pool.available == CONFIG.page_count
    with pytest.raises(ConfigError, match="leaves no token to draw"):
        list(engine.generate([Request(2, (3, 13))]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(slots=0), "engine.slots: is 0"),
        (dict(pages=5), "5 pages of 4 tokens cannot hold one sample of max_len 16: give at least 6"),
        (dict(precision="float16"), "engine.precision: 'float16' is not one of"),
        (dict(quantum=0), "engine.quantum: is 0"),
    ],
)
def test_an_engine_that_cannot_be_built_is_refused_with_its_field(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineConfig(**(dict(max_len=16, page_size=4) | changes))
    assert words in str(caught.value)


def test_rope_scaling_that_turns_earlier_keys_anew_is_refused_where_it_would() -> None:
    scaling = RopeScaling("dynamic", 2.0, original_max_seq_len=12)
    model = ModelConfig(vocab_size=20, d_model=8, n_layers=1, n_heads=1, rope_scaling=scaling)
    with pytest.raises(ConfigError, match=r"engine.max_len: 16 exceeds the 12 tokens .* give at most 12"):
        CONFIG.check(model)
    dataclasses.replace(CONFIG, max_len=12).check(model)


def test_an_engine_longer_than_the_models_position_table_is_refused() -> None:
    model = ModelConfig(vocab_size=20, d_model=8, n_layers=1, n_heads=1, positions="learned", max_seq_len=8)
    with pytest.raises(ConfigError, match=r"engine.max_len: 16 exceeds the model's 8"):
        CONFIG.check(model)
    with pytest.raises(ConfigError, match=r"engine.ends: \[30\] are no tokens"):
        EngineConfig(max_len=8, ends=(30,)).check(model)
