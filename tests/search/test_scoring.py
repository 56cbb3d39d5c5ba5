"""A prompt's own tokens are scored in chunks beside the samples of others."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.scoring import score_prompt

MODEL = ModelConfig(vocab_size=17, d_model=16, n_layers=1, n_heads=4, n_kv_heads=2, d_ff=24, max_seq_len=32)
CONFIG = EngineConfig(slots=2, max_len=32, page_size=4, pages=16, prefill_chunk=8, stage_tokens=3)
PROMPT = tuple(int(t) for t in np.random.default_rng(0).integers(0, 17, 13))


@pytest.mark.slow  # compiles an engine and its scores
def test_a_prompt_is_scored_token_by_token_between_samples_of_others() -> None:
    params = transformer.init(MODEL, jax.random.key(0))
    logits = transformer.apply(MODEL, params, np.asarray([PROMPT]))[0]
    own = np.take_along_axis(jax.nn.log_softmax(logits[:-1]), np.asarray(PROMPT[1:])[:, None], -1)[:, 0]
    engine, request = Engine(MODEL, params, CONFIG), Request(2, PROMPT[:6], 5, 9)
    beside, found = {c.sample: c.tokens for c in engine.generate([request])}, {}
    for c in engine.generate([request]):
        found[c.sample] = c.tokens
        first, *rest = score_prompt(engine, 9, PROMPT)
        assert first is None and rest == pytest.approx(own.tolist(), abs=1e-5)
    assert found == beside and score_prompt(engine, 9, PROMPT[:1]) == (None,)
    assert engine.ledger[9].prompt_tokens == 5 * 12 and engine.pool.available == CONFIG.page_count
    held = engine.pool.allocate(14)
    with pytest.raises(ConfigError, match=r"engine.pages: 16 are too few to score a prompt: raise engine.pages"):
        score_prompt(engine, 9, PROMPT)
    engine.pool.unpin(held)
