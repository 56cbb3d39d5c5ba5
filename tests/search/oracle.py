"""The simplest generator: one sample at a time, no cache; and how far each of its choices was from another one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models import transformer
from models.config import ModelConfig
from search.engine import sampling
from search.engine.decode import lineage_keys
from search.engine.margin import gap_to_flip
from search.engine.request import Completion, Request
from search.engine.sampling import Filters, Sampling

FLIP = 1e-4  # nats: float32 logits of these models, of size 1 to 10, agree between programs to some 1e-6


class Choice(NamedTuple):
    """What the oracle would do after each prefix of a sequence: token, log-probability and gap, `[max_len]` each."""

    token: np.ndarray
    logprob: np.ndarray
    gap: np.ndarray


@lru_cache(maxsize=8)
def _program(config: ModelConfig, filters: Filters, bias: int, forced: int):
    @jax.jit
    def choose(params, tokens, first, stream, rows, history):
        """tokens `[max_len]`: a whole sequence; its first generated token is at `first`."""
        scores = transformer.apply(config, params, tokens[None])[0]
        step = jnp.arange(len(tokens)) - first + 1  # what follows position p is the token number p - first + 1
        lineages = lineage_keys(jnp.broadcast_to(jnp.asarray(stream, jnp.uint32), (len(tokens), 3)))
        keys = sampling.step_keys(lineages, jnp.maximum(step, 0).astype(jnp.uint32))
        rows = rows.take(jnp.zeros(len(tokens), jnp.int32))
        forced = sampling.forced_at(rows, jnp.maximum(step, 0))
        drawn = sampling.draw(keys, scores, rows, history=history, forced=forced)
        return Choice(drawn.token, drawn.logprob, gap_to_flip(keys, scores, rows, history, forced, drawn.token))

    return choose


class Oracle:
    """Checks samples of one model against the model itself, applied to the growing sequence without a cache."""

    def __init__(self, config: ModelConfig, params: dict, max_len: int, samplings: Sequence[Sampling]):
        self.config, self.params, self.max_len = config, params, max_len
        self.filters = Filters.of([*samplings, Sampling(temperature=0), Sampling()])
        self.bias = max(len(s.logit_bias) for s in samplings)
        self.forced = max(len(s.forced) for s in samplings)
        self.checked = self.ties = 0

    def choices(self, request: Request, lineage: int, tokens: Sequence[int]) -> Choice:
        """What follows the prompt and each of `tokens`, in order: `[len(tokens)]` each."""
        first, sequence = len(request.prompt), [*request.prompt, *tokens]
        padded = np.zeros(self.max_len, np.int32)
        padded[: len(sequence)] = sequence
        rows = sampling.stack_rows([request.sampling], self.config.vocab_size, self.filters, self.bias, self.forced)
        seen = np.where(np.tri(self.max_len, dtype=bool), padded[None], -1).astype(np.int32)
        stream = np.array([request.seed, request.problem, lineage], np.uint32)
        program = _program(self.config, self.filters, self.bias, self.forced)
        choice = jax.device_get(program(self.params, padded, np.int32(first), stream, rows, seen))
        return Choice(*(x[first - 1 : first - 1 + len(tokens)] for x in choice))

    def scores(self, request: Request, tokens: Sequence[int]) -> np.ndarray:
        """Log-probabilities `[len(tokens)]` of these tokens after the prompt."""
        first, sequence = len(request.prompt), [*request.prompt, *tokens]
        padded = np.zeros(self.max_len, np.int32)
        padded[: len(sequence)] = sequence
        logprobs = jax.nn.log_softmax(transformer.apply(self.config, self.params, padded[None])[0])
        return np.array([logprobs[first - 1 + i, token] for i, token in enumerate(tokens)])

    def check(self, request: Request, done: Completion, ends: Sequence[int] = ()) -> None:
        """Every token is the oracle's own choice, or one that lay nearer to another than float32 sums can tell.

        From the second kind on the oracle follows the sample, so that one flip does not hide what comes after it.
        """
        choice = self.choices(request, done.sample, done.tokens)
        self.checked += len(done.tokens)
        different = np.flatnonzero(choice.token != np.array(done.tokens))
        self.ties += len(different)
        assert (choice.gap[different] < FLIP).all(), (request, done, choice)
        same = choice.token == np.array(done.tokens)
        np.testing.assert_allclose(np.array(done.logprobs)[same], choice.logprob[same], atol=2e-5)
        assert done.finish_reason == self.reason(request, done.tokens, ends)

    def reason(self, request: Request, tokens: Sequence[int], ends: Sequence[int]) -> str | None:
        """Why a sample of exactly these tokens ends here and not before; None when it should not have."""
        limit = min(request.max_tokens, self.max_len - len(request.prompt))
        for n in range(1, len(tokens) + 1):
            if tokens[n - 1] in ends:
                found: str | None = "eos"
            elif any(tuple(tokens[:n][-len(stop) :]) == stop for stop in request.stop):
                found = "stop"
            else:
                found = "length" if n == limit else None
            if found:
                return found if n == len(tokens) else None
        return None
