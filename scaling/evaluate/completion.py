"""Completions: the next tokens of held-out text, to be given back exactly; each has one right answer.

With one right answer of L tokens, a sample is right with the probability that the model gives those tokens, each after
all before it. So what thousands of samples would say of small rates, one pass over the text says exactly, and a sample
may be abandoned at its first wrong token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from models.config import ModelConfig
from models.errors import require
from scaling.data import DataConfig, prepare
from scaling.evaluate.likelihood import continuations

CHUNK = 4096  # samples drawn together


@dataclass(frozen=True, eq=False)
class Completions:
    """contexts [items, context] and answers [items, length], token ids."""

    contexts: np.ndarray
    answers: np.ndarray


def completions(data: DataConfig, items: int, context: int, length: int) -> Completions:
    """Items spread evenly over the held-out text; ConfigError when it has not so many windows."""
    windows = prepare(data).heldout_batches(context + length - 1, 1, limit_tokens=items * (context + length - 1))
    tokens = windows.tokens.reshape(-1, context + length)
    fix = "ask for fewer, or give more held-out text"
    require(len(tokens) >= items, "items", f"is {items}, and the held-out text has {len(tokens)} windows", fix)
    return Completions(tokens[:items, :context], tokens[:items, context:])


class TokenRates(NamedTuple):
    """Of every answer [items, length]: each token's probability after the right ones before it, and whether it was the
    likeliest."""

    rates: np.ndarray  # float64
    greedy: np.ndarray  # bool


def token_rates(model: ModelConfig, params: Any, given: Completions) -> TokenRates:
    """One pass of the model over the items."""
    pairs = list(zip(given.contexts.tolist(), given.answers.tolist(), strict=True))
    found = continuations(model, params, pairs)
    return TokenRates(np.exp([one.logprobs for one in found]), np.array([one.greedy for one in found]))


def pass_until(rates: np.ndarray, passes: int, most: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(passes, samples) [items] of sampling every item until it has passed `passes` times, or `most` samples are drawn.

    rates [items, length]: of the right answer's tokens; a sample draws them one after the other and is abandoned at the
    first that it misses (Hu et al. 2024, arXiv:2310.03262). An item with fewer passes is censored at `most` samples.
    """
    require(passes >= 1 and most >= 1, "passes", f"is {passes} of at most {most} samples", "give positive numbers")
    found = np.array([_until(row, passes, most, np.random.default_rng([seed, i])) for i, row in enumerate(rates)])
    return found[:, 0], found[:, 1]


def _until(rates: np.ndarray, passes: int, most: int, rng: np.random.Generator) -> tuple[int, int]:
    passed = drawn = 0
    while drawn < most:
        alive = np.arange(min(CHUNK, most - drawn))  # samples that have missed nothing yet
        together = len(alive)
        for rate in rates:
            alive = alive[rng.random(len(alive)) < rate]
        if passed + len(alive) >= passes:
            return passes, drawn + int(alive[passes - passed - 1]) + 1
        passed, drawn = passed + len(alive), drawn + together
    return passed, drawn


def edit_distance(a: Any, b: Any) -> int:
    """Least insertions, deletions and replacements that turn one sequence into the other (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]
