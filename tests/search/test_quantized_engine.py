"""The engine runs on quantised weights unchanged: what it generates is what the quantised model says."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.quantize import quantize
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling

MODEL = ModelConfig(vocab_size=40, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_seq_len=32)
CONFIG = EngineConfig(slots=2, max_len=32, page_size=32, prefill_chunk=32, stage_tokens=8)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["w8a8", "int4"])
def test_greedy_tokens_have_the_quantised_models_best_logits(mode):
    params = quantize(transformer.init(MODEL, jax.random.key(0)), MODEL, mode)
    prompts = [(3, 1, 4, 1, 5), (9, 2)]
    requests = [Request(i, prompt, 1, 8, Sampling(temperature=0.0)) for i, prompt in enumerate(prompts)]
    score = jax.jit(transformer.apply, static_argnums=0)
    for done in Engine(MODEL, params, CONFIG).generate(requests):
        text = np.array([[*prompts[done.problem], *done.tokens]], np.int32)
        logits = np.asarray(score(MODEL, params, text[:, :-1]))[0, len(prompts[done.problem]) - 1 :]
        chosen = logits[np.arange(len(done.tokens)), list(done.tokens)]
        # a sum in another order can round an activation to the next integer, so the best two may change places
        assert (logits.max(-1) - chosen).max() < (0.1 if mode == "w8a8" else 1e-3)
