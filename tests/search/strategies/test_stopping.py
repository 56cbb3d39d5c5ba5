"""Searches stop after the very sample at which the rules for recorded samples do, and answer the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.errors import ConfigError
from search import metrics
from search.config import SearchConfig
from search.metrics.stopping import SETTLED
from search.searcher import Searcher, SearchProblem
from search.strategies.stopping import adaptive_consistency, early_stopping
from search.strategies.strategy import Strategy
from search.strategies.votes import UNREAD
from tests.search.strategies.enumeration import by_number, essence
from tests.search.trees import random_trees

TREES = random_trees(4, trees=3, actions=4, depth=2)
MOST, WINDOW = 11, 3
CONFIG = SearchConfig(problems=8, prompt_len=1, max_tokens=2, max_steps=2, max_rounds=16, tokens_per_step=1, seed=3)
PROBLEMS = [SearchProblem(i, i % 3) for i in range(60)]


def answer_of(tokens: jax.Array, length: jax.Array) -> jax.Array:
    return jnp.where(tokens[0] == 3, UNREAD, tokens[0])


RULES = {
    "esc": (early_stopping(answer_of, WINDOW, MOST), metrics.early_stopping(WINDOW, MOST), WINDOW),
    **{
        name: (adaptive_consistency(answer_of, name, most=MOST), metrics.adaptive_consistency(name, most=MOST), 1)
        for name in ("beta", "share", "entropy")
    },
}


@pytest.mark.parametrize("name", RULES)
def test_a_search_stops_where_the_rule_says(name: str) -> None:
    strategy, rule, batch = RULES[name]
    search, early = Searcher(TREES.decoder, strategy, CONFIG), 0
    found = by_number(search.run(PROBLEMS))
    for f in found.values():
        drawn = int(f.report["samples"])
        texts = [c.tokens for c in f.candidates]
        assert all(texts[:drawn]) and not any(texts[drawn:])
        assert f.cost.generated_tokens == sum(len(t) for t in texts)
        winner, used = rule(np.array([UNREAD if t[0] == 3 else t[0] for t in texts[:drawn]]))
        assert used == drawn == (MOST if drawn == MOST else f.rounds * batch)
        assert f.best == winner
        early += drawn < MOST
    assert 5 < early < len(PROBLEMS) - 1 or name == "entropy"
    shuffled = by_number(search.run(reversed(PROBLEMS[:12])))
    assert all(essence(found[i]) == essence(shuffled[i]) for i in range(12))


def test_a_batch_looks_less_often() -> None:
    strategy: Strategy = adaptive_consistency(answer_of, "beta", most=MOST, batch=4)
    for f in Searcher(TREES.decoder, strategy, CONFIG).run(PROBLEMS[:24]):
        drawn = int(f.report["samples"])
        codes = np.array([UNREAD if c.tokens[0] == 3 else c.tokens[0] for c in f.candidates[:drawn]])
        assert drawn == next(n for n in (4, 8, MOST) if n == MOST or settled(codes[:n]))


def settled(codes: np.ndarray) -> bool:
    counts = np.sort(np.bincount(codes[codes != UNREAD], minlength=2))
    return SETTLED["beta"][0](counts[-1], counts[-2], counts) >= 0.95 - 1e-12


def test_bad_knobs_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'entropy'"):
        adaptive_consistency(answer_of, "entopy")
    with pytest.raises(ConfigError, match="window"):
        early_stopping(answer_of, 9, 5)
    with pytest.raises(ConfigError, match="batch"):
        adaptive_consistency(answer_of, batch=0)
