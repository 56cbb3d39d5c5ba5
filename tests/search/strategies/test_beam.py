"""Beam search and diverse verifier tree search: what they keep, and what they are equal to."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from search.config import SearchConfig
from search.searcher import Searcher, SearchProblem
from search.strategies.beam import beam, dvts
from search.strategies.best_of_n import best_of_n
from search.strategies.strategy import View
from search.verifiers.scorer import ValueScorer
from tests.search.strategies.enumeration import by_number, essence
from tests.search.strategies.replicas import best_values, fair_trees, optimum
from tests.search.trees import random_trees

FAIR = fair_trees(0)
TREES = random_trees(3)
WALK = SearchConfig(problems=4, prompt_len=1, max_tokens=4, max_steps=4, max_rounds=8, tokens_per_step=1)


def view(score: np.ndarray, ended: np.ndarray, round: int = 1) -> View:
    """Particles of which nothing else matters."""
    n, one = len(score), jnp.ones(len(score), jnp.int32)
    table = jnp.zeros((n, 2))
    return View(
        table.astype(jnp.int32), one, one, table[:, 0], jnp.array(ended), jnp.array(ended), jnp.array(score), table,
        table.astype(jnp.int32), one, jnp.int32(round), jnp.float32(1), table, jnp.bool_(False),
    )  # fmt: skip


def scores(seed: int) -> np.ndarray:
    """With ties."""
    return np.random.default_rng(seed).integers(1, 6, 12).astype(np.float32) / 8


@pytest.mark.parametrize("seed", range(5))
def test_beam_clones_the_best_of_all(seed: int) -> None:
    """Ties: the lower index. One that has ended is kept once, and the best that can go on has its other places."""
    score, strategy = scores(seed), beam(12, 4)
    best = sorted(range(12), key=lambda i: (-score[i], i))[:3]
    choice, _ = strategy.select(None, (), view(score, np.zeros(12, bool)))
    assert choice.parents.tolist() == [i for i in best for _ in range(4)] and choice.live.all()
    ended = np.zeros(12, bool)
    ended[best[0]] = True
    choice, _ = strategy.select(None, (), view(score, ended))
    assert choice.parents.tolist() == [best[0]] + [best[1]] * 7 + [best[2]] * 4
    assert choice.live.tolist() == [False] + [True] * 11 and not choice.done
    ended[best] = True
    assert strategy.select(None, (), view(score, ended))[0].done


@pytest.mark.parametrize("seed", range(5))
def test_dvts_keeps_the_best_of_every_subtree(seed: int) -> None:
    score, strategy = scores(seed), dvts(12, 4)
    best = [max(range(j, j + 4), key=lambda i: (score[i], -i)) for j in (0, 4, 8)]
    choice, _ = strategy.select(None, (), view(score, np.zeros(12, bool)))
    assert choice.parents.tolist() == [i for i in best for _ in range(4)] and choice.live.all()
    ended = np.zeros(12, bool)
    ended[best[1]] = True
    choice, _ = strategy.select(None, (), view(score, ended))
    assert choice.parents.tolist() == [best[0]] * 4 + [4, 5, 6, 7] + [best[2]] * 4
    assert choice.live.tolist() == [True] * 4 + [False] * 4 + [True] * 4


def test_dvts_of_width_one_is_best_of_n_token_for_token() -> None:
    given = [SearchProblem(i, i % 2) for i in range(12)]
    independent = by_number(Searcher(TREES.decoder, best_of_n(6), WALK, ValueScorer()).run(given))
    searcher = Searcher(TREES.decoder, dvts(6, 1), WALK, ValueScorer())
    together, backwards = by_number(searcher.run(given)), by_number(searcher.run(reversed(given)))
    assert {n: essence(f) for n, f in together.items()} == {n: essence(f) for n, f in backwards.items()}
    for f in together.values():
        other = independent[f.problem.number]
        assert f.candidates == other.candidates and f.best == other.best
        assert f.cost.generated_tokens == other.cost.generated_tokens and f.cost.discarded_tokens == 0


def test_beam_with_the_best_reachable_score_finds_the_optimum() -> None:
    """Whatever the order of the problems, which changes nothing else either."""
    searcher = Searcher(best_values(FAIR).decoder, beam(32, 16), WALK, ValueScorer())
    given = [SearchProblem(i, i % 4) for i in range(10)]
    together, backwards = by_number(searcher.run(given)), by_number(searcher.run(reversed(given)))
    assert {n: essence(f) for n, f in together.items()} == {n: essence(f) for n, f in backwards.items()}
    for f in together.values():
        assert f.answer == optimum(FAIR, f.problem.prompt)


def test_lookahead_scores_the_greedy_continuation() -> None:
    """After one round every particle is one token long and has the score of the leaf that greedy steps lead to."""
    config = SearchConfig(**{**vars(WALK), "max_rounds": 1})
    for f in Searcher(TREES.decoder, beam(4, 2, lookahead=TREES.depth), config, ValueScorer()).run(
        [SearchProblem(0, 1)]
    ):
        for candidate in f.candidates:
            node = TREES.walk(1, candidate.tokens)
            while TREES.child[1, node, 0] >= 0:
                node = TREES.child[1, node, int(np.argmax(TREES.log_prob[1, node]))]
            assert len(candidate.tokens) == 1
            assert candidate.score == pytest.approx(np.clip(TREES.reward[1, node], 1e-6, 1 - 1e-6))
        assert f.cost.generated_tokens == 4 * TREES.depth and f.cost.discarded_tokens == 4 * (TREES.depth - 1)
