"""GenerativeVerifier: a language model that writes judgements, each of which ends in yes or no; they vote.

The score of a particle is the share of yes among the verdicts (Zhang et al. 2024, GenRM-CoT; the rule for judgements
without a verdict is that of sc-genrm-scaling: they do not vote, and a particle without any vote scores lowest).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models import counts
from models.config import ModelConfig
from models.errors import require
from models.transformer import Params
from search.config import SearchConfig
from search.decoder import Decoder, TransformerDecoder
from search.engine import sampling
from search.engine.config import Precision
from search.engine.sampling import Sampling
from search.population import Population
from search.rounds import Rounds
from search.strategies.best_of_n import best_of_n
from search.verifiers.scorer import Unscored, whole_texts

Prompts = Callable[[Any, Population], Any]  # (contexts, rows) -> arrays [problems * particles, ...], the last: lengths


class Verdicts(NamedTuple):
    """Judgements `[rows, votes]` int32: the verdict of each (-1: none, 0: no, 1: yes), and its tokens."""

    verdict: jax.Array
    written: jax.Array


class GenerativeVerifier:
    """Scores particles by the votes of a judge.

    judge: any decoder. prompts: what it is asked about each row, as its `encode` would give it. yes, no: its tokens
    that are verdicts; the first one ends a judgement. votes: judgements of each row. most_tokens: of one judgement.
    flops_per_token: the price of each token that it reads or writes. drawn: how judgements are drawn.

    Raises:
      ConfigError: no votes, no tokens, no verdicts, or one that is both.
    """

    def __init__(
        self,
        judge: Decoder,
        prompts: Prompts,
        yes: Sequence[int],
        no: Sequence[int],
        *,
        flops_per_token: float,
        votes: int = 8,
        most_tokens: int = 1,
        drawn: Sampling | None = None,
    ):
        require(votes >= 1, "votes", f"is {votes}", "give a positive number")
        require(most_tokens >= 1, "most_tokens", f"is {most_tokens}", "give a positive number")
        require(bool(yes) and bool(no), "verdicts", "have no token for yes, or none for no", "name one of each")
        both = sorted(set(yes) & set(no))
        require(not both, "verdicts", f"{both} are both yes and no", "give each token to one of them")
        drawn = drawn or Sampling()
        self._search = SearchConfig(max_tokens=most_tokens, max_rounds=1, ends=(*yes, *no), sampling=drawn)
        drawn.check_tokens(judge.vocab_size)
        unknown = [t for t in (*yes, *no) if not 0 <= t < judge.vocab_size]
        require(not unknown, "verdicts", f"{unknown} are no tokens of the judge", f"use 0 to {judge.vocab_size - 1}")
        self.params, self.flops_per_token = judge.params, flops_per_token
        self.votes, self.most_tokens = votes, most_tokens
        self._judge, self._prompts = judge, prompts
        said = jnp.full(judge.vocab_size, -1)
        self._said = said.at[jnp.asarray(yes)].set(1).at[jnp.asarray(no)].set(0)

    def tokens(self, contexts: Any, rows: Population) -> jax.Array:
        """The prompt once, and every judgement at its longest."""
        return self._prompts(contexts, rows)[-1].reshape(rows.length.shape) + self.votes * self.most_tokens

    def judge(self, params: Any, contexts: Any, rows: Population, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(share of yes among the verdicts, tokens of the prompt and of all judgements) `[problems, particles]`."""
        prompts, shape = self._prompts(contexts, rows), rows.length.shape
        verdicts = self.verdicts(params, prompts, keys.reshape(-1, 2))
        yes, valid = (verdicts.verdict == 1).sum(-1), (verdicts.verdict >= 0).sum(-1)
        score = jnp.clip(yes / jnp.maximum(valid, 1), 1e-6, 1 - 1e-6)
        return score.reshape(shape), (prompts[-1] + verdicts.written.sum(-1)).reshape(shape)

    def verdicts(self, params: Any, prompts: Any, keys: jax.Array) -> Verdicts:
        """The judgements of every prompt, when all have ended; keys `[rows, 2]` uint32."""
        n, judge = len(keys), self._judge

        def read(i: jax.Array, contexts: Any) -> Any:
            return judge.admit(params, contexts, i, jax.tree.map(lambda x: x[i], prompts))

        contexts = jax.lax.fori_loop(0, n, read, judge.contexts(n))
        votes = sampling.step_keys(jnp.repeat(keys, self.votes, axis=0), jnp.tile(jnp.arange(self.votes), n))
        samples = best_of_n(self.votes, scored=False)
        writing = Rounds(judge, samples, Unscored(), dataclasses.replace(self._search, problems=n))
        rows = writing.first((params, ()), contexts, votes)
        last = jnp.take_along_axis(rows.tokens, jnp.maximum(rows.length - 1, 0)[..., None], -1)[..., 0]
        return Verdicts(jnp.where(rows.length > 0, self._said[last], -1), rows.length)


def generative_verifier(
    model: ModelConfig,
    params: Params,
    vocab_size: int,
    config: SearchConfig,
    question: Sequence[int],
    yes: Sequence[int],
    no: Sequence[int],
    *,
    votes: int = 8,
    most_tokens: int = 1,
    drawn: Sampling | None = None,
    precision: Precision = "float32",
) -> GenerativeVerifier:
    """A transformer as the judge of a search of `config`: it reads prompt, completion and `question`, all as tokens.

    vocab_size: the policy's, which must be the model's, since it reads the policy's tokens.

    Raises:
      ConfigError: another vocabulary, or what `GenerativeVerifier` refuses.
    """
    problem = f"reads {model.vocab_size} kinds of tokens, and the policy writes {vocab_size}"
    require(model.vocab_size == vocab_size, "scorer", problem, "train it with the policy's tokenizer")
    room = config.prompt_len + config.max_tokens + len(question)
    judge = TransformerDecoder(model, params, room, precision, field="question")
    # Attention makes a token dearer the more it follows: the last one's price for all, which is at most too much.
    price = counts.decode_flops(judge.config, room + most_tokens)
    asked = partial(whole_texts, after=question)
    return GenerativeVerifier(
        judge, asked, yes, no, flops_per_token=price, votes=votes, most_tokens=most_tokens, drawn=drawn
    )
