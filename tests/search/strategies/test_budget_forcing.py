"""Forced thinking writes exactly the texts of its definition, each with its probability."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from models.errors import ConfigError
from search.config import SearchConfig
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.budget_forcing import budget_forcing, forcing
from tests.search.strategies.enumeration import Text, agreement, by_number, essence
from tests.search.trees import random_trees

THINK, FIRST, SECOND, END = 0, 1, 2, 3
LEAST, MOST, WAIT, WAITS, HEADER = 3, 4, (FIRST, SECOND), 1, (SECOND, FIRST)
TREES = random_trees(8, trees=1, actions=4, depth=7)
CONFIG = SearchConfig(problems=16, prompt_len=1, max_tokens=7, max_steps=7, max_rounds=2, ends=(END,), seed=4)
SAMPLES = 16


def forced_texts(text: Text = (), queue: Text = (), used: int = 0, closed: bool = False) -> dict[Text, float]:
    """Probability of every text under the rules of s1, one token after the other."""
    node = TREES.walk(0, text)
    if TREES.child[0, node, 0] < 0 or (text and text[-1] == END):
        return {text: 1.0}
    if not closed and len(text) >= MOST:
        return forced_texts((*text, THINK), HEADER, used, True)
    if queue:
        return forced_texts((*text, queue[0]), queue[1:], used, closed)
    found: dict[Text, float] = {}
    for token in range(4):
        if token == THINK and not closed and len(text) < LEAST and used < WAITS:
            after = forced_texts((*text, WAIT[0]), WAIT[1:], used + 1, closed)
        else:
            after = forced_texts((*text, token), (), used, closed or token == THINK)
        p = float(np.exp(TREES.log_prob[0, node, token]))
        for whole, q in after.items():
            found[whole] = found.get(whole, 0.0) + p * q
    return found


@pytest.fixture(scope="module")
def search() -> Searcher:
    strategy = budget_forcing(
        SAMPLES, THINK, least=LEAST, most=MOST, wait=WAIT, waits=WAITS, header=HEADER, scored=False
    )
    return Searcher(TREES.decoder, strategy, CONFIG)


@pytest.fixture(scope="module")
def found(search: Searcher) -> list[Found]:
    return list(search.run(SearchProblem(i, 0) for i in range(128)))


def test_texts_have_the_distribution_of_the_rules(found: list[Found]) -> None:
    exact = forced_texts()
    assert sum(exact.values()) == pytest.approx(1)
    assert agreement((c.tokens for f in found for c in f.candidates), exact) > 1e-3


def test_thinking_never_outlasts_its_budget(found: list[Found]) -> None:
    for c in (c for f in found for c in f.candidates):
        if THINK not in c.tokens:
            assert END in c.tokens and len(c.tokens) <= MOST
        else:
            assert c.tokens.index(THINK) <= MOST


def test_what_is_forced_is_charged_as_read(found: list[Found]) -> None:
    assert sum(f.cost.prompt_tokens for f in found) > 0
    for f in found:
        written = sum(len(c.tokens) for c in f.candidates)
        assert f.cost.prompt_tokens + f.cost.generated_tokens == written


def test_answers_do_not_depend_on_order(found: list[Found], search: Searcher) -> None:
    back = by_number(search.run(SearchProblem(i, 0) for i in reversed(range(20))))
    there = by_number(found)
    assert all(essence(there[i]) == essence(back[i]) for i in range(20))


def test_without_limits_nothing_is_forced() -> None:
    control = forcing(THINK)
    for token in range(4):
        for length in (0, 5, 500):
            assert int(control(jnp.int32(token), jnp.int32(length), jnp.int32(0))[0]) == token


def test_bad_knobs_are_refused() -> None:
    with pytest.raises(ConfigError, match="is empty"):
        forcing(THINK, least=4)
    with pytest.raises(ConfigError, match="below the least"):
        forcing(THINK, least=4, most=3, wait=WAIT)
    with pytest.raises(ConfigError, match="holds the end"):
        forcing(THINK, least=4, wait=(THINK,))
