"""What the engine draws follows the distribution that a request's settings define, token after token."""

from __future__ import annotations

import jax
import pytest

from models import transformer
from models.config import ModelConfig
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling
from tests.search.exact import p_value, sequences

MODEL = ModelConfig(vocab_size=6, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24, max_seq_len=64)
CONFIG = EngineConfig(
    slots=48, max_len=32, page_size=32, prefill_chunk=32, stage_tokens=16, share_rows=16, ends=(4,), stop_sequences=2,
    stop_length=2,
)  # fmt: skip
SETTINGS = {
    "plain": Sampling(),
    "temperature": Sampling(temperature=0.6),
    "top_k": Sampling(top_k=3),
    "top_p": Sampling(top_p=0.7),
    "min_p": Sampling(min_p=0.25),
    "typical": Sampling(typical_p=0.6),
    "repetition penalty": Sampling(repetition_penalty=1.6),
    "logit bias": Sampling(logit_bias=((0, 1.5), (3, -float("inf")))),
    "mask": Sampling(allowed=(0, 1, 4, 5)),
    "forced": Sampling(forced=(2, 3)),
    "all": Sampling(1.3, 5, 0.95, 0.02, 0.95, 1.2, ((1, 0.5),), (0, 1, 2, 4, 5), (0,)),
}
PROMPT, SAMPLES, TOKENS = (2, 0, 5), 2000, 3


@pytest.fixture(scope="module")
def engine() -> Engine:
    engine = Engine(MODEL, transformer.init(MODEL, jax.random.key(3)), CONFIG)
    engine.warm_up(list(SETTINGS.values()), TOKENS)
    return engine


@pytest.mark.slow
@pytest.mark.parametrize("stop", [(), ((1, 0), (5,))], ids=["to the end", "stop sequences"])
@pytest.mark.parametrize("name", SETTINGS)
def test_samples_follow_the_exact_distribution(engine: Engine, name: str, stop: tuple[tuple[int, ...], ...]) -> None:
    problem = 100 * list(SETTINGS).index(name) + len(stop)
    request = Request(problem, PROMPT, SAMPLES, TOKENS, SETTINGS[name], stop)
    exact = sequences(MODEL, engine.device.params, request, CONFIG.ends)
    assert sum(exact.values()) == pytest.approx(1, abs=1e-9)
    before = engine.compilations
    done = list(engine.generate([request]))
    assert len(done) == SAMPLES and engine.compilations == before
    assert p_value(done, exact) > 1e-3
    ended = {(c.tokens[-1] == 4, c.finish_reason) for c in done}
    assert ended <= {(True, "eos"), (False, "stop"), (False, "length")}
