"""Values that the literature and closed forms give: coverage, preferences, divergences, completions."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.cross_entropy import log_probabilities
from scaling.train.config import TrainConfig
from scaling.train.objectives import Completions, Distillation, Preference
from scaling.train.objectives.coverage import coverage_loss
from scaling.train.objectives.distillation import divergence
from scaling.train.placement import QUICK_COMPILE
from scaling.train.step import loss_and_gradient
from tests.scaling.train.objectives import oracle
from tests.scaling.train.objectives.test_objectives import MODEL, ROWS, SEQ, VOCAB, params_of


def test_log_probabilities_are_those_of_the_softmax_and_so_is_their_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks too, with a soft-cap and a temperature, for any function of them."""
    rng = np.random.default_rng(0)
    hidden, head = rng.normal(size=(2, 5, 4)).astype(np.float32), rng.normal(size=(4, 6)).astype(np.float32)
    targets = rng.integers(0, 6, (2, 5))
    monkeypatch.setattr("models.cross_entropy.CPU_LOGITS", 2 * 6 * 2)  # two positions at once

    def plain(hidden: jax.Array, head: jax.Array, softcap: float | None) -> jax.Array:
        z = hidden @ head
        z = z if softcap is None else softcap * jnp.tanh(z / softcap)
        return jnp.take_along_axis(jax.nn.log_softmax(z / 0.6), targets[..., None], -1)[..., 0]

    for cap in (None, 2.0):
        ours = partial(log_probabilities, targets=targets, softcap=cap, temperature=0.6)
        both = [
            jax.jit(
                jax.value_and_grad(lambda h, w, f=f: jnp.sum(jnp.sin(f(h, w))), argnums=(0, 1)),
                compiler_options=QUICK_COMPILE,
            )(hidden, head)
            for f in (ours, partial(plain, softcap=cap))
        ]
        for a, b in zip(jax.tree.leaves(both[0]), jax.tree.leaves(both[1]), strict=True):
            np.testing.assert_allclose(a, b, rtol=3e-6, atol=2e-6)


def test_coverage_weighs_cross_entropy_by_the_chance_that_only_this_answer_helps() -> None:
    """Factors computed in exact arithmetic, N = 1 is cross-entropy, and no probability is too small or too large."""
    expected = {(1, 0.3): 1.0, (16, 0.01): 0.926, (16, 0.3): 0.0229, (256, 0.01): 0.214}
    for (n, p), factor in expected.items():
        found = coverage_loss(jnp.float32(np.log(p)), n)
        assert float(found[1]) == pytest.approx(factor, rel=3e-3)
        assert float(found[0]) == pytest.approx(-np.log(-np.expm1(n * np.log1p(-p))), rel=1e-5)
    lp = jnp.array([-1e4, -300.0, -104.0, -30.0, -1.0, -1e-6, 0.0])
    for n in (1, 16, 2**20):
        loss, slope = jax.vmap(lambda x, n=n: jax.value_and_grad(lambda y: coverage_loss(y, n)[0])(x))(lp)
        assert np.isfinite(loss).all() and np.isfinite(slope).all()
        assert (np.diff(loss) <= 1e-6).all() and (np.asarray(slope) <= 0).all() and (np.asarray(slope) >= -1.001).all()
        assert float(loss[0]) == pytest.approx(1e4 - np.log(n), rel=1e-6)
    assert np.asarray(slope)[-1] == 0  # found by one of a million samples anyway


def test_coverage_with_the_gradient_of_the_formula_itself_would_be_no_number() -> None:
    def formula(lp: jax.Array) -> jax.Array:
        return -jnp.log(-jnp.expm1(16 * jnp.log1p(-jnp.exp(lp))))

    for lp in (0.0, -120.0):
        assert not np.isfinite(jax.grad(formula)(jnp.float32(lp)))
        assert np.isfinite(jax.grad(lambda x: coverage_loss(x, 16)[0])(jnp.float32(lp)))


@pytest.mark.parametrize("kind", ["dpo", "hinge", "ipo", "simpo"])
def test_the_loss_of_a_margin_is_its_formula(kind: str) -> None:
    objective = Preference(kind=kind, beta=0.4, reference="there")  # type: ignore[arg-type]
    h = np.array([-3.0, -0.1, 0.0, 0.2, 5.0])
    beta = objective.beta
    expected = {
        "dpo": np.log1p(np.exp(-beta * h)),
        "hinge": np.maximum(0, 1 - beta * h),
        "ipo": (h - 1 / (2 * beta)) ** 2,
        "simpo": np.log1p(np.exp(objective.gap - beta * h)),
    }[kind]
    np.testing.assert_allclose(objective.of_margin(jnp.asarray(h, jnp.float32)), expected, rtol=1e-5)
    if kind == "dpo":
        slope = jax.vmap(jax.grad(objective.of_margin))(jnp.asarray(h, jnp.float32))
        np.testing.assert_allclose(slope, -beta / (1 + np.exp(beta * h)), rtol=1e-5)
    assert objective.reads.keys() == ({"reference"} if kind != "simpo" else set())


def test_divergences_are_those_of_a_loop() -> None:
    t, s = np.random.default_rng(0).normal(size=(2, 6))
    for kind in ("forward", "reverse", "top"):
        objective = Distillation(teacher="there", divergence=kind, top=3)  # type: ignore[arg-type]
        found = divergence(kind, jnp.asarray(t, jnp.float32), jnp.asarray(s, jnp.float32), top=3)
        assert float(found) == pytest.approx(oracle.diverged(objective, t, s), rel=1e-5)
        assert float(divergence(kind, jnp.asarray(t), jnp.asarray(t), top=6)) == pytest.approx(0, abs=1e-6)


def test_completions_by_token_are_the_next_token_of_what_is_scored() -> None:
    batch = oracle.batch_of(Completions(), ROWS, SEQ, VOCAB)
    kinds = (TrainConfig(batch_size=ROWS, seq_len=SEQ, objective=o) for o in (Completions(), TrainConfig().objective))
    both = [
        jax.jit(partial(loss_and_gradient, MODEL, train), compiler_options=QUICK_COMPILE)(params_of(MODEL, 0), batch)
        for train in kinds
    ]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), *both))
