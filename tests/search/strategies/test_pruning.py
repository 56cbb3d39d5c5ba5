"""Pruned searches are plain sampling minus what the rule stops, at the token at which it does."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError
from search.config import SearchConfig
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.best_of_n import best_of_n
from search.strategies.pruning import ConfidenceScorer, confident_vote, kept, pruning, restarts
from search.verifiers.scorer import ValueScorer
from tests.search.strategies.enumeration import Text, by_number, essence
from tests.search.trees import random_trees

END, N, DEPTH = 0, 8, 5
TREES = random_trees(13, trees=2, actions=3, depth=DEPTH)
TREES = dataclasses.replace(TREES, value=np.random.default_rng(1).uniform(0.05, 0.95, TREES.value.shape))
CONFIG = SearchConfig(
    problems=8, prompt_len=1, max_tokens=DEPTH, max_steps=DEPTH, max_rounds=2 * DEPTH + 2, tokens_per_step=1,
    ends=(END,), seed=8,
)  # fmt: skip
PROBLEMS = [SearchProblem(i, i % 2) for i in range(40)]
keep = jax.jit(kept, static_argnums=2)


@pytest.fixture(scope="module")
def plain() -> dict[int, Found]:
    return by_number(Searcher(TREES.decoder, best_of_n(N, scored=False), CONFIG).run(PROBLEMS))


def value(tree: int, text: Text) -> float:
    return float(TREES.value[tree, TREES.walk(tree, text)])


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=7, max_size=7), st.sampled_from([0.25, 0.5, 0.75])
)
@settings(max_examples=60, deadline=None)
def test_the_worst_share_is_dropped(rows: list[tuple[int, bool]], drop: float) -> None:
    going = [i for i, (_, g) in enumerate(rows) if g]
    stay = sorted(going, key=lambda i: (-rows[i][0], i))[: len(going) - int(len(going) * drop)]
    got = keep(jnp.asarray([r[0] for r in rows]) / 10, jnp.asarray([r[1] for r in rows]), drop)
    assert set(np.flatnonzero(got)) == set(stay)


def test_dropped_samples_stop_at_the_checkpoint(plain: dict) -> None:
    checkpoints, drop = (1, 3), 0.5
    search = Searcher(TREES.decoder, pruning(N, checkpoints, drop), CONFIG, ValueScorer())
    found = by_number(search.run(PROBLEMS))
    for number, f in found.items():
        tree, texts = number % 2, [c.tokens for c in plain[number].candidates]
        expected, alive = list(texts), set(range(N))
        for at in checkpoints:
            going = [i for i in alive if len(texts[i]) > at]
            ranked = sorted(going, key=lambda i: (-np.float32(value(tree, texts[i][:at])), i))
            for i in ranked[len(going) - int(len(going) * drop) :]:
                expected[i] = texts[i][:at]
                alive.remove(i)
        assert [c.tokens for c in f.candidates] == expected
        assert f.cost.generated_tokens == sum(len(t) for t in expected)
        assert f.best == max(alive, key=lambda i: (np.float32(value(tree, texts[i])), -i))
    back = by_number(search.run(reversed(PROBLEMS[:12])))
    assert all(essence(found[i]) == essence(back[i]) for i in range(12))


def test_batches_double_until_one_is_good_enough() -> None:
    threshold, stopped = 0.85, set()
    for f in Searcher(TREES.decoder, restarts(10, threshold), CONFIG, ValueScorer()).run(PROBLEMS):
        drawn = int(f.report["samples"])
        good = [c.complete and c.score >= threshold for c in f.candidates]
        expected = next((n for n in (1, 3, 7) if any(good[:n])), 10)
        assert drawn == expected
        assert not any(c.tokens for c in f.candidates[drawn:])
        stopped.add(drawn)
    assert len(stopped) >= 3


def confidences(tree: int, text: Text) -> list[float]:
    """-mean log p of the two likeliest tokens after every token; 0 where nothing follows."""
    found = []
    for t in range(1, len(text) + 1):
        node = TREES.walk(tree, text[:t])
        top = np.sort(TREES.log_prob[tree, node])[::-1][:2]
        found.append(float(np.clip(-top.mean(), 1e-6, None)) if TREES.child[tree, node, 0] >= 0 else 1e-6)
    return found


def windows(values: list[float], window: int) -> list[float]:
    return [float(np.mean(values[max(0, i - window) : i])) for i in range(min(window, len(values)), len(values) + 1)]


def test_unsure_samples_stop_and_the_rest_votes(plain: dict) -> None:
    """DeepConf by its definition: a threshold from the first samples, then every window against it."""

    def answer_of(tokens: jax.Array, length: jax.Array) -> jax.Array:
        return tokens[0]

    warm, window, percentile, pruned = 3, 2, 50.0, 0
    strategy = confident_vote(N, answer_of, warm_up=warm, percentile=percentile, window=window, consensus=1.1)
    search = Searcher(TREES.decoder, strategy, CONFIG, ConfidenceScorer(2))
    found = by_number(search.run(PROBLEMS))
    for number, f in found.items():
        tree, texts = number % 2, [c.tokens for c in plain[number].candidates]
        sure = [confidences(tree, t) for t in texts]
        lowest = [min(windows(s, window)) for s in sure]
        threshold = float(np.percentile(lowest[:warm], percentile))
        assert f.report["threshold"] == pytest.approx(threshold, rel=1e-4)
        weights: dict[int, float] = {}
        for i in range(N):
            low = windows(sure[i], window) if len(texts[i]) >= window else []
            at = (
                next((window + j for j, w in enumerate(low) if w < threshold * (1 - 1e-5)), None) if i >= warm else None
            )
            expected = texts[i] if at is None else texts[i][:at]
            assert f.candidates[i].tokens == expected
            if at is None:
                weights[i] = lowest[i]
            pruned += at is not None
        votes: dict[int, float] = {}
        for i, w in weights.items():
            votes[texts[i][0]] = votes.get(texts[i][0], 0.0) + w
        assert f.best is not None
        assert votes[texts[f.best][0]] == pytest.approx(max(votes.values()), rel=1e-3)
        assert [c.weight for c in f.candidates] == pytest.approx(
            [weights.get(i, 0.0) for i in range(N)], rel=1e-3, abs=1e-5
        )
    assert pruned > N
    back = by_number(search.run(reversed(PROBLEMS[:12])))
    assert all(essence(found[i]) == essence(back[i]) for i in range(12))


def test_bad_knobs_are_refused() -> None:
    for make in (
        lambda: pruning(4, ()), lambda: pruning(4, (2, 1)), lambda: pruning(4, (1,), 1.0), lambda: restarts(0, 0.5),
        lambda: confident_vote(4, lambda t, n: n, warm_up=4), lambda: ConfidenceScorer(0),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            make()
