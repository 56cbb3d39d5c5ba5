"""Exact distributions by their definitions, in float64: of one token after every filter, and of whole sequences."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import numpy as np
from scipy import stats

from models import transformer
from models.config import ModelConfig
from search.engine.request import Completion, Request
from search.engine.sampling import Sampling


def distribution(logits: np.ndarray, s: Sampling, history: np.ndarray, slack: float = 0.0) -> np.ndarray:
    """The distribution `[vocab]` in float64 by sorting; `slack` moves every threshold by that relative amount."""
    z = logits.astype(np.float64)
    for token, value in s.logit_bias:
        z[token] += value
    for token in {int(t) for t in history if t >= 0}:
        z[token] = z[token] * s.repetition_penalty if z[token] < 0 else z[token] / s.repetition_penalty
    if s.allowed is not None:
        z[np.setdiff1d(np.arange(len(z)), s.allowed)] = -np.inf
    if s.temperature == 0:
        return (np.arange(len(z)) == np.argmax(z)).astype(float)
    p = normalized(np.exp((z - z.max()) / s.temperature))
    if s.top_k:
        kth = np.sort(p)[::-1][min(s.top_k, len(p)) - 1]
        p = normalized(np.where(p >= min(kth * (1 - slack), p.max()), p, 0))
    if s.top_p < 1:
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]
        kept = np.zeros(len(p), bool)
        kept[order] = before < s.top_p * (1 + slack)
        p = normalized(np.where(kept, p, 0))
    if s.min_p > 0:
        p = normalized(np.where(p >= s.min_p * p.max() * (1 - slack), p, 0))
    if s.typical_p < 1:
        surprise = -np.log(np.where(p > 0, p, 1))
        distance = np.where(p > 0, np.abs(surprise - (p * surprise).sum()), np.inf)
        order = np.argsort(distance, kind="stable")
        last = np.argmax(np.cumsum(p[order]) >= s.typical_p * (1 + slack) - 1e-15)
        p = normalized(np.where(distance <= distance[order[last]] + max(slack, 0), p, 0))
    return p


def normalized(p: np.ndarray) -> np.ndarray:
    return p / p.sum()


def chi_square(counts: np.ndarray, p: np.ndarray) -> float:
    """The probability of counts at least this far from p; outcomes expected under 5 times are pooled."""
    assert counts[p == 0].sum() == 0
    expected = p * counts.sum()
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    kept = expected > 0
    return stats.chisquare(counts[kept], expected[kept]).pvalue if kept.sum() > 1 else 1.0


def sequences(
    model: ModelConfig, params: dict, request: Request, ends: tuple[int, ...]
) -> dict[tuple[int, ...], float]:
    """The probability of every sample of a request of few `max_tokens` over a small vocabulary."""
    vocab, long, s = model.vocab_size, request.max_tokens, request.sampling
    prefixes = list(itertools.product(range(vocab), repeat=long - 1))
    tokens = np.array([[*request.prompt, *prefix] for prefix in prefixes], np.int32)
    logits = np.asarray(transformer.apply(model, params, tokens))[:, len(request.prompt) - 1 :]
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for step in range(long):
        for before in [tokens for tokens in found if len(tokens) == step]:
            if before and (before[-1] in ends or any(before[-len(stop) :] == stop for stop in request.stop)):
                continue
            row = prefixes.index((*before, *(0,) * (long - 1 - step)))
            seen = np.array([*request.prompt, *before])
            if step < len(s.forced):
                p = np.eye(vocab)[s.forced[step]]
            else:
                p = distribution(logits[row, step], s, seen)
            probability = found.pop(before)
            found |= {(*before, token): probability * p[token] for token in range(vocab)}
    return found


def p_value(done: Iterable[Completion], probabilities: dict[tuple[int, ...], float]) -> float:
    """The probability of samples at least this far from these probabilities."""
    counts = Counter(completion.tokens for completion in done)
    assert set(counts) <= set(probabilities)
    return chi_square(np.array([counts[tokens] for tokens in probabilities]), np.array([*probabilities.values()]))
