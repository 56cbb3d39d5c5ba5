"""The one form of policy gradients against loops, enumerated policies, and the mistakes that are made with it."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.train.objectives import PolicyGradient
from scaling.train.objectives.advantage import advantages, generalized
from scaling.train.placement import QUICK_COMPILE
from tests.scaling.train.objectives import oracle

ROWS, SEQ, VOCAB = 3, 4, 5
BASE = PolicyGradient(group=4)
VARIANTS = {
    "grpo": BASE,
    "dr_grpo": dataclasses.replace(BASE, advantage="centered", normalize="constant", budget=6),
    "dapo": dataclasses.replace(BASE, normalize="token", clip_high=0.28, mask_truncated=True),
    "rloo": dataclasses.replace(BASE, advantage="leave_one_out", clip="none", normalize="sum", old="current"),
    "ppo": dataclasses.replace(BASE, advantage="given", normalize="token", old="batch", dual_clip=3.0),
    "gspo": dataclasses.replace(BASE, ratio="sequence", clip_low=0.1, clip_high=0.15),
    "cispo": dataclasses.replace(BASE, clip="weight", clip_low=1.0, normalize="token"),
    "expert": dataclasses.replace(BASE, advantage="expert", old="current", correction="drop", normalize="token"),
    "best": dataclasses.replace(BASE, advantage="best", kl=0.3, kl_estimate="k1", reference="there"),
    "reinforce": dataclasses.replace(BASE, advantage="reinforce", baseline=0.4, kl=0.2, kl_estimate="k2"),
    "warm": dataclasses.replace(BASE, temperature=1.3, kl=0.1, kl_estimate="k3"),
    "mrt": dataclasses.replace(BASE, progress=0.7),
    "hot": dataclasses.replace(BASE, temperature=1.2, entropy=0.3, normalize="token"),
    "k3_ratio": dataclasses.replace(BASE, kl=0.2, kl_estimate="k3_ratio", old="batch", correction="truncate"),
}


@partial(jax.jit, static_argnums=0, compiler_options=QUICK_COMPILE)
def mean_and_gradient(
    objective: PolicyGradient, logits: jax.Array, batch: dict[str, Any], frozen: jax.Array | None
) -> Any:
    """(mean loss, metrics, gradient in the logits `[rows, n, seq, vocab]`)."""

    def law(z: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(z.reshape(-1, *z.shape[2:]) / objective.temperature)

    def picked(z: jax.Array) -> jax.Array:
        z = law(z)
        targets = batch["tokens"].reshape(-1, batch["tokens"].shape[-1])[:, 1:]
        return jnp.take_along_axis(z, targets[..., None], -1)[..., 0]

    def mean(z: jax.Array) -> Any:
        mask = batch["weights"].reshape(-1, z.shape[2])
        reference = picked(frozen) if objective.kl else None
        entropy = -jnp.sum(jnp.exp(law(z)) * law(z), -1) if objective.entropy else None
        total, weight, measured = objective.of_logprobs(picked(z), mask, batch, reference, entropy)
        return total / jnp.maximum(weight.sum(), 1), measured

    (value, measured), gradient = jax.value_and_grad(mean, has_aux=True)(logits)
    return value, {name: m.total / jnp.maximum(m.number, 1) for name, m in measured.items()}, gradient


def logits_of(seed: int, batch: dict[str, np.ndarray]) -> np.ndarray:
    shape = (*batch["tokens"].shape[:-1], batch["tokens"].shape[-1] - 1, VOCAB)
    return np.random.default_rng(seed).normal(size=shape)


def single(z: np.ndarray) -> np.ndarray:
    return z.astype(np.float32)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_form_is_the_loop_and_its_finite_differences(name: str) -> None:
    objective = VARIANTS[name]
    batch = oracle.batch_of(objective, ROWS, SEQ, VOCAB, seed=5)
    z, frozen = logits_of(0, batch), logits_of(1, batch) if objective.kl else None

    def mean(logits: np.ndarray) -> float:
        total, weight = oracle.loss(objective, logits, batch, frozen, z)
        return total / weight

    given = None if frozen is None else single(frozen)
    value, measured, gradient = mean_and_gradient(objective, single(z), batch, given)
    assert float(value) == pytest.approx(mean(z), rel=1e-5, abs=1e-6)
    assert measured.keys() == set(objective.metrics)
    step = 1e-5
    for place in itertools.islice(np.ndindex(*z.shape), 0, None, 3):
        up, down = z.copy(), z.copy()
        up[place] += step
        down[place] -= step
        assert float(gradient[place]) == pytest.approx((mean(up) - mean(down)) / (2 * step), abs=2e-6)


def test_on_policy_every_clipped_form_has_the_gradient_of_reinforce() -> None:
    """At a ratio of 1 nothing is clipped; the exact law that was sampled from is the trainer's own."""
    batch = oracle.batch_of(BASE, ROWS, SEQ, VOCAB, seed=6)
    z = single(logits_of(0, batch))
    plain = dataclasses.replace(BASE, old="current", clip="none")
    expected = mean_and_gradient(plain, z, batch, None)[2]
    lp = np.stack([[oracle.logprobs(z[r, i], batch["tokens"][r, i]) for i in range(4)] for r in range(ROWS)])
    batch["sampled_logprobs"] = lp.astype(np.float32)
    for changes in ({}, {"ratio": "sequence"}, {"clip": "weight"}, {"dual_clip": 3.0}):
        _, measured, gradient = mean_and_gradient(dataclasses.replace(BASE, **changes), z, batch, None)
        np.testing.assert_allclose(gradient, expected, atol=1e-6)
        assert float(measured["clipped"]) == 0 and float(measured["sampler_gap"]) < 1e-6


def test_a_filter_or_another_temperature_while_sampling_is_seen_as_a_gap() -> None:
    """Log-probabilities of the law that a nucleus or a temperature leaves are not those of the model."""
    batch = oracle.batch_of(BASE, ROWS, SEQ, VOCAB, seed=6)
    z = single(logits_of(0, batch))
    lp = [[oracle.logprobs(z[r, i], batch["tokens"][r, i], temperature=0.7) for i in range(4)] for r in range(ROWS)]
    batch["sampled_logprobs"] = np.asarray(lp, np.float32)
    _, right, _ = mean_and_gradient(dataclasses.replace(BASE, temperature=0.7), z, batch, None)
    _, wrong, _ = mean_and_gradient(BASE, z, batch, None)
    assert float(right["sampler_gap"]) < 1e-6 < 0.05 < float(wrong["sampler_gap"])
    assert float(wrong["clipped"]) > 0.1


# -- the expected gradient, over every outcome ---------------------------------------------------------------------


def bandit(objective: PolicyGradient, z: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """The expectation, over all groups of one-token completions, of the ascent direction in the logits `[arms]`."""
    p, n = np.exp(oracle.log_softmax(z)), objective.group
    groups = np.array(list(itertools.product(range(len(z)), repeat=n)))
    tokens = np.stack([np.zeros_like(groups), groups], -1).astype(np.int32)
    batch = {
        "tokens": tokens,
        "weights": np.ones((*groups.shape, 1), np.float32),
        "rewards": rewards[groups].astype(np.float32),
    }
    logits = np.broadcast_to(z.astype(np.float32), (*groups.shape, 1, len(z)))
    _, _, gradient = mean_and_gradient(objective, logits, batch, None)
    chance = p[groups].prod(1)
    return -np.einsum("g,gnt->t", chance, np.asarray(gradient, np.float64)[:, :, 0]) * len(groups)


def test_which_advantages_give_the_exact_gradient() -> None:
    z, rewards = np.array([0.3, -0.5, 0.8]), np.array([1.0, 0.0, 0.0])
    p = np.exp(oracle.log_softmax(z))
    exact = p * (rewards - p @ rewards)

    def expected(kind: str, n: int) -> np.ndarray:
        return bandit(PolicyGradient(group=n, advantage=kind, old="current", clip="none"), z, rewards)

    np.testing.assert_allclose(expected("leave_one_out", 2), exact, atol=1e-6)
    np.testing.assert_allclose(expected("centered", 3), 2 / 3 * exact, atol=1e-6)
    np.testing.assert_allclose(expected("reinforce", 2), exact, atol=1e-6)
    np.testing.assert_allclose(expected("expert", 2), exact, atol=1e-6)  # of rewards 0 and 1
    scaled = expected("grpo", 3) / exact
    assert scaled.std() < 1e-4 and abs(scaled.mean() - 1) > 0.1  # with 0/1 rewards, along it and of another size
    two = bandit(PolicyGradient(group=3, advantage="grpo", old="current", clip="none"), z, np.array([1.0, 0.4, 0.0]))
    r = two / (p * (np.array([1.0, 0.4, 0.0]) - p @ np.array([1.0, 0.4, 0.0])))
    assert r.std() > 0.02  # with graded rewards it is no multiple of the gradient


def test_advantages_are_those_of_the_literature() -> None:
    def of(kind: str, right: int, n: int = 8) -> np.ndarray:
        rewards = (np.arange(n) < right).astype(np.float32)[None]
        return np.asarray(advantages(kind, jnp.asarray(rewards), jnp.ones((1, n), bool)))[0]  # type: ignore[arg-type]

    np.testing.assert_allclose(of("grpo", 1)[[0, 1]], [2.475, -0.354], atol=1e-3)
    np.testing.assert_allclose(of("grpo", 4)[[0, 7]], [0.935, -0.935], atol=1e-3)
    np.testing.assert_allclose(of("grpo", 7)[[0, 7]], [0.354, -2.475], atol=1e-3)
    for kind in ("grpo", "centered", "leave_one_out", "best"):
        assert not of(kind, 8).any() and not of(kind, 0).any()  # nothing to compare
        assert not of(kind, 1, n=1).any()  # a group of one says nothing; raw rewards would
    assert of("best", 1).tolist() == [1.0] + [0.0] * 7 and not of("best", 2).any()


def test_constant_rewards_give_no_advantage_from_rounding() -> None:
    rewards = jnp.full((1, 7), 0.1, jnp.float32)
    assert float(jnp.abs(advantages("grpo", rewards, jnp.ones((1, 7), bool))).max()) < 1e-3


def kl_gradient(estimate: str, length: int, **changes: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(expected gradient of the penalty over all completions, of KL(p || reference), of KL(reference || p))."""
    objective = PolicyGradient(
        group=1, advantage="given", kl=1.0, kl_estimate=estimate, old="current", clip="none", normalize="sum", **changes
    )  # fmt: skip
    rng = np.random.default_rng(3)
    every = np.array(list(itertools.product(range(3), repeat=length)))
    tables = [rng.normal(size=3**length) for _ in range(2)]  # logits of every whole completion: any law over them

    def conditionals(flat: jax.Array) -> jax.Array:
        """log p of each token given those before it `[completions, length]`, of logits of whole completions."""
        joint = jax.nn.log_softmax(flat).reshape((3,) * length)
        marginals = [jax.nn.logsumexp(joint, axis=tuple(range(t + 1, length))) if t + 1 < length else joint
                     for t in range(length)]  # fmt: skip
        whole = jnp.stack([m[tuple(every[:, : t + 1].T)] for t, m in enumerate(marginals)], 1)
        return jnp.diff(whole, axis=1, prepend=0)

    def penalty(flat: jax.Array, weights: jax.Array) -> jax.Array:
        lp, reference = conditionals(flat), conditionals(jnp.asarray(tables[1], jnp.float32))
        ones = jnp.ones(lp.shape)
        terms = objective.per_token(lp, jnp.zeros(lp.shape), ones, {}, reference)
        return jnp.sum(weights * terms.loss.sum(1))

    def divergence(flat: jax.Array, forward: bool) -> jax.Array:
        p, q = jax.nn.log_softmax(flat), jax.nn.log_softmax(jnp.asarray(tables[1], jnp.float32))
        return jnp.sum(jnp.exp(q) * (q - p)) if forward else jnp.sum(jnp.exp(p) * (p - q))

    z = jnp.asarray(tables[0], jnp.float32)
    found = jax.jit(jax.grad(penalty), compiler_options=QUICK_COMPILE)(z, jax.nn.softmax(z))
    both = jax.jit(jax.grad(divergence), static_argnums=1, compiler_options=QUICK_COMPILE)
    return np.asarray(found), np.asarray(both(z, False)), np.asarray(both(z, True))


def test_which_estimates_of_the_divergence_have_which_gradient() -> None:
    """k1 as a loss term would have none; in the reward, with what follows, it is exact for sequences too."""
    found, reverse, forward = kl_gradient("k1", 1)
    np.testing.assert_allclose(found, reverse, atol=1e-6)
    np.testing.assert_allclose(kl_gradient("k1", 2)[0], kl_gradient("k1", 2)[1], atol=1e-6)
    np.testing.assert_allclose(kl_gradient("k2", 1)[0], reverse, atol=1e-6)
    np.testing.assert_allclose(kl_gradient("k3", 1)[0], forward, atol=1e-6)
    np.testing.assert_allclose(kl_gradient("k3_ratio", 1)[0], reverse, atol=1e-6)
    assert np.abs(forward - reverse).max() > 0.02
    apart, exact, _ = kl_gradient("k2", 2)
    assert np.abs(apart - exact).max() > 1e-3  # per token it misses what a token does to those after it


def test_a_sample_that_is_cut_off_or_has_no_reward_is_in_no_mean() -> None:
    """As if its group had been smaller: neither the group's mean, nor the tokens that are divided by, see it."""
    for name in ("dapo", "dr_grpo"):
        objective = dataclasses.replace(VARIANTS[name], mask_truncated=True)
        batch = oracle.batch_of(objective, 1, SEQ, VOCAB, seed=8)
        batch["truncated"] = np.array([[0, 1, 0, 0]], np.float32)
        batch["rewards"] = np.array([[1.0, 9.0, 0.0, np.nan]], np.float32)
        z = single(logits_of(0, batch))
        value, measured, gradient = mean_and_gradient(objective, z, batch, None)
        smaller = {k: x[:, [0, 2]] for k, x in batch.items()}
        fewer = dataclasses.replace(objective, group=2)
        expected = mean_and_gradient(fewer, z[:, [0, 2]], smaller, None)
        assert float(value) == pytest.approx(float(expected[0]), abs=1e-6)
        np.testing.assert_allclose(gradient[:, [0, 2]], expected[2], atol=1e-6)
        assert not np.asarray(gradient[:, [1, 3]]).any()
        assert float(measured["scorable"]) == 0.75 and float(measured["used"]) == 0.5
        assert float(measured["reward"]) == pytest.approx(10 / 3)
    counted = dict(batch, rewards=np.nan_to_num(batch["rewards"]))  # an unscorable sample taken for a wrong one
    assert abs(float(mean_and_gradient(objective, z, counted, None)[0]) - float(value)) > 1e-3


def test_the_end_trains_and_padding_that_looks_like_it_does_not() -> None:
    """Pad id = end id: the mask says which is which, so that the policy learns to stop."""
    batch = oracle.batch_of(BASE, 1, SEQ, VOCAB, seed=9)
    batch["tokens"][..., 3:] = 0  # the end, then padding, both token 0
    batch["weights"][:] = np.array([1, 1, 1, 0], np.float32)
    _, _, gradient = mean_and_gradient(BASE, single(logits_of(0, batch)), batch, None)
    assert np.abs(gradient[:, :, 2]).max() > 1e-3 and not np.asarray(gradient[:, :, 3]).any()


def test_generalized_advantages_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 3, 6))
    mask = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1]], np.float32)
    found = np.asarray(generalized(rewards, values, mask, discount=0.9, decay=0.8))
    for i in range(3):
        places = np.flatnonzero(mask[i])
        for k, t in enumerate(places):
            delta = [
                rewards[i, s] + 0.9 * (values[i, places[j + 1]] if j + 1 < len(places) else 0) - values[i, s]
                for j, s in enumerate(places)
            ]
            expected = sum((0.9 * 0.8) ** (j - k) * delta[j] for j in range(k, len(places)))
            assert found[i, t] == pytest.approx(expected, abs=1e-5)
        assert not found[i][mask[i] == 0].any()
