"""Log-probabilities of continuations after their contexts, many at once in a few compiled shapes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models import transformer
from models.config import ModelConfig
from models.errors import require
from scaling.train.processes import fetch

ROWS = 64  # sequences in one call, fewer where their logits would take more than BYTES
BYTES = 2**28
SHORTEST = 16  # tokens of the shortest shape; the next ones double


class Continuation(NamedTuple):
    """Of one continuation [n]: nats of each token after all before it, and whether it was the likeliest."""

    logprobs: np.ndarray  # float64
    greedy: np.ndarray  # bool


@partial(jax.jit, static_argnums=0)
def _scored(model: ModelConfig, params: Any, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nats, and whether it is the likeliest, of each token but the first `[rows, seq - 1]` of tokens `[rows, seq]`."""
    logits = transformer.apply(model, params, tokens[:, :-1])
    targets = tokens[:, 1:, None]
    given = jnp.take_along_axis(logits, targets, -1)
    logprobs = (given - jax.nn.logsumexp(logits, -1, keepdims=True))[..., 0]
    first = jnp.argmax(logits, -1)  # of equals the one that greedy decoding takes
    return logprobs, first == tokens[:, 1:]


def continuations(
    model: ModelConfig, params: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], most: int | None = None
) -> list[Continuation]:
    """Score each (context, continuation); what is longer than `most` tokens is cut from the left of the context.

    most: tokens that the model reads at once; by default its learned positions, or what it was made for.
    Raises ConfigError for an empty context or continuation, one that does not fit, and ids beyond the vocabulary.
    """
    limit = model.max_seq_len if model.positions == "learned" else most
    rows = [_row(context, continuation, limit, model.vocab_size) for context, continuation in pairs]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: dict[int, Continuation] = {}
    at = 0
    while at < len(order):
        size = _size(len(rows[order[at]]), limit)
        together = max(1, min(ROWS, BYTES // (4 * size * model.vocab_size)))
        batch = [i for i in order[at : at + together] if len(rows[i]) - 1 <= size]
        tokens = np.zeros((together, size + 1), np.int32)
        for place, i in enumerate(batch):
            tokens[place, : len(rows[i])] = rows[i]
        logprobs, greedy = fetch(_scored(model, params, tokens))
        for place, i in enumerate(batch):
            stop = len(rows[i]) - 1
            span = slice(stop - len(pairs[i][1]), stop)
            found[i] = Continuation(logprobs[place, span].astype(np.float64), greedy[place, span])
        at += len(batch)
    return [found[i] for i in range(len(rows))]


def _row(context: Sequence[int], continuation: Sequence[int], most: int | None, vocabulary: int) -> list[int]:
    """Context and continuation in one row, of which the model reads all but the last token."""
    require(len(context) > 0, "context", "is empty", "give at least one token before what is scored")
    require(len(continuation) > 0, "continuation", "is empty", "give at least one token")
    row = [*context, *continuation]
    bad = [token for token in row if not 0 <= token < vocabulary]
    require(not bad, "continuation", f"holds unknown tokens {bad[:5]}", f"use 0 to {vocabulary - 1}")
    if most is None or len(row) - 1 <= most:
        return row
    problem = f"has {len(continuation)} tokens, and the model reads {most} at once"
    require(len(continuation) <= most, "continuation", problem, "shorten it")
    return row[-most - 1 :]


def _size(tokens: int, most: int | None) -> int:
    """Tokens that the model reads in the shape for a row of so many."""
    size = SHORTEST
    while size < tokens - 1:
        size *= 2
    return size if most is None else min(size, most)
