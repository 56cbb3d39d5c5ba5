"""Windows of single heads: what the profile says they cost, and which are chosen."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import counts, transformer
from models.config import Layer, ModelConfig
from models.elastic import Nudged, Rule, choose, costs, profile, with_spans
from models.errors import ConfigError
from models.mixers import Attention, HeadSpans
from models.past import WholeSequence

SEQ = 10
FULL = Rule(0, 1.0)
MODEL = ModelConfig(vocab_size=16, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=16)


def weights_of(mixer: Any) -> tuple[dict[str, jax.Array], jax.Array]:
    rng = np.random.default_rng(0)
    declared = mixer.weights(MODEL.stream).items()
    w = {name: jnp.asarray(0.3 * rng.normal(size=one.shape), jnp.float32) for name, one in declared}
    return w, jnp.asarray(rng.normal(size=(2, SEQ, 16)), jnp.float32)


def test_of_a_loss_that_is_linear_in_the_weights_the_profile_is_exact() -> None:
    """The loss with the window less the loss without, for each head by itself."""
    w, x = weights_of(Attention())
    at, direction = jnp.arange(SEQ)[None], jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)

    def loss(nudge: jax.Array) -> tuple[jax.Array, Any]:
        y, past, _ = Attention().apply(MODEL.stream, w, x, Nudged(at, nudge))
        return (y * direction).sum(), past.weights

    (full, seen), slope = jax.value_and_grad(loss, has_aux=True)(jnp.zeros((2, 4, SEQ, SEQ)))
    found = costs(np.asarray(seen), np.asarray(slope), (1, 3, SEQ))
    for i, window in enumerate((1, 3, SEQ)):
        for kv in range(2):
            cut = HeadSpans(windows=(window, SEQ) if kv == 0 else (SEQ, window))
            y = cut.apply(MODEL.stream, w, x, WholeSequence(at))[0]
            change = float((y * direction).sum() - full)
            assert found[2 * kv : 2 * kv + 2, i].sum() == pytest.approx(change, rel=1e-3, abs=1e-4)


def test_a_single_key_costs_what_is_published() -> None:
    rng = np.random.default_rng(0)
    a, g = np.tril(rng.random((SEQ, SEQ))), rng.normal(size=(SEQ, SEQ))
    a = a / a.sum(-1, keepdims=True)
    last = SEQ - 1  # only the last query has a key at the greatest distance
    want = a[last, 0] / (1 - a[last, 0]) * ((a[last] * g[last]).sum() - g[last, 0])
    assert costs(a[None, None], g[None, None], (SEQ - 1,))[0, 0] == pytest.approx(want)


def test_the_chosen_rules_cost_least_of_all_that_the_budget_allows_at_every_length() -> None:
    rules = (Rule(1, 0.0), Rule(4, 0.0), Rule(0, 0.5), FULL)
    rng = np.random.default_rng(0)
    given = {8: rng.random((4, 4)), 16: rng.random((4, 4))}
    for budget in (0.25, 0.4, 0.6, 1.0):
        best = np.inf
        for picked in itertools.product(range(4), repeat=4):
            if all(sum(rules[r].window(n) for r in picked) <= budget * n * 4 for n in given):
                best = min(best, sum(one[h][r] for one in given.values() for h, r in enumerate(picked)))
        chosen = choose(given, rules, budget)
        assert sum(one[h][rules.index(rule)] for one in given.values() for h, rule in enumerate(chosen)) == best
        for n in given:
            assert sum(rule.window(n) for rule in chosen) <= budget * n * 4


def test_all_keys_are_the_model_and_windows_count_their_own_pairs() -> None:
    params = transformer.init(MODEL, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (1, SEQ), 0, 16)
    whole = with_spans(MODEL, [[FULL, FULL]] * 2, SEQ)
    run = jax.jit(transformer.apply, static_argnums=0)
    np.testing.assert_allclose(run(whole, params, tokens), run(MODEL, params, tokens), rtol=1e-5, atol=1e-5)
    cut = with_spans(MODEL, [[Rule(2, 0.0), FULL], [FULL, FULL]], SEQ)
    pairs = SEQ * (SEQ + 1) // 2
    assert counts.attention_flops(MODEL, SEQ) - counts.attention_flops(cut, SEQ) == 4 * 4 * 2 * (pairs - (2 * SEQ - 1))
    per_token = 2 * 4 * 4  # k and v of one head of 4, in float32
    assert counts.decode_read_bytes(cut, SEQ) == per_token * (3 * SEQ + 2)
    found = profile(MODEL, params, tokens, lambda logits: logits[..., 0].sum(), (2, SEQ))
    assert found.shape == (2, 4, 2) and np.abs(found[..., 1]).max() == 0 < np.abs(found[..., 0]).min()


@pytest.mark.parametrize(
    ("raise_it", "error"),
    [
        (lambda: dataclasses.replace(MODEL, pattern=(Layer(HeadSpans(windows=(2,))),)),
         "model.pattern[0].mixer.windows: has 1 of 2"),
        (lambda: dataclasses.replace(MODEL, pattern=(Layer(HeadSpans(windows=(2, 0))),)),
         "model.pattern[0].mixer.windows: has 0"),
        (lambda: choose({8: np.zeros((2, 1))}, (FULL,), 0.5), "budget: 0.5 is less than the narrowest rules take"),
        (lambda: with_spans(MODEL, [[FULL, FULL]], SEQ), "rules: are of 1 of 2 layers"),
    ],
)  # fmt: skip
def test_windows_that_cannot_be_are_refused(raise_it: Any, error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        raise_it()
    assert str(raised.value).startswith(error)
