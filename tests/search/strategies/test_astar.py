"""A* against enumeration: optimal answers, the pops of a plain priority queue, evictions that are counted."""

from __future__ import annotations

import dataclasses
import heapq

import jax.numpy as jnp
import numpy as np
import pytest

from models.errors import ConfigError
from search.config import Budget, SearchConfig
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.astar import astar, surprise
from search.strategies.strategy import Strategy
from search.verifiers.scorer import ValueScorer
from tests.search.strategies.enumeration import Text, by_number, continuations, essence
from tests.search.strategies.replicas import best_values, fair_trees, optimistic, optimum
from tests.search.trees import Trees, random_trees

FAIR = fair_trees(1)
WALK = SearchConfig(problems=4, prompt_len=1, max_tokens=4, max_steps=4, max_rounds=48, tokens_per_step=1)


def searcher(trees: Trees, strategy: Strategy, **settings: object) -> Searcher:
    return Searcher(trees.decoder, strategy, dataclasses.replace(WALK, **settings), ValueScorer())


@pytest.fixture(scope="module")
def one_by_one() -> Searcher:
    return searcher(FAIR, astar(16, capacity=64))


def over(searcher: Searcher, trees: Trees, problems: list[SearchProblem]) -> list[Found]:
    """The same program over other tables."""
    searcher.params = (trees.decoder.params, searcher.params[1])
    return list(searcher.run(problems))


def problems(n: int) -> list[SearchProblem]:
    return [SearchProblem(i, i % 4) for i in range(n)]


def queue(trees: Trees, tree: int) -> tuple[Text, int]:
    """(answer, nodes popped) of A* over the whole tree with a heap; the first step is free."""
    score = np.clip(trees.value[tree], 1e-6, 1 - 1e-6)
    heap: list[tuple[float, int, float, Text]] = [(0.0, 0, 0.0, ())]
    popped = 0
    while True:
        _, _, g, text = heapq.heappop(heap)
        node = trees.walk(tree, text)
        if (trees.child[tree, node] < 0).all():
            return text, popped
        popped += 1
        for action, child in enumerate(trees.child[tree, node]):
            cost = g + (max(0.0, score[node] - score[child]) if text else 0.0)
            heapq.heappush(heap, (cost + 1 - score[child], -len(text) - 1, cost, (*text, action)))


def test_pops_what_a_priority_queue_pops(one_by_one: Searcher) -> None:
    """Scores before the end are noise, so the search has to come back to nodes that it had left behind."""
    popped = []
    for f in over(one_by_one, FAIR, problems(12)):
        answer, expected = queue(FAIR, f.problem.prompt)
        assert f.answer == answer and f.report["proven"] and f.report["evicted"] == 0
        assert f.report["popped"] == expected
        assert f.cost.generated_tokens == 16 * expected
        popped.append(expected)
    assert max(popped) > FAIR.depth


def test_with_the_best_reachable_score_it_goes_straight_to_the_optimum(one_by_one: Searcher) -> None:
    for f in over(one_by_one, best_values(FAIR), problems(12)):
        assert f.answer == optimum(FAIR, f.problem.prompt)
        assert f.cost.generated_tokens == 16 * FAIR.depth and f.report["popped"] == FAIR.depth


def test_several_pops_at_once_do_not_cost_the_optimum() -> None:
    """Promises that only ever fall make the heuristic consistent; the best text is then that of the least f."""
    trees = optimistic(FAIR, 0)
    for f in searcher(trees, astar(16, pops=3, capacity=96)).run(problems(8)):
        assert f.answer == queue(trees, f.problem.prompt)[0] and f.report["proven"]


def test_with_surprise_as_the_cost_it_finds_the_likeliest_text() -> None:
    trees = fair_trees(2, likely=4.0)
    strategy = astar(24, capacity=64, cost=surprise(), heuristic=lambda view: jnp.zeros_like(view.score))
    for f in searcher(trees, strategy).run(problems(8)):
        found = continuations(trees, f.problem.prompt)
        assert f.answer == max(found, key=found.__getitem__)


@pytest.fixture(scope="module")
def narrow() -> Searcher:
    return searcher(random_trees(4, trees=4), astar(4, pops=2, capacity=10, answers=2))


def test_a_full_frontier_evicts_and_says_so(narrow: Searcher) -> None:
    found = list(narrow.run(problems(8)))
    assert sum(f.report["evicted"] for f in found) > 0
    assert all(f.best is not None and f.candidates[f.best].complete for f in found)


def test_answers_do_not_depend_on_order_or_neighbours(narrow: Searcher) -> None:
    given = problems(10)
    together, backwards = by_number(narrow.run(given)), by_number(narrow.run(reversed(given)))
    assert {n: essence(f) for n, f in together.items()} == {n: essence(f) for n, f in backwards.items()}
    assert essence(next(narrow.run([given[7]]))) == essence(together[7])


def test_a_reserve_turns_the_end_of_the_budget_into_an_answer() -> None:
    """Eight tokens pay for two rounds of four in a tree four deep; from a reserve, one node is written to its end."""
    for f in searcher(FAIR, astar(4, capacity=16, reserve=0.6), budget=Budget(8)).run(problems(4)):
        assert f.answer is not None and len(f.answer) == 4 and f.cost.generated_tokens == 7


def test_bad_settings_are_named() -> None:
    for settings, says in (({"branch": 0}, "branch"), ({"capacity": 4}, "capacity"), ({"reserve": 1.0}, "reserve")):
        with pytest.raises(ConfigError, match=says):
            astar(**settings)
