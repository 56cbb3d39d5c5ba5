"""REBASE shares its width as published, and gives all of it out."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.errors import ConfigError
from search.config import SearchConfig
from search.searcher import Searcher, SearchProblem
from search.strategies.rebase import children, rebase
from search.verifiers.scorer import ValueScorer
from tests.search.recorded import vectors
from tests.search.strategies.enumeration import by_number, essence
from tests.search.trees import random_trees

TREES = random_trees(2)
WALK = SearchConfig(problems=4, prompt_len=1, max_tokens=4, max_steps=4, max_rounds=8, tokens_per_step=1)


def shared(scores: list[float], going: list[bool], width: int, temperature: float) -> tuple[list[int], float]:
    """The published rule in float64, and how near any share came to just above a whole number."""
    counts, near, left = [0] * len(scores), 1.0, width
    order = sorted((i for i in range(len(scores)) if going[i]), key=lambda i: (-scores[i], i))
    powers = {i: math.exp(scores[i] / temperature) for i in order}
    for place, i in enumerate(order):
        share = left * powers[i] / math.fsum(powers[j] for j in order[place:])
        counts[i] = math.ceil(share - 1e-9)
        above = (share - 1e-9) % 1
        near = min(near, above if share - 1e-9 > 0 else 1.0)
        left -= counts[i]
    return counts, near


def test_children_match_the_golden_vectors() -> None:
    for case in vectors("golden_vectors.json")["rebase"]:
        score = jnp.array(case["scores"])
        assert children(score, score > 0, case["width"], case["T"]).tolist() == case["children"]


def test_children_match_the_published_rule() -> None:
    """Scores on a coarse grid, so that many are equal: there sums of float32 would give one child too many."""
    rng, compared = np.random.default_rng(0), 0
    give = jax.jit(children)
    for _ in range(400):
        score = (rng.integers(0, 5, 12) / rng.choice([4, 5, 7])).astype(np.float32)
        going = rng.random(12) < 0.8
        width, temperature = int(rng.integers(1, 40)), float(rng.choice([0.1, 0.2, 1.0]))
        counts = np.asarray(give(score, going, width, temperature))
        expected, near = shared(score.astype(float).tolist(), going.tolist(), width, temperature)
        assert counts.sum() == (width if going.any() else 0) and counts[~going].sum() == 0
        if near > 3e-5:  # above the guard of float32, or exactly whole
            compared += 1
            assert counts.tolist() == expected
    assert compared > 350


@pytest.fixture(scope="module")
def searcher() -> Searcher:
    return Searcher(TREES.decoder, rebase(8), WALK, ValueScorer())


def test_every_leaf_is_one_of_its_width(searcher: Searcher) -> None:
    for f in searcher.run(SearchProblem(i, i % 2) for i in range(8)):
        assert len(f.candidates) == 8 and all(c.complete for c in f.candidates)
        assert f.cost.generated_tokens == 8 * TREES.depth
        assert f.best == int(np.argmax([c.score for c in f.candidates]))
        assert [c.weight for c in f.candidates] == [c.score for c in f.candidates]


def test_answers_do_not_depend_on_order_or_neighbours(searcher: Searcher) -> None:
    given = [SearchProblem(i, i % 2) for i in range(10)]
    together, backwards = by_number(searcher.run(given)), by_number(searcher.run(reversed(given)))
    assert {n: essence(f) for n, f in together.items()} == {n: essence(f) for n, f in backwards.items()}
    assert essence(next(searcher.run([given[7]]))) == essence(together[7])


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        rebase(4, temperature=0.0)
    with pytest.raises(ConfigError, match="samples"):
        rebase(0)
