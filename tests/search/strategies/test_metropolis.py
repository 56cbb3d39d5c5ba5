"""Chains over answers have the stationary distribution they are made for, and the transitions of the definition."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

from models.errors import ConfigError
from search.config import Budget, SearchConfig
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.metropolis import acceptance, metropolis
from search.verifiers.scorer import LikelihoodScorer, ValueScorer
from tests.search import recorded
from tests.search.strategies.enumeration import Text, agreement, by_number, continuations, essence
from tests.search.strategies.writers import PROBLEMS, PROMPT, logprobs, writer
from tests.search.trees import random_trees

END, BETA, CHAINS, STEPS = 0, 0.4, 16, 24
TREES = random_trees(5, trees=1, actions=3, depth=4)
REWARD = np.random.default_rng(7).uniform(0.05, 0.95, TREES.value.shape)
TREES = dataclasses.replace(TREES, value=REWARD)
CONFIG = SearchConfig(
    problems=16, prompt_len=1, max_tokens=4, max_steps=4, max_rounds=STEPS + 2, delimiters=(), ends=(END,), seed=1
)
TEXTS = continuations(TREES, 0, (), (END,))
PLACE = {text: i for i, text in enumerate(TEXTS)}


def reward(text: Text) -> float:
    return float(REWARD[0, TREES.walk(0, text)])


def transitions(beta: float) -> tuple[np.ndarray, np.ndarray]:
    """(the chain's matrix, its acceptance rate at every state), by the definition: a sum over cuts."""
    n = len(TEXTS)
    matrix, rate = np.zeros((n, n)), np.zeros(n)
    for old, i in PLACE.items():
        for cut in range(len(old)):
            for new, p in continuations(TREES, 0, old[:cut], (END,)).items():
                ratio = np.exp((reward(new) - reward(old)) / beta) * len(old) / len(new)
                taken = p / len(old) * min(1.0, ratio)
                matrix[i, PLACE[new]] += taken
                rate[i] += taken
        matrix[i, i] += 1 - rate[i]
    return matrix, rate


def target(beta: float) -> np.ndarray:
    weights = np.array([p * np.exp(reward(text) / beta) for text, p in TEXTS.items()])
    return weights / weights.sum()


MATRIX, RATE = transitions(BETA)


def searched(strategy_steps: int, count: int, record: bool, **changes: object) -> list[Found]:
    config = dataclasses.replace(CONFIG, **changes)
    search = Searcher(TREES.decoder, metropolis(CHAINS, strategy_steps, BETA, record=record), config, ValueScorer())
    return list(search.run(SearchProblem(i, 0) for i in range(count)))


@pytest.fixture(scope="module")
def search() -> Searcher:
    return Searcher(TREES.decoder, metropolis(CHAINS, 3, BETA), CONFIG, ValueScorer())


@pytest.fixture(scope="module")
def recorded_chains(search: Searcher) -> list[Found]:
    return list(search.run(SearchProblem(i, 0) for i in range(128)))


def test_acceptance_is_that_of_the_golden_vectors() -> None:
    for case in recorded.vectors("golden_vectors.json")["qalign"]:
        got = acceptance(
            jnp.float32(case["r"]),
            jnp.float32(case["r2"]),
            jnp.int32(case["len"]),
            jnp.int32(case["len2"]),
            case["beta"],
        )
        assert float(got) == pytest.approx(case["alpha"], rel=1e-5)


def test_the_definition_keeps_the_target() -> None:
    """The oracle itself: detailed balance, to rounding."""
    pi = target(BETA)
    flow = pi[:, None] * MATRIX
    np.testing.assert_allclose(flow, flow.T, atol=1e-15)
    assert len({len(text) for text in TEXTS}) > 2  # the factor of the lengths matters


def test_total_variation_to_the_target_falls_with_every_step() -> None:
    """Of the exact chain, whose every step the searched ones take (below)."""
    pi, now, gaps = target(BETA), np.array(list(TEXTS.values())), []
    for _ in range(STEPS + 1):
        gaps.append(abs(now - pi).sum() / 2)
        now = now @ MATRIX
    assert gaps[0] > 0.1 and gaps[-1] < 1e-3
    assert all(after < before for before, after in itertools.pairwise(gaps))


@pytest.mark.slow
def test_chains_reach_the_exact_stationary_distribution() -> None:
    pi, start = target(BETA), np.array(list(TEXTS.values()))
    after = start @ np.linalg.matrix_power(MATRIX, STEPS)
    assert abs(after - pi).sum() < 1e-3  # far below what 2048 draws resolve
    assert abs(start - pi).sum() > 0.2
    found = searched(STEPS, 128, record=False)
    standing = [c.tokens for f in found for c in f.candidates if c.weight > 0]
    assert sum(c.weight for f in found for c in f.candidates) == 128 * CHAINS
    drawn = [text for f in found for c in f.candidates for text in [c.tokens] * int(c.weight)]
    assert len(standing) <= len(drawn)
    assert agreement(drawn, dict(zip(TEXTS, pi))) > 1e-3
    assert agreement(drawn, TEXTS) < 1e-9  # and it is not the policy's own


def test_every_step_moves_as_the_definition_says(recorded_chains: list[Found]) -> None:
    """Visits over the first steps, against the sum of the exact distributions, within four standard errors."""
    now, visits, rates = np.array(list(TEXTS.values())), np.zeros(len(TEXTS)), []
    for _ in range(4):
        visits += now
        rates.append(now @ RATE)
        now = now @ MATRIX
    counts = np.zeros((len(recorded_chains), len(TEXTS)))
    for row, f in enumerate(recorded_chains):
        for c in f.candidates:
            counts[row, PLACE[c.tokens]] += c.weight
    assert (counts.sum(1) == 4 * CHAINS).all()
    error = counts.std(0, ddof=1) / np.sqrt(len(counts)) / CHAINS
    gap = abs(counts.mean(0) / CHAINS - visits)
    assert (gap < 4 * error + 1e-3).all()
    accepted = np.array([f.report["acceptance"] for f in recorded_chains])
    assert all(f.report["proposals"] == 3 * CHAINS for f in recorded_chains)
    assert abs(accepted.mean() - np.mean(rates[:3])) < 4 * accepted.std(ddof=1) / np.sqrt(len(accepted))


def test_the_answer_is_the_mode_of_the_chain(recorded_chains: list[Found]) -> None:
    for f in recorded_chains[:40]:
        votes: Counter[Text] = Counter()
        for c in f.candidates:
            votes[c.tokens] += int(c.weight)
        assert f.answer is not None
        assert votes[f.answer] == max(votes.values())


def test_proposals_keep_a_prefix_and_cost_only_what_they_draw(recorded_chains: list[Found]) -> None:
    for f in recorded_chains[:40]:
        assert len(f.candidates) == 4 * CHAINS
        assert f.cost.generated_tokens <= sum(len(c.tokens) for c in f.candidates)
        assert f.cost.generated_tokens >= len(f.candidates)  # a proposal draws one token or more
        assert f.cost.discarded_tokens == 0  # everything drawn is in some candidate
        firsts = [c.tokens for c in f.candidates[:CHAINS]]
        for chain in range(CHAINS):
            weights = [f.candidates[step * CHAINS + chain].weight for step in range(4)]
            assert sum(weights) == 4
            assert (weights[0] > 0) == (firsts[chain] is not None)


def test_answers_do_not_depend_on_order_or_neighbours(recorded_chains: list[Found], search: Searcher) -> None:
    shuffled = by_number(search.run(SearchProblem(i, 0) for i in reversed(range(20))))
    there = by_number(recorded_chains)
    assert all(essence(there[number]) == essence(f) for number, f in shuffled.items())


def test_a_transformer_goes_on_from_where_it_was_cut() -> None:
    """After going back, the cache gives what the model says of the whole text."""
    config = SearchConfig(problems=2, prompt_len=PROMPT, max_tokens=12, max_rounds=8, ends=(5,), seed=2)
    for f in Searcher(writer(), metropolis(2, 4), config, LikelihoodScorer()).run(PROBLEMS[:3]):
        np.testing.assert_allclose([c.logprob for c in f.candidates], logprobs(f, PROMPT + 12), atol=1e-4)
        assert len({c.tokens for c in f.candidates}) > 2


def test_a_budget_stops_a_chain_and_what_it_cut_short_is_not_tried() -> None:
    for f in searched(3, 8, record=True, budget=Budget(100)):
        assert f.out_of_budget and f.cost.generated_tokens <= 100
        voters = [c for c in f.candidates if c.weight > 0]
        assert all(c.complete for c in voters) and voters
        assert sum(c.weight for c in voters) < 4 * CHAINS


def test_bad_knobs_are_refused() -> None:
    for wrong in (dict(chains=0), dict(steps=0), dict(beta=0.0), dict(burn_in=9), dict(reward="exp")):
        with pytest.raises(ConfigError):
            metropolis(**{"chains": 2, "steps": 3, **wrong})
