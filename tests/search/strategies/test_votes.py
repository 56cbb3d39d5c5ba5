"""Votes on the device and on the host are those of the definition."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from search.config import SearchConfig
from search.searcher import Searcher, SearchProblem
from search.strategies.best_of_n import best_of_n
from search.strategies.votes import UNREAD, by_vote, elect, leader, totals, whole
from search.verifiers.scorer import ValueScorer
from tests.search import recorded
from tests.search.trees import random_trees

TREES = random_trees(3)
TREES = dataclasses.replace(TREES, value=np.random.default_rng(0).uniform(0.1, 0.9, TREES.value.shape))
N = 12


def by_definition(answers: list[int], weights: list[float]) -> int:
    """The first voter whose answer's exact total is the largest."""
    got: dict[int, float] = defaultdict(float)
    for answer, weight in zip(answers, weights):
        if answer != UNREAD and weight > 0:
            got[answer] += weight
    if not got:
        return -1
    return next(  # up to the rounding of a sum in float64
        i
        for i, (a, w) in enumerate(zip(answers, weights))
        if w > 0 and a != UNREAD and got[a] > max(got.values()) - 1e-9
    )


device_leader = jax.jit(leader)


def test_votes_are_those_of_the_golden_vectors() -> None:
    golden = recorded.vectors("golden_vectors.json")["weighted_vote"]
    answers, scores = golden["answers"], golden["scores"]
    majority, weighted = elect(answers), elect(answers, scores)
    assert majority is not None and weighted is not None
    assert majority.answer == golden["majority_first_seen"]
    assert weighted.answer == golden["weighted_sum"]
    codes = jnp.asarray([ord(a) for a in answers])
    assert answers[int(leader(codes, jnp.ones(5)))] == golden["majority_first_seen"]
    assert answers[int(leader(codes, jnp.asarray(scores)))] == golden["weighted_sum"]
    assert answers[int(np.argmax(scores))] == golden["best_of_n"]


@given(
    st.lists(st.integers(-1, 4), min_size=N, max_size=N),
    st.lists(st.integers(0, 8), min_size=N, max_size=N),
)
@settings(max_examples=60, deadline=None)
def test_the_leader_is_the_first_of_the_largest_total(answers: list[int], eighths: list[int]) -> None:
    weights = [w / 8 for w in eighths]  # sums of eighths are exact in float32
    expected = by_definition(answers, weights)
    assert int(device_leader(jnp.asarray(answers), jnp.asarray(weights, jnp.float32))) == expected
    elected = elect([None if a == UNREAD else a for a in answers], weights)
    assert (-1 if elected is None else elected.candidate) == expected


def test_empty_and_unread_answers_never_win() -> None:
    assert elect(["", None, "", "b"], [5.0, 9.0, 5.0, 0.1]) == ("b", 1.0, 3)
    assert elect(["", None]) is None
    assert float(totals(jnp.asarray([UNREAD, UNREAD, 7]), jnp.asarray([1.0, 1.0, 0.5]))[0]) == 0


def test_the_whole_text_is_an_answer_by_its_tokens_and_their_order() -> None:
    def code(*tokens: int) -> int:
        return int(whole(jnp.asarray([*tokens, *[-1] * (4 - len(tokens))]), jnp.int32(len(tokens))))

    assert len({code(a, b, c) for a in range(9) for b in range(9) for c in range(9)}) == 9**3
    assert code(1, 2) != code(2, 1)


def test_a_search_is_answered_by_the_vote_of_its_candidates() -> None:
    config = SearchConfig(problems=8, prompt_len=1, max_tokens=4, max_steps=4, max_rounds=2, tokens_per_step=1)

    def first_two(tokens: jax.Array, length: jax.Array) -> jax.Array:
        return jnp.where(tokens[0] == 2, UNREAD, 3 * tokens[0] + tokens[1])

    for weighted in (False, True):
        search = Searcher(TREES.decoder, by_vote(best_of_n(N), first_two, weighted), config, ValueScorer())
        for f in search.run(SearchProblem(i, i % 2) for i in range(12)):
            texts = [c.tokens for c in f.candidates]
            answers = [UNREAD if t[0] == 2 else 3 * t[0] + t[1] for t in texts]
            weights = [c.score if weighted else 1.0 for c in f.candidates]
            expected = by_definition(answers, weights)
            assert (-1 if f.best is None else f.best) == expected
