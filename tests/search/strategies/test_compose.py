"""Compositions: types are checked before anything runs, costs add up, and a search never exceeds its budget."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models.errors import ConfigError
from search.config import Budget, SearchConfig
from search.ledger import Cost
from search.searcher import Searcher, SearchProblem
from search.strategies.best_of_n import best_of_n
from search.strategies.compose import (
    Component,
    Composition,
    Proposal,
    compositions,
    generate,
    grow,
    random_search,
    rank,
    successive_halving,
    tokens_of,
    unit_test,
    verify,
    vote,
    written_by,
)
from search.verifiers.scorer import ValueScorer
from tests.search.trees import random_trees

DEPTH, N = 4, 6
TREES = random_trees(41, trees=3, actions=3, depth=DEPTH)
TREES = dataclasses.replace(TREES, value=np.random.default_rng(3).uniform(0.05, 0.95, TREES.value.shape))
CONFIG = SearchConfig(
    problems=2, prompt_len=1, max_tokens=DEPTH, max_steps=DEPTH, max_rounds=4, tokens_per_step=1,
    budget=Budget(N * DEPTH), seed=10,
)  # fmt: skip
PROBLEMS = [SearchProblem(i, i % 2, i % 2) for i in range(24)]


@pytest.fixture(scope="module")
def searcher() -> Searcher:
    return Searcher(TREES.decoder, best_of_n(N), CONFIG, ValueScorer())


def right(problem: SearchProblem, proposal: Proposal | None) -> bool:
    return proposal is not None and bool(TREES.reward[problem.payload, TREES.walk(problem.payload, proposal.tokens)])


def first_token(tokens: tuple[int, ...]) -> int:
    return tokens[0]


def test_a_composition_does_what_its_components_do_one_after_the_other(searcher: Searcher) -> None:
    parts = (generate(searcher), verify(right, DEPTH), rank(3), vote(first_token))
    composition = Composition(parts)
    assert composition.name == "generate_best_of_n > verify > rank_3 > majority"
    assert composition.most == N * DEPTH + N * DEPTH
    accepted_some = 0
    for problem in PROBLEMS:
        found = next(searcher.run([problem]))
        texts = [(c.score, -i, c.tokens) for i, c in enumerate(found.candidates)]
        accepted = [t for t in texts if right(problem, Proposal(t[2]))] or texts
        best = [t[2] for t in sorted(accepted, key=lambda t: t[:2], reverse=True)[:3]]
        firsts = [t[0] for t in best]
        expected = next(t for t in best if firsts.count(t[0]) == max(map(firsts.count, firsts)))
        answer, cost = composition.run(problem)
        assert answer is not None and answer.tokens == expected
        assert tokens_of(cost) == 2 * N * DEPTH == composition.most
        accepted_some += len(accepted) < N
    assert accepted_some > 5


def test_a_policy_criticises_each_candidate_and_fuses_all(searcher: Searcher) -> None:
    """The third tree is the critic's and the fuser's."""
    seen: list[int] = []

    def prompt(problem: SearchProblem, group: object) -> int:
        assert isinstance(group, list)
        seen.append(len(group))
        return 2

    critic, fuser = written_by(searcher, "critique", prompt), written_by(searcher, "fuse", prompt)
    composition = Composition((generate(searcher), rank(2), critic, fuser))
    answer, cost = composition.run(PROBLEMS[0])
    alone = next(searcher.run([SearchProblem(0, 2)]))
    assert answer is not None and answer.tokens == alone.answer
    assert seen == [1, 1, 2]
    assert tokens_of(cost) == composition.most == 4 * N * DEPTH  # one generation, two critiques, one fusion
    assert cost.depth == 4 * DEPTH
    proposals, _ = critic.run(PROBLEMS[0], [Proposal((0,)), Proposal((1,))])
    assert [p.critiques for p in proposals] == [(alone.answer,)] * 2


def fixed(name: str, kind: str, gives: int, most: int = 0, reward: float = 0.0) -> Component:
    """A component whose answer says which one it was."""

    def run(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        made = [Proposal((problem.number,), reward)] * gives if kind == "generate" else before[:gives]
        return made, Cost(generated_tokens=most)

    return Component(name, kind, run, lambda n: most, lambda n: gives)  # type: ignore[arg-type]


def test_types_that_do_not_fit_are_refused_before_anything_runs(searcher: Searcher) -> None:
    for parts, problem in (
        ((), "is empty"),
        ((rank(1),), "begins with rank"),
        ((generate(searcher), generate(searcher), rank(1)), "generates again"),
        ((generate(searcher), rank(2)), "ends with up to 2"),
    ):
        with pytest.raises(ConfigError, match=problem):
            Composition(parts)
    with pytest.raises(ConfigError, match="component.kind"):
        fixed("x", "refine", 1)
    unbounded = Searcher(TREES.decoder, best_of_n(N), dataclasses.replace(CONFIG, budget=None), ValueScorer())
    with pytest.raises(ConfigError, match="budget in tokens"):
        generate(unbounded)


def test_the_space_holds_every_chain_that_fits() -> None:
    one, many = fixed("one", "generate", 1), fixed("many", "generate", 4)
    found = compositions([[one, many], [None, rank(2)], [None, rank(1), vote(first_token)]])
    names = {c.name for c in found}
    assert len(found) == len(names) == 2 * 2 * 3 - 2  # many alone, and many > rank_2, leave several
    assert "many" not in names and "many > rank_2" not in names and "one" in names


ARMS = [Composition((fixed(f"arm{i}", "generate", 1, 10, r),)) for i, r in enumerate((0.2, 0.5, 0.9, 0.4))]


def noisy(problem: SearchProblem, answer: Proposal | None) -> float:
    """The arm's own reward and noise that depends on the problem alone."""
    assert answer is not None
    return answer.score + float(np.random.default_rng(problem.number).normal(0, 0.01))


def test_successive_halving_finds_the_best_arm_and_pays_only_for_new_problems() -> None:
    chosen = successive_halving(ARMS, PROBLEMS[:8], noisy, budget=10**6, first=2)
    assert chosen.best.composition is ARMS[2]
    # 4 arms x 2 problems, 2 arms x 2 more, 1 arm is left
    assert [len(t.rewards) for t in chosen.trials] == [2, 4, 4, 2]
    assert tokens_of(chosen.ledger.total) == 10 * (2 + 4 + 4 + 2)
    assert not chosen.exhausted


@pytest.mark.parametrize("budget", [10, 45, 85, 119, 120])
def test_no_budget_is_exceeded(budget: int) -> None:
    halving = successive_halving(ARMS, PROBLEMS[:8], noisy, budget, first=2)
    tried = random_search(ARMS, PROBLEMS[:3], noisy, budget)
    for chosen in (halving, tried):
        assert tokens_of(chosen.ledger.total) <= budget
        assert tokens_of(chosen.ledger.total) > budget - 10 or not chosen.exhausted
    if budget >= 80:
        assert halving.best.composition is ARMS[2]
    assert halving.exhausted == (budget < 120)
    assert tried.exhausted == (budget < 120)


def test_random_search_tries_in_a_random_order_and_keeps_the_best() -> None:
    chosen = random_search(ARMS, PROBLEMS[:3], noisy, budget=10**6, seed=1)
    assert chosen.best.composition is ARMS[2] and len(chosen.trials) == 4
    orders = {
        tuple(t.composition.name for t in random_search(ARMS, PROBLEMS[:1], noisy, 10**6, s).trials) for s in range(8)
    }
    assert len(orders) > 3
    again = random_search(ARMS, PROBLEMS[:3], noisy, budget=10**6, seed=1)
    assert [t.rewards for t in again.trials] == [t.rewards for t in chosen.trials]


def test_a_policy_writes_every_candidate_anew_with_the_critiques_it_got(searcher: Searcher) -> None:
    seen: list[tuple] = []

    def prompt(problem: SearchProblem, group: object) -> int:
        assert isinstance(group, list)
        seen.extend((p.tokens, len(p.critiques)) for p in group)
        return 2

    critic, reviser = written_by(searcher, "critique", prompt), written_by(searcher, "revise", prompt)
    composition = Composition((generate(searcher), rank(2), critic, reviser, rank(1)))
    first = [p.tokens for p in rank(2).run(PROBLEMS[0], generate(searcher).run(PROBLEMS[0], [])[0])[0]]
    answer, cost = composition.run(PROBLEMS[0])
    alone = next(searcher.run([SearchProblem(0, 2)]))
    assert answer is not None and answer.tokens == alone.answer and answer.critiques == ()
    assert seen == [(tokens, n) for n in (0, 1) for tokens in first]
    assert tokens_of(cost) == composition.most == 5 * N * DEPTH


def test_candidates_are_run_on_tests_and_scored_by_the_share_that_they_pass() -> None:
    ran: list[tuple[int, int]] = []

    def tests(problem: SearchProblem) -> tuple[list[int], Cost]:
        return [2, 3, 5][: problem.number], Cost(generated_tokens=4 * problem.number)

    def passes(problem: SearchProblem, proposal: Proposal, test: int) -> bool:
        ran.append((proposal.tokens[0], test))
        return proposal.tokens[0] % test == 0

    component = unit_test(tests, passes, most=12)
    before = [Proposal((n,), 0.9) for n in (7, 4, 6, 30)]
    after, cost = component.run(SearchProblem(3, 0), before)
    assert [p.score for p in after] == [0, 1 / 3, 2 / 3, 1] and [p.tokens for p in after] == [p.tokens for p in before]
    assert ran == [(n, test) for n in (7, 4, 6, 30) for test in (2, 3, 5)]
    assert tokens_of(cost) == component.most(4) == component.most(1) == 12
    assert component.run(SearchProblem(0, 0), before) == (before, Cost())
    assert rank(1).run(SearchProblem(3, 0), after)[0][0].tokens == (30,)


def layer(name: str, gain: float, each: int) -> Component:
    """Adds to every candidate's score, once, for so many tokens each."""

    def run(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        mine = (each,)
        after = [Proposal(p.tokens, p.score + gain * (mine not in p.critiques), critiques=(mine,)) for p in before]
        return after, Cost(generated_tokens=each * len(before))

    return Component(name, "revise", run, lambda n: n * each, lambda n: n)


def several(count: int) -> Component:
    """Candidates, the last of which is the best, and the better the more there are."""

    def run(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        return [Proposal((i,), i / 10) for i in range(count)], Cost(generated_tokens=10 * count)

    return Component(f"several_{count}", "generate", run, lambda n: 10 * count, lambda n: n + count)


GENERATORS = [several(count) for count in range(1, 9)]
LAYERS = [layer("dear", 0.25, 10), layer("cheap", 0.15, 2), layer("useless", 0.0, 0), rank(2)]
ENDS = [vote(first_token), rank(1)]


def test_a_stack_grows_by_the_best_layer_at_equal_cost_until_none_helps() -> None:
    """At 80 tokens: eight candidates alone are worth .7; with `dear` it is four, at .3 + .25; with `cheap` six, at .5 +
    .15, or .5 + .3 where it is better."""
    grown = grow(GENERATORS, LAYERS, ENDS, PROBLEMS[:3], noisy, budget=10**6, most=80)
    assert grown.best.composition.name == "several_8 > rank_1"  # no layer alone is worth its candidates
    better = [*LAYERS[:1], layer("cheap", 0.3, 2), *LAYERS[2:]]
    grown = grow(GENERATORS, better, ENDS, PROBLEMS[:3], noisy, budget=10**6, most=80, depth=2)
    names = [t.composition.name for t in grown.trials]
    assert names[:3] == ["several_8 > majority", "several_8 > rank_1", "several_4 > dear > majority"]
    # .7, then .5 + .3 with six, then .6 + .3 with seven of which two go on: a layer may come before another
    assert grown.best.composition.name == "several_7 > rank_2 > cheap > majority" and len(names) == 2 + 8 + 14
    assert grown.best.mean == pytest.approx(0.9, abs=0.02)
    assert all(t.composition.most <= 80 for t in grown.trials)
    shallow = grow(GENERATORS, better, ENDS, PROBLEMS[:3], noisy, budget=10**6, most=80, depth=0)
    assert shallow.best.composition.name == "several_8 > rank_1" and len(shallow.trials) == 2


def test_a_stack_keeps_what_it_measured_when_its_budget_ends() -> None:
    whole = grow(GENERATORS, LAYERS, ENDS, PROBLEMS[:3], noisy, budget=10**6, most=80)
    cut = grow(GENERATORS, LAYERS, ENDS, PROBLEMS[:3], noisy, budget=500, most=80)
    assert cut.exhausted and not whole.exhausted and tokens_of(cut.ledger.total) <= 500
    assert cut.best.composition.name == "several_8 > rank_1"
    with pytest.raises(ConfigError, match="pays for no composition"):
        grow(GENERATORS, LAYERS, ENDS, PROBLEMS[:3], noisy, budget=10**6, most=9)


def test_a_budget_that_pays_for_nothing_is_refused() -> None:
    for search in (random_search, successive_halving):
        with pytest.raises(ConfigError, match="pays for no problem"):
            search(ARMS, PROBLEMS, noisy, 9)


def test_real_arms_do_not_depend_on_the_order_of_problems(searcher: Searcher) -> None:
    space = compositions([[generate(searcher)], [None, verify(right, DEPTH)], [rank(1), vote(first_token)]])

    def reward(problem: SearchProblem, answer: Proposal | None) -> float:
        return float(right(problem, answer))

    there = random_search(space, PROBLEMS[:10], reward, budget=10**6)
    back = random_search(space, PROBLEMS[9::-1], reward, budget=10**6)
    assert [dict(t.rewards) for t in there.trials] == [dict(t.rewards) for t in back.trials]
    assert "verify" in there.best.composition.name  # with a perfect verifier, any rule after it is right
    exact = np.mean(
        [any(right(p, Proposal(c.tokens)) for c in next(searcher.run([p])).candidates) for p in PROBLEMS[:10]]
    )
    assert there.best.mean == exact
