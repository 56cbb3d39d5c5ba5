"""Monte Carlo tree search against mctx, visit for visit, and against enumeration."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.errors import ConfigError
from search.config import SearchConfig
from search.searcher import Searcher, SearchProblem
from search.strategies.mcts import mcts, puct, uct
from search.strategies.strategy import Strategy
from search.verifiers.scorer import ValueScorer
from tests.search.strategies.enumeration import by_number, essence
from tests.search.strategies.replicas import Replicas, best_values, fair_trees, optimum
from tests.search.trees import Trees, random_trees

FAIR = fair_trees(3)
WALK = SearchConfig(problems=4, prompt_len=1, max_tokens=4, max_steps=4, max_rounds=64, tokens_per_step=1)
SIMULATIONS, ACTIONS = 24, 8


def searcher(trees: Trees, strategy: Strategy, **settings: object) -> Searcher:
    return Searcher(trees.decoder, strategy, dataclasses.replace(WALK, **settings), ValueScorer())


@pytest.fixture(scope="module")
def replicas() -> Replicas:
    return Replicas(FAIR, mcts(SIMULATIONS, ACTIONS), 32)


def problems(n: int) -> list[SearchProblem]:
    return [SearchProblem(i, i % 4) for i in range(n)]


def replayed(mctx: Any, tree: Any, score: np.ndarray, depth: int) -> np.ndarray:
    """Visits of the root's children `[replicas, actions]` when mctx searches what our search had sampled."""
    count, rows = len(score), jnp.arange(len(score))[:, None]
    first, prior, score = jnp.asarray(tree.first), jnp.asarray(tree.prior), jnp.asarray(score)

    def logits(place: jax.Array) -> jax.Array:
        children = jnp.maximum(first[rows[:, 0], place], 0)[:, None] + jnp.arange(ACTIONS)
        return jnp.where(first[rows[:, 0], place][:, None] >= 0, jnp.log(prior[rows, children]), 0.0)

    def step(params: Any, key: jax.Array, action: jax.Array, place: jax.Array) -> tuple[Any, jax.Array]:
        child = jnp.maximum(first[rows[:, 0], place], 0) + action
        zeros = jnp.zeros(count)
        return mctx.RecurrentFnOutput(
            reward=zeros, discount=zeros + 1, prior_logits=logits(child), value=score[rows[:, 0], child]
        ), child

    def values(node: Any, index: jax.Array) -> jax.Array:
        """The mean of visited children, the score of others; what repeats a sibling is no action."""
        first, prior, score = node.extra_data
        children = jnp.maximum(first[node.embeddings[index]], 0) + jnp.arange(ACTIONS)
        own = jnp.where(node.children_visits[index] > 0, node.qvalues(index), score[children])
        return jnp.where(prior[children] > 0, own, -1e9)

    select = partial(mctx.muzero_action_selection, qtransform=values)
    root = jnp.zeros(count, jnp.int32)
    start = mctx.RootFnOutput(prior_logits=logits(root), value=jnp.zeros(count), embedding=root)
    found = mctx.search(
        (), jax.random.key(0), root=start, recurrent_fn=step,
        root_action_selection_fn=partial(select, depth=0), interior_action_selection_fn=select,
        num_simulations=SIMULATIONS, max_depth=depth, extra_data=(first, prior, score),
    )  # fmt: skip
    return np.asarray(found.children_visits[:, 0])


def test_visits_are_those_of_mctx(replicas: Replicas) -> None:
    """Another implementation of the same rule, given the steps that ours sampled, goes the same way every time."""
    mctx = pytest.importorskip("mctx")
    trees = dataclasses.replace(FAIR, log_prob=random_trees(0, 4, 2).log_prob)
    outcome = replicas.run(trees)
    ours = outcome.state
    assert (ours.simulations == SIMULATIONS).all()
    visits = replayed(mctx, ours, outcome.score, trees.depth)
    first = ours.first[:, 0]
    mine = np.stack([ours.visits[i, f : f + ACTIONS] for i, f in enumerate(first)])
    assert mine.tolist() == visits.tolist() and (mine.sum(-1) == SIMULATIONS).all()
    deep = [ours.visits[i, ours.parent[i] > first[i]].sum() for i in range(32)]
    assert min(deep) > 0  # it does not stop below the root


def test_finds_the_enumerated_optimum(replicas: Replicas) -> None:
    """Eight steps sampled of two hold both; the best score that can be reached leads to the best leaf."""
    outcome = replicas.run(best_values(FAIR))
    assert outcome.answers == [optimum(FAIR, i % 4) for i in range(32)]


def test_finds_the_optimum_behind_misleading_scores() -> None:
    """With scores that are noise before the end it has to try all that looks good, and then follows its visits."""
    for f in searcher(FAIR, mcts(120, 8, rule="uct")).run(problems(4)):
        assert f.answer == optimum(FAIR, f.problem.prompt)
        assert f.report["simulations"] == 120


def test_bonuses_are_the_published_formulas() -> None:
    visits, prior = np.array([0.0, 3.0, 7.0]), np.array([0.5, 0.3, 0.2])
    expected = prior * (np.log((11 + 19652 + 1) / 19652) + 1.25) * np.sqrt(11) / (1 + visits)
    np.testing.assert_allclose(puct(jnp.array(visits), jnp.float32(11), jnp.array(prior)), expected, rtol=1e-5)
    expected = np.sqrt(np.log(11) / np.maximum(1, visits))
    np.testing.assert_allclose(uct(jnp.array(visits), jnp.float32(11)), expected, rtol=1e-6)


@pytest.fixture(scope="module")
def noisy() -> Searcher:
    return searcher(random_trees(4, trees=4), mcts(12, 3, noise=0.25, answer="visits", nodes=30))


def test_answers_do_not_depend_on_order_or_neighbours(noisy: Searcher) -> None:
    given = problems(10)
    together, backwards = by_number(noisy.run(given)), by_number(noisy.run(reversed(given)))
    assert {n: essence(f) for n, f in together.items()} == {n: essence(f) for n, f in backwards.items()}
    assert essence(next(noisy.run([given[7]]))) == essence(together[7])


def test_a_full_store_ends_the_search(noisy: Searcher) -> None:
    for f in noisy.run(problems(6)):
        assert f.report["nodes"] <= 30 and len(f.candidates) == 30
        assert f.report["simulations"] <= 12


def test_bad_settings_are_named() -> None:
    for settings, says in (({"rule": "ucb"}, "rule"), ({"actions": 0}, "actions"), ({"nodes": 3}, "nodes")):
        with pytest.raises(ConfigError, match=says):
            mcts(**settings)
