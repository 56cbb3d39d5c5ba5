"""A reward model's scores on the device are those of its head on the whole text, and each is paid for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import counts, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from search.config import Budget, SearchConfig
from search.decoder import TransformerDecoder, ValueHead
from search.searcher import Searcher, SearchProblem
from search.strategies.best_of_n import best_of_n
from search.verifiers.reward_model import RewardModel
from search.verifiers.scorer import ValueScorer
from search.verifiers.value_head import fit_value_head, last_hidden, logistic

VOCAB, END = 17, 5
MODEL = ModelConfig(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_seq_len=48)
CONFIG = SearchConfig(problems=3, prompt_len=9, max_tokens=12, max_steps=4, max_rounds=6, ends=(END,))
PROMPTS = [tuple(np.random.default_rng(i).integers(0, VOCAB, 3 + 2 * i).tolist()) for i in range(3)]


@pytest.fixture(scope="module")
def params() -> list[dict]:
    return [transformer.init(MODEL, jax.random.key(i)) for i in range(2)]


@pytest.fixture(scope="module")
def head() -> ValueHead:
    rng = np.random.default_rng(0)
    return ValueHead(jnp.asarray(rng.standard_normal(32), jnp.float32), jnp.float32(0.3))


def expected(params: dict, head: ValueHead, prompt: tuple, tokens: tuple) -> float:
    final = last_hidden(MODEL, params, [prompt + tokens])[0]
    return float(1 / (1 + np.exp(-(final @ np.asarray(head.weight) + float(head.bias)))))


def searches(scorer, params, head=None, config=CONFIG):
    decoder = TransformerDecoder(MODEL, params, CONFIG.prompt_len, head=head)
    return list(Searcher(decoder, best_of_n(4), config, scorer).run(SearchProblem(i, p) for i, p in enumerate(PROMPTS)))


def test_scores_and_costs_of_a_reward_model(params: list[dict], head: ValueHead) -> None:
    model = RewardModel(MODEL, params[1], head, VOCAB, 21)
    for found in searches(model, params[0]):
        prompt = found.problem.prompt
        for c in found.candidates:
            assert c.score == pytest.approx(expected(params[1], head, prompt, c.tokens), abs=1e-5)
        assert found.cost.verifier_tokens == sum(len(prompt) + len(c.tokens) for c in found.candidates)
        own = sum(
            counts.decode_flops(MODEL, len(prompt) + i + 1) for c in found.candidates for i in range(len(c.tokens))
        )
        read = sum(counts.decode_flops(MODEL, i + 1) for i in range(len(prompt)))
        assert found.cost.flops - own - read == pytest.approx(model.flops_per_token * found.cost.verifier_tokens, abs=1)


def test_a_value_head_reads_nothing_more(params: list[dict], head: ValueHead) -> None:
    for found in searches(ValueScorer(), params[0], head):
        assert found.cost.verifier_tokens == 0
        for c in found.candidates:
            assert c.score == pytest.approx(expected(params[0], head, found.problem.prompt, c.tokens), abs=1e-5)


def test_a_budget_sets_aside_what_scoring_will_cost(params: list[dict], head: ValueHead) -> None:
    import dataclasses

    model = RewardModel(MODEL, params[1], head, VOCAB, 21)
    config = dataclasses.replace(CONFIG, budget=Budget(60, "tokens"))
    for found in searches(model, params[0], config=config):
        assert found.cost.generated_tokens + found.cost.verifier_tokens <= 60


def test_another_vocabulary_is_refused(params: list[dict], head: ValueHead) -> None:
    with pytest.raises(ConfigError, match="reads 17 kinds of tokens, and the policy writes 40"):
        RewardModel(MODEL, params[1], head, 40, 21)


def test_the_head_finds_a_direction_that_is_there(params: list[dict]) -> None:
    """Labels drawn from a known head on this trunk give back probabilities near the true ones."""
    rng = np.random.default_rng(1)
    texts = [tuple(rng.integers(0, VOCAB, 8).tolist()) for _ in range(1500)]
    hidden = last_hidden(MODEL, params[0], texts)
    true = rng.standard_normal(32) / np.sqrt(32)
    chance = 1 / (1 + np.exp(-2 * hidden @ true))
    head = fit_value_head(MODEL, params[0], texts, (rng.random(1500) < chance).astype(float))
    given = 1 / (1 + np.exp(-(hidden @ np.asarray(head.weight) + float(head.bias))))
    assert np.abs(given - chance).mean() < 0.06
    with pytest.raises(ConfigError, match="are all"):
        fit_value_head(MODEL, params[0], texts[:4], [0.0] * 4)


def test_the_logistic_fit_is_at_its_optimum() -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.standard_normal((200, 5)), np.ones((200, 1))], axis=1)
    y = (rng.random(200) < 0.3).astype(float)
    w = logistic(x, y, 0.01)
    p = 1 / (1 + np.exp(-x @ w))
    gradient = x.T @ (p - y) + 0.01 * 200 * w * np.append(np.ones(5), 0)
    assert np.abs(gradient).max() < 1e-6
