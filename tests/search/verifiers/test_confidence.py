"""Confidence: scores on the device are the regression's on the whole text, and it finds unlikely steps."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.searcher import Searcher, SearchProblem
from search.strategies.best_of_n import best_of_n
from search.verifiers.confidence import Confidence, ConfidenceScorer, fit_confidence
from search.verifiers.value_head import last_hidden

VOCAB, END = 17, 5
MODEL = ModelConfig(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_seq_len=48)
PARAMS = transformer.init(MODEL, jax.random.key(0))
PROMPT = 4


def texts(count: int, seed: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(rng.integers(0, VOCAB, PROMPT + rng.integers(1, 9)).tolist()) for _ in range(count)]


def statistics(some: Sequence[Sequence[int]]) -> np.ndarray:
    """Least, mean and sum of the log-probabilities of every text's tokens after the prompt, `[texts, 3]`."""
    padded = np.zeros((len(some), PROMPT + 12), np.int32)
    for row, text in zip(padded, some):
        row[: len(text)] = text
    after = np.asarray(jax.nn.log_softmax(transformer.apply(MODEL, PARAMS, padded), -1), np.float64)
    drawn = [[row[i - 1, text[i]] for i in range(PROMPT, len(text))] for row, text in zip(after, some)]
    return np.array([[min(each), np.mean(each), sum(each)] for each in drawn])


def expected(confidence: Confidence, some: Sequence[Sequence[int]]) -> np.ndarray:
    """The regression on whole texts, `[texts]`."""
    z = last_hidden(MODEL, PARAMS, some) @ np.asarray(confidence.head.weight) + float(confidence.head.bias)
    return 1 / (1 + np.exp(-(z + (statistics(some) - np.asarray(confidence.mean)) @ np.asarray(confidence.weights))))


@pytest.fixture(scope="module")
def fitted() -> tuple[Confidence, np.ndarray]:
    """Texts are right by chance, the more so the likelier their least likely token; fitted, and the true chances."""
    some = texts(1500, 1)
    least = statistics(some)[:, 0]
    chance = 1 / (1 + np.exp(-2 * (least - least.mean())))
    labels = (np.random.default_rng(2).random(len(some)) < chance).astype(float)
    return fit_confidence(MODEL, PARAMS, some, [PROMPT] * len(some), labels), least


def test_it_finds_that_the_least_likely_token_tells(fitted: tuple[Confidence, np.ndarray]) -> None:
    confidence, least = fitted
    new = texts(100, 3)
    chance = 1 / (1 + np.exp(-2 * (statistics(new)[:, 0] - least.mean())))
    assert np.abs(expected(confidence, new) - chance).mean() < 0.06


def test_scores_of_a_search_are_those_of_whole_texts_and_read_nothing(fitted: tuple[Confidence, np.ndarray]) -> None:
    confidence, _ = fitted
    config = SearchConfig(problems=2, prompt_len=PROMPT, max_tokens=12, max_steps=4, max_rounds=6, ends=(END,))
    decoder = TransformerDecoder(MODEL, PARAMS, PROMPT, head=confidence.head)
    searcher = Searcher(decoder, best_of_n(4), config, ConfidenceScorer(confidence))
    prompts = [text[:PROMPT] for text in texts(3, 4)]
    for found in searcher.run(SearchProblem(i, prompt) for i, prompt in enumerate(prompts)):
        assert found.cost.verifier_tokens == 0
        some = [(*found.problem.prompt, *c.tokens) for c in found.candidates]
        terms = np.abs(last_hidden(MODEL, PARAMS, some)) @ np.abs(confidence.head.weight)
        terms += np.abs(statistics(some)) @ np.abs(confidence.weights)
        rounding = 64 * np.finfo(np.float32).eps * terms / 4  # a sigmoid is at most a quarter as steep
        assert (np.abs([c.score for c in found.candidates] - expected(confidence, some)) < rounding).all()
        assert rounding.max() < 1e-3


def test_a_constant_scores_all_alike() -> None:
    assert expected(Confidence.constant(32, 0.2), texts(1, 5)) == pytest.approx([0.2])


def test_labels_and_prompts_are_checked() -> None:
    some = texts(4, 6)
    with pytest.raises(ConfigError, match="are all"):
        fit_confidence(MODEL, PARAMS, some, [PROMPT] * 4, [1.0] * 4)
    with pytest.raises(ConfigError, match="prompts: 3 for 4 texts"):
        fit_confidence(MODEL, PARAMS, some, [PROMPT] * 3, [1.0, 0.0, 1.0, 0.0])
