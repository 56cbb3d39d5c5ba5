"""A race of chains is plain sampling that stops at the m-th end, to the token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.errors import ConfigError
from search.config import SearchConfig
from search.metrics.selection import vote
from search.metrics.stopping import short_race
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.best_of_n import best_of_n
from search.strategies.short_m import short_m
from search.strategies.votes import UNREAD
from tests.search.strategies.enumeration import by_number, essence
from tests.search.trees import random_trees

END, K, M = 0, 8, 3
TREES = random_trees(11, trees=2, actions=3, depth=6)
CONFIG = SearchConfig(problems=8, prompt_len=1, max_tokens=6, max_steps=6, max_rounds=4, ends=(END,), seed=2)
PROBLEMS = [SearchProblem(i, i % 2) for i in range(60)]


def answer_of(tokens: jax.Array, length: jax.Array) -> jax.Array:
    return jnp.where(tokens[0] == 2, UNREAD, 3 * tokens[0] + tokens[1] % 2)


def code(tokens: tuple[int, ...]) -> int:
    second = tokens[1] if len(tokens) > 1 else -1
    return UNREAD if tokens[0] == 2 else 3 * tokens[0] + second % 2


@pytest.fixture(scope="module")
def plain() -> dict[int, Found]:
    return by_number(Searcher(TREES.decoder, best_of_n(K, scored=False), CONFIG).run(PROBLEMS))


@pytest.fixture(scope="module")
def racing() -> Searcher:
    return Searcher(TREES.decoder, short_m(K, M, answer_of), CONFIG)


def test_a_race_stops_at_the_mth_end_and_charges_what_was_written(plain: dict, racing: Searcher) -> None:
    tied = 0
    for f in racing.run(PROBLEMS):
        texts = [c.tokens for c in plain[f.problem.number].candidates]
        race = short_race([len(t) for t in texts], M)
        assert [c.tokens for c in f.candidates] == [t[: int(race.depth)] for t in texts]
        assert (f.cost.generated_tokens, f.cost.depth) == (race.tokens, race.depth)
        codes = np.array([code(texts[i]) for i in race.finished])
        winner = vote(codes)
        assert f.best == (None if winner is None else race.finished[winner])
        voters = {i for i, c in enumerate(f.candidates) if c.weight > 0}
        assert voters == {i for i in race.finished if code(texts[i]) != UNREAD}
        tied += len({len(texts[i]) for i in race.finished}) < M
    assert tied  # chains that end at the same token did occur


def test_answers_do_not_depend_on_order(racing: Searcher) -> None:
    there, back = by_number(racing.run(PROBLEMS[:20])), by_number(racing.run(PROBLEMS[19::-1]))
    assert all(essence(there[i]) == essence(back[i]) for i in range(20))


def test_without_codes_the_shortest_chain_answers_and_m_candidates_are_left_to_the_host(plain: dict) -> None:
    for f in Searcher(TREES.decoder, short_m(K, M), CONFIG).run(PROBLEMS[:16]):
        race = short_race([len(c.tokens) for c in plain[f.problem.number].candidates], M)
        assert f.best == race.finished[0]
        assert {i for i, c in enumerate(f.candidates) if c.weight > 0} == set(race.finished)


def test_m_must_fit() -> None:
    with pytest.raises(ConfigError, match="of 3 chains"):
        short_m(3, 4)
