"""RewardModel: a model of its own that reads a prompt and a completion and says how likely it is to end right.

Fitted to labels of steps it is a process reward model, fitted to those of whole answers an outcome reward model; both
are a trained trunk with a logistic head (search/verifiers/reward_training.py). Unlike the policy's value head it costs
a forward pass over the whole text for every score, which the ledger counts as verifier tokens.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from models import counts
from models.config import ModelConfig
from models.errors import require
from models.transformer import Params
from search.decoder import Context, ValueHead
from search.engine.precision import running_config, stored_params
from search.population import Population
from search.verifiers.scorer import whole_texts
from search.verifiers.value_head import hidden_after


class RewardModel:
    """A scorer for the particles of a `TransformerDecoder`.

    model, params: the trunk. head: as `train_reward_model` trains both, or `fit_value_head` fits it on a trunk.
    vocab_size: the policy's, which must be the model's, since it reads the policy's tokens. longest: tokens of the
    longest text, for the price of one token.

    Raises:
      ConfigError: another vocabulary.
    """

    def __init__(self, model: ModelConfig, params: Params, head: ValueHead, vocab_size: int, longest: int):
        problem = f"reads {model.vocab_size} kinds of tokens, and the policy writes {vocab_size}"
        require(model.vocab_size == vocab_size, "scorer", problem, "train it with the policy's tokenizer")
        self.config = running_config(model, "float32")
        self.params = (stored_params(self.config, params), head)
        # Attention makes a token dearer the more it follows; the mean over the longest text is at most exceeded by it.
        self.flops_per_token = counts.prefill_flops(self.config, longest, 0) / longest

    def score(self, params: Any, contexts: Context, rows: Population) -> jax.Array:
        """sigmoid(head) of the last token's hidden state, `[problems, particles]` float32."""
        weights, head = params
        final = hidden_after(self.config, weights, *whole_texts(contexts, rows))
        score = jax.nn.sigmoid(final @ head.weight + head.bias)
        return jnp.clip(score, 1e-6, 1 - 1e-6).reshape(rows.length.shape)

    def tokens(self, contexts: Context, rows: Population) -> jax.Array:
        """The whole text, prompt and completion."""
        return contexts.length[:, None] + rows.length
