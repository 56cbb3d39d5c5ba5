"""What a search holds on the device: every prompt once, a suffix per particle, and little beside them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from models import counts, transformer
from models.config import ModelConfig
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.searcher import Searcher
from search.strategies.beam import beam
from search.verifiers.scorer import LikelihoodScorer

MODEL = ModelConfig(vocab_size=16, d_model=128, n_layers=2, n_heads=4, d_ff=32)
CONFIG = SearchConfig(problems=2, prompt_len=512, max_tokens=48, max_steps=6, max_rounds=8, tokens_per_step=8)
SAMPLES = 64


@pytest.mark.slow  # compiles a search
def test_a_beam_holds_its_prompts_once_and_at_most_three_tenths_beside_its_suffixes() -> None:
    """The suffixes of 64 particles of 48 tokens, and all that the whole search needs beside what it is given: scores of
    prompts among it, but no second copy of them or of a layer's suffixes."""
    params = transformer.init(MODEL, jax.random.key(0))
    decoder = TransformerDecoder(MODEL, params, CONFIG.prompt_len)
    search = Searcher(decoder, beam(SAMPLES, 4), CONFIG, LikelihoodScorer())
    token = counts.kv_cache_bytes_per_token(MODEL)
    state = search._state
    prompts, suffixes = (
        sum(x.nbytes for x in jax.tree.leaves(kept)) for kept in (state.contexts.layers, state.population.caches.rows)
    )
    assert prompts == CONFIG.problems * CONFIG.prompt_len * token
    assert suffixes == CONFIG.problems * SAMPLES * CONFIG.max_tokens * token
    run = jax.jit(search.rounds.run, donate_argnums=1)
    memory = run.lower(search.params, state, np.bool_(True), np.int32(9)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.3 * suffixes
    assert memory.alias_size_in_bytes > prompts + suffixes  # changed in place
