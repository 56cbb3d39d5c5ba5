"""A tiny random transformer as the policy of a search, and what it says without any cache."""

from __future__ import annotations

import jax
import numpy as np

from models import transformer
from models.config import ModelConfig
from search.decoder import TransformerDecoder
from search.searcher import Found, SearchProblem

VOCAB, PROMPT = 16, 8
MODEL = ModelConfig(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_seq_len=64)
PROBLEMS = [SearchProblem(i, tuple(np.random.default_rng(i).integers(0, VOCAB, 3 + i % 5).tolist())) for i in range(6)]


def writer() -> TransformerDecoder:
    return TransformerDecoder(MODEL, transformer.init(MODEL, jax.random.key(0)), PROMPT)


def logprobs(found: Found, length: int) -> list[float]:
    """Log-probability of every candidate's tokens, by the model over the whole text, padded to `length`."""
    params, prompt, results = transformer.init(MODEL, jax.random.key(0)), found.problem.prompt, []
    for c in found.candidates:
        text = np.zeros(length, np.int32)
        text[: len(prompt) + len(c.tokens)] = [*prompt, *c.tokens]
        scores = np.asarray(jax.nn.log_softmax(transformer.apply(MODEL, params, text[None])[0]), np.float64)
        results.append(sum(scores[len(prompt) + i - 1, t] for i, t in enumerate(c.tokens)))
    return results
