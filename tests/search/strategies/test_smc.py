"""Sequential Monte Carlo against enumeration: the exact posterior, an unbiased evidence, exact selection rules."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.errors import ConfigError
from search.config import Budget, SearchConfig
from search.searcher import Searcher, SearchProblem
from search.strategies import resampling
from search.strategies.best_of_n import best_of_n
from search.strategies.gibbs import particle_gibbs
from search.strategies.smc import odds_filter, particle_filter, twisted_smc
from search.strategies.strategy import Strategy
from search.verifiers.scorer import ValueScorer
from tests.search.recorded import vectors
from tests.search.strategies.enumeration import agreement, by_number, essence
from tests.search.strategies.replicas import (
    Outcome,
    Replicas,
    measure,
    normalized,
    standard_scores,
    uneven_trees,
    weights,
)
from tests.search.trees import Trees, random_trees

TREES = uneven_trees(5)
TEXTS = list(weights(TREES, 0))
EXACT = np.array(list(weights(TREES, 0).values()))
ALPHA = 1e-4  # of every chi-square: the numbers are fixed, so a test that passes once passes always


def exact_values(trees: Trees) -> Trees:
    """The same trees with the exact mean score at every node."""
    value = trees.reward.copy()
    for tree in range(len(value)):
        for node in reversed(range(value.shape[1])):
            if (trees.child[tree, node] >= 0).any():
                value[tree, node] = np.exp(trees.log_prob[tree, node]) @ value[tree, trees.child[tree, node]]
    return Trees(trees.child, trees.log_prob, value, trees.reward, trees.depth)


# ---- selection rules ------------------------------------------------------------------------------------------------


def test_filter_rules_match_the_golden_vectors() -> None:
    golden = vectors("golden_vectors.json")["particle_filter"]
    score = jnp.array(golden["prm"])
    odds = resampling.log_reward(score, "logit")
    np.testing.assert_allclose(np.exp(odds), golden["odds_form_check"], rtol=2e-5)
    np.testing.assert_allclose(jax.nn.softmax(odds), golden["weights_softmax_logit_T1"], rtol=2e-5)
    np.testing.assert_allclose(jax.nn.softmax(odds / 2), golden["weights_T2"], rtol=2e-5)
    np.testing.assert_allclose(resampling.effective_sample_size(odds), golden["ESS"], rtol=2e-5)
    assert resampling.systematic(0.3, odds).tolist() == golden["systematic_u=0.3"]


@pytest.mark.parametrize("kind", ["diff", "max", "add", "rt"])
def test_steering_potentials_match_the_golden_vectors(kind: resampling.Potential) -> None:
    golden = vectors("golden_vectors.json")["fk"]
    rewards = jnp.stack([jnp.array(golden["prev"]), jnp.array(golden["cur"])], -1)
    potential = resampling.log_potentials(rewards, kind, 1 / golden["lambda"])[:, -1]
    np.testing.assert_allclose(np.exp(potential), golden[kind], rtol=1e-5)
    np.testing.assert_allclose(resampling.effective_sample_size(potential), golden[f"{kind}_ESS"], rtol=1e-5)


def test_systematic_resampling_gives_everyone_its_share_to_one() -> None:
    rng = np.random.default_rng(0)
    draw, settle = jax.jit(resampling.systematic), jax.jit(resampling.in_place)
    for _ in range(50):
        log_weight = rng.normal(0, 3, 16).astype(np.float32)
        log_weight[rng.random(16) < 0.3] = -np.inf
        ancestors = np.asarray(draw(rng.random(), log_weight))
        share = 16 * np.asarray(jax.nn.softmax(log_weight), np.float64)
        counts = np.bincount(ancestors, minlength=16)
        assert (np.abs(counts - share) < 1 + 1e-4).all() and counts[np.isinf(log_weight)].sum() == 0
        settled = np.asarray(settle(ancestors))
        assert (np.bincount(settled, minlength=16) == counts).all()
        assert (settled[counts > 0] == np.flatnonzero(counts > 0)).all()


def test_nobody_of_weight_zero_is_drawn_at_the_very_end() -> None:
    log_weight = jnp.array([0.0, 0.0, -jnp.inf])
    assert resampling.at(jnp.array([0.0, 0.5, 0.99999994, 1.0]), log_weight).tolist() == [0, 1, 1, 1]
    assert resampling.at(jnp.array([0.0]), jnp.array([-jnp.inf, 0.0])).tolist() == [1]


# ---- exact posterior and evidence -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "power"),
    [
        (particle_filter(4, 0.5, 1.0, "multinomial", "add"), 2),
        (twisted_smc(3, candidates=2, ess_threshold=1.0), 1),
    ],
    ids=["steered", "candidates"],
)
def test_weighted_particles_and_evidence_are_unbiased_at_any_size(strategy: Strategy, power: int) -> None:
    """E[evidence * weight of x] = p(x) phi(x) for every text x, with a handful of particles and a misleading guide."""
    unbiased(Replicas(TREES, strategy, 4096).run(), power)


def unbiased(outcome: Outcome, power: int = 1) -> None:
    exact = np.array(list(weights(TREES, 0, power).values()))
    found = measure(outcome, TEXTS)
    assert outcome.report["resampled"].mean() > 0.3
    often = found.astype(bool).sum(0) >= 30
    assert often.sum() > 8
    assert np.abs(standard_scores(found[:, often], exact[often])).max() < 4
    evidence = np.exp(outcome.report["log_evidence"])[:, None]
    assert abs(standard_scores(evidence, np.array([exact.sum()]))[0]) < 4


@pytest.mark.slow
def test_filter_converges_to_the_exact_posterior() -> None:
    """What it answers with is a draw from it, at a size at which the filter's own bias is far below the noise."""
    outcome = Replicas(TREES, particle_filter(48, ess_threshold=0.9, pick="sample"), 4096).run()
    unbiased(outcome)
    assert agreement(outcome.answers, normalized(weights(TREES, 0))) > ALPHA


@pytest.mark.slow
def test_with_the_exact_twist_weights_never_change() -> None:
    trees = exact_values(TREES)
    replicas = Replicas(TREES, twisted_smc(3, actions=3, ess_threshold=0.97), 4096)
    unbiased(replicas.run())
    outcome = replicas.run(trees)
    np.testing.assert_allclose(np.exp(outcome.report["log_evidence"]), trees.value[0, 0], rtol=1e-5)
    np.testing.assert_allclose(outcome.report["ess"], 3, rtol=1e-5)
    assert outcome.report["resampled"].max() == 0
    assert agreement(outcome.answers, normalized(weights(TREES, 0))) > ALPHA


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "ancestor_sampling"), [(15, True), (80, False)])
def test_particle_gibbs_converges_to_the_exact_posterior(samples: int, ancestor_sampling: bool) -> None:
    """Without ancestor sampling the chain forgets its first filter too slowly with 3 particles a filter."""
    strategy = particle_gibbs(samples, 5, TREES.depth, ess_threshold=0.9, ancestor_sampling=ancestor_sampling)
    outcome = Replicas(TREES, strategy, 4096).run()
    posterior = normalized(weights(TREES, 0))
    assert agreement(outcome.answers, posterior) > ALPHA
    evidence = np.exp(outcome.report["log_evidence"])[:, None]
    assert abs(standard_scores(evidence, np.array([EXACT.sum()]))[0]) < 4
    assert (outcome.report["iterations"] == 5).all()
    assert (outcome.report["moves"].max() > 0) == ancestor_sampling
    np.testing.assert_allclose(outcome.weight.sum(-1), 1, rtol=1e-5)


# ---- equivalences, answers, determinism -----------------------------------------------------------------------------


WALK = SearchConfig(problems=4, prompt_len=1, max_tokens=4, max_steps=4, max_rounds=48, tokens_per_step=1, seed=3)
FULL = random_trees(1)


@pytest.fixture(scope="module")
def searchers() -> dict[str, Searcher]:
    strategies = {
        "constant": twisted_smc(8, twist=lambda view: jnp.zeros_like(view.score), pick="score"),
        "independent": best_of_n(8),
        "filter": particle_filter(8, ess_threshold=0.9, pick="sample"),
        "gibbs": particle_gibbs(8, 2, 4, ess_threshold=0.9),
    }
    tight = dataclasses.replace(WALK, budget=Budget(29))
    return {
        name: Searcher(FULL.decoder, s, tight if name == "filter" else WALK, ValueScorer())
        for name, s in strategies.items()
    }


def problems(n: int) -> list[SearchProblem]:
    return [SearchProblem(i, i % 2) for i in range(n)]


def test_with_a_constant_twist_it_is_sampling(searchers: dict[str, Searcher]) -> None:
    twisted = by_number(searchers["constant"].run(problems(12)))
    for f in searchers["independent"].run(problems(12)):
        other = twisted[f.problem.number]
        assert [c.tokens for c in other.candidates] == [c.tokens for c in f.candidates]
        assert other.answer == f.answer
        assert other.report["log_evidence"] == pytest.approx(np.log(np.mean([c.score for c in f.candidates])), abs=1e-4)


@pytest.mark.parametrize("name", ["filter", "gibbs"])
def test_answers_do_not_depend_on_order_or_neighbours(name: str, searchers: dict[str, Searcher]) -> None:
    searcher, given = searchers[name], problems(10)
    together = by_number(searcher.run(given))
    backwards = by_number(searcher.run(reversed(given)))
    for number, f in together.items():
        assert essence(f) == essence(backwards[number])
    assert essence(next(searcher.run([given[7]]))) == essence(together[7])


def test_gibbs_costs_what_it_writes(searchers: dict[str, Searcher]) -> None:
    """Two filters of four, full trees of depth four: the reference of the second is forced, not drawn."""
    for f in searchers["gibbs"].run(problems(4)):
        assert f.cost.generated_tokens == 4 * 4 + 3 * 4
        assert f.cost.prompt_tokens >= 4  # its own four tokens, and every suffix that was tried
        assert f.best is not None and f.candidates[f.best].complete


def test_a_search_that_ends_early_answers_with_weights_that_fit_its_particles() -> None:
    """With room for one round fewer than the tree is deep nothing is complete, and nothing is resampled at the end."""
    config = dataclasses.replace(WALK, max_rounds=3)
    for f in Searcher(FULL.decoder, particle_filter(8, ess_threshold=1.0), config, ValueScorer()).run(problems(4)):
        scores = np.array([c.score for c in f.candidates])
        assert f.best is None and f.rounds == 3
        before = np.array(
            [FULL.value[f.problem.prompt, FULL.walk(f.problem.prompt, c.tokens[:2])] for c in f.candidates]
        )
        ratio = scores / np.clip(before, 1e-6, 1)
        assert f.report["ess"] == pytest.approx(ratio.sum() ** 2 / (ratio**2).sum(), rel=1e-3)


def test_budget_is_never_exceeded(searchers: dict[str, Searcher]) -> None:
    for f in searchers["filter"].run(problems(3)):
        assert f.out_of_budget and f.cost.generated_tokens <= 29
        assert sum(c.weight for c in f.candidates) <= 1 + 1e-6


def test_odds_are_the_weights_of_the_published_filter() -> None:
    outcome = Replicas(FULL, odds_filter(4), 16).run()
    score = np.clip(outcome.score, 1e-6, 1 - 1e-6).astype(np.float64)
    odds = score / (1 - score)
    np.testing.assert_allclose(outcome.weight, odds / odds.sum(-1, keepdims=True), rtol=1e-3, atol=1e-6)
    assert (outcome.best == outcome.weight.argmax(-1)).all() and "log_evidence" not in outcome.report


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: particle_filter(4, temperature=0.0), "temperature"),
        (lambda: particle_filter(4, potential="sum"), "potential"),
        (lambda: particle_filter(4, pick="argmax"), "pick"),
        (lambda: particle_gibbs(8, 3), "iterations"),
        (lambda: particle_gibbs(4, 4), "samples"),
        (lambda: twisted_smc(4, candidates=2, actions=3), "candidates"),
    ],
)
def test_bad_settings_are_named(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()
