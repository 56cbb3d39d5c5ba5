"""Solutions follow the combinations of what was observed, each text with its probability; and ideas are told apart."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from models.errors import ConfigError
from search.config import SearchConfig
from search.metrics import idea_diversity
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.plan_search import plan_search, subsets
from search.verifiers.scorer import ValueScorer
from tests.search.strategies.enumeration import Text, agreement, by_number, continuations, essence
from tests.search.trees import random_trees

OBSERVE, CLOSE, SOLVE, END = 0, 1, 2, 3
LOOKS, MOST, LONG = 3, 2, 6
TREES = random_trees(5, trees=1, actions=4, depth=LONG)
CONFIG = SearchConfig(
    problems=16, prompt_len=1, max_tokens=LONG, max_steps=LONG, max_rounds=3, delimiters=(CLOSE,), ends=(END,), seed=2
)
PLANS = [one for size in range(MOST + 1) for one in combinations(range(LOOKS), size)]


@pytest.fixture(scope="module")
def search() -> Searcher:
    return Searcher(TREES.decoder, plan_search(LOOKS, OBSERVE, CLOSE, SOLVE, LONG, most=MOST), CONFIG, ValueScorer())


@pytest.fixture(scope="module")
def found(search: Searcher) -> list[Found]:
    return list(search.run(SearchProblem(i, 0) for i in range(160)))


def begun(f: Found) -> list[Text | None]:
    """What each plan's solution is made to read first; None for a plan that cannot be."""
    looks = [c.tokens for c in f.candidates[:LOOKS]]
    new = [text[-1] == CLOSE and text not in looks[:i] for i, text in enumerate(looks)]
    return [(*sum((looks[i] for i in plan), ()), SOLVE) if all(new[i] for i in plan) else None for plan in PLANS]


def test_every_plan_is_read_and_solved_once(found: list[Found]) -> None:
    plans = []
    for f in found:
        looks, solutions, expected = f.candidates[:LOOKS], f.candidates[LOOKS:], begun(f)
        assert len(solutions) == len(PLANS) == 7
        for solution, begin in zip(solutions, expected, strict=True):
            assert solution.tokens[: len(begin)] == begin[:LONG] if begin is not None else solution.tokens == ()
        read = LOOKS + sum(min(len(begin), LONG) for begin in expected if begin is not None)
        assert f.cost.prompt_tokens == read
        assert f.cost.generated_tokens == sum(len(c.tokens) for c in f.candidates) - read
        there = [i for i, solution in enumerate(solutions) if solution.complete]
        assert f.best == LOOKS + max(there, key=lambda i: (solutions[i].score, -i))
        assert all(c.weight == 0 for c in looks) and {solutions[i].weight > 0 for i in there} == {True}
        new = {c.tokens for c in looks if c.tokens[-1] == CLOSE}
        assert f.report == {"observations": len(new), "plans": sum(begin is not None for begin in expected)}
        plans.append(f.report["plans"])
    assert {1, 2, 4, 7} == set(plans)


def test_texts_have_the_probabilities_of_the_policy(found: list[Found]) -> None:
    looks = continuations(TREES, 0, (OBSERVE,), (CLOSE, END))
    assert agreement((c.tokens for f in found for c in f.candidates[:LOOKS]), looks) > 1e-3
    solved: dict[Text, list[Text]] = {}
    for f in found:
        for begin, c in zip(begun(f), f.candidates[LOOKS:], strict=True):
            if begin is not None:
                solved.setdefault(begin, []).append(c.tokens)
    often = Counter({begin: len(texts) for begin, texts in solved.items() if len(begin) < LONG}).most_common(3)
    assert len({len(begin) for begin, _ in often}) > 1
    for begin, _ in often:
        assert agreement(solved[begin], continuations(TREES, 0, begin, (END,))) > 1e-3


def test_answers_do_not_depend_on_order(found: list[Found], search: Searcher) -> None:
    back = by_number(search.run(SearchProblem(i, 0) for i in reversed(range(20))))
    there = by_number(found)
    assert all(essence(there[i]) == essence(back[i]) for i in range(20))


def test_plans_are_all_small_combinations() -> None:
    assert subsets(2, 2).tolist() == [[False, False], [True, False], [False, True], [True, True]]
    assert len(subsets(5, 3)) == 1 + 5 + 10 + 10 and subsets(4, 0).tolist() == [[False] * 4]


def test_diversity_is_the_share_of_pairs_that_differ() -> None:
    rng = np.random.default_rng(0)
    for size in (2, 3, 7, 12):
        ideas = [None if idea == 0 else "abc"[idea - 1] for idea in rng.integers(4, size=size)]
        pairs = [a != b for a, b in combinations([idea for idea in ideas if idea is not None], 2)]
        assert idea_diversity(ideas) == pytest.approx(np.mean(pairs)) if pairs else math.isnan(idea_diversity(ideas))
    assert idea_diversity("aaaa") == 0 and idea_diversity("abcd") == 1 and math.isnan(idea_diversity([None, "a"]))


def test_bad_knobs_are_refused() -> None:
    with pytest.raises(ConfigError, match="repeat a token"):
        plan_search(2, OBSERVE, CLOSE, CLOSE, LONG)
    with pytest.raises(ConfigError, match="most: is 3: use 0 to 2"):
        plan_search(2, OBSERVE, CLOSE, SOLVE, LONG, most=3)
