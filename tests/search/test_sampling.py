"""Samplers draw from exactly the distribution that their settings define, row by row, whatever else is in the batch."""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError
from search.engine import sampling, stop
from search.engine.decode import lineage_keys
from search.engine.sampling import Filters, Sampling
from tests.search import exact
from tests.search.exact import chi_square, normalized

VOCAB, ROWS = 67, 6
EVERYTHING = Filters(*[True] * 10)
HISTORY = np.array([3, 5, 5, 64, 66, -1, -1], np.int32)

COMBINATIONS = [
    Sampling(),
    Sampling(temperature=0.7),
    Sampling(temperature=1.8),
    Sampling(top_k=5),
    Sampling(top_p=0.6),
    Sampling(min_p=0.1),
    Sampling(typical_p=0.5),
    Sampling(repetition_penalty=1.5),
    Sampling(logit_bias=((2, 1.5), (7, -float("inf")), (9, -1.0))),
    Sampling(allowed=tuple(range(0, VOCAB, 3))),
    Sampling(temperature=0.8, top_k=20, top_p=0.9),
    Sampling(temperature=1.3, top_p=0.8, min_p=0.05, typical_p=0.9),
    Sampling(
        temperature=0.9, top_k=30, top_p=0.95, min_p=0.02, typical_p=0.95, repetition_penalty=1.2,
        logit_bias=((1, 2.0),), allowed=tuple(range(40)),
    ),
]  # fmt: skip


def oracle(logits: np.ndarray, s: Sampling, history: np.ndarray = HISTORY, slack: float = 0.0) -> np.ndarray:
    """`exact.distribution` after HISTORY."""
    return exact.distribution(logits, s, history, slack)


draw = jax.jit(sampling.draw)


@jax.jit
def row_keys(*stream: jax.Array) -> jax.Array:
    """The keys `[n, 2]` of seeds, problems, lineages and steps `[n]`."""
    *whose, step = (jnp.asarray(part, jnp.uint32) for part in stream)
    return sampling.step_keys(lineage_keys(jnp.stack(whose, -1)), step)


first_above = jax.jit(sampling.first_above)


def keys_of(n: int, root: int = 0) -> jax.Array:
    at = np.arange(n)
    return row_keys(at * 0 + root, at // 1000, at % 1000, at * 0)


@pytest.fixture(scope="module")
def distribution():
    """`distribution` compiled once for every filter, ROWS rows at a time."""
    program = jax.jit(lambda logits, rows, history: sampling.distribution(logits, rows, history=history))

    def run(logits: np.ndarray, settings: list[Sampling]) -> np.ndarray:
        rows = sampling.stack_rows(settings, VOCAB, EVERYTHING, bias_width=4, forced_width=0)
        return np.asarray(program(logits, rows, np.tile(HISTORY, (ROWS, 1))))

    return run


logit = st.one_of(st.integers(-4, 4).map(float), st.integers(-(2**24), 2**24).map(lambda i: i * 30 / 2**24))
probability = st.integers(1, 127).map(lambda i: i / 128)
single = st.one_of(
    st.builds(Sampling, top_k=st.integers(1, VOCAB + 5)),
    st.builds(Sampling, top_p=probability),
    st.builds(Sampling, min_p=probability),
    st.builds(Sampling, typical_p=probability),
)
combined = st.builds(
    Sampling,
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 7, 40]),
    top_p=st.one_of(st.just(1.0), probability),
    min_p=st.one_of(st.just(0.0), probability),
    typical_p=st.one_of(st.just(1.0), probability),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.5]),
    allowed=st.one_of(st.none(), st.just(tuple(range(1, 60, 2)))),
    logit_bias=st.one_of(st.just(()), st.just(((1, 3.0), (2, -float("inf"))))),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(logit, min_size=VOCAB, max_size=VOCAB), min_size=ROWS, max_size=ROWS),
    st.lists(single, min_size=ROWS, max_size=ROWS),
)
def test_each_filter_keeps_the_tokens_that_its_definition_names(distribution, logits, samplings):
    logits = np.array(logits, np.float32)
    ours = distribution(logits, samplings)
    for row, s, p in zip(logits, samplings, ours):
        # thresholds in float32: a token may go either way only if it lies within 1e-5 of its threshold
        least, most = (oracle(row, s, np.array([], int), slack) for slack in (-1e-5, 1e-5))
        visible = np.exp(row - row.max()) > 1e-30
        assert not ((least > 0) & visible & (p == 0)).any()
        assert not ((p > 0) & (most == 0) & visible).any()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(logit, min_size=VOCAB, max_size=VOCAB), min_size=ROWS, max_size=ROWS),
    st.lists(combined, min_size=ROWS, max_size=ROWS),
)
def test_filters_in_sequence_give_the_oracles_distribution(distribution, logits, samplings):
    logits = np.array(logits, np.float32)
    for row, s, p in zip(logits, samplings, distribution(logits, samplings)):
        expected, *nudged = (oracle(row, s, slack=slack) for slack in (0.0, -1e-5, 1e-5))
        if all(((expected > 0) == (other > 0)).all() for other in nudged):  # no threshold within rounding of a token
            np.testing.assert_allclose(p, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.slow
def test_draws_of_every_filter_follow_the_exact_distribution():
    draws = 20_000
    logits = np.random.default_rng(1).normal(0, 2, (VOCAB,)).astype(np.float32)

    @jax.jit
    def run(keys, rows, logits):
        rows = rows.take(jnp.repeat(jnp.arange(len(COMBINATIONS)), draws))
        many = jnp.broadcast_to(logits, (len(keys), VOCAB))
        history = jnp.broadcast_to(HISTORY, (len(keys), len(HISTORY)))
        return sampling.draw(keys, many, rows, history=history)

    rows = sampling.stack_rows(COMBINATIONS, VOCAB, EVERYTHING)
    token, logprob, filtered = map(np.asarray, run(keys_of(draws * len(COMBINATIONS)), rows, logits))
    model = np.log(normalized(np.exp(logits.astype(np.float64))))
    np.testing.assert_allclose(logprob, model[token], atol=2e-6)
    for i, s in enumerate(COMBINATIONS):
        own, p = slice(i * draws, (i + 1) * draws), oracle(logits, s)
        assert chi_square(np.bincount(token[own], minlength=VOCAB), p) > 1e-3, s
        np.testing.assert_allclose(filtered[own], np.log(p[token[own]]), atol=5e-6)


@pytest.mark.parametrize("vocab", [5, 64, 65, 1000, 5003])
def test_one_and_two_level_draws_follow_the_exact_distribution(vocab):
    logits = np.random.default_rng(vocab).normal(0, 2, (vocab,)).astype(np.float32)
    logits[::7] = -np.inf
    rows = sampling.stack_rows([Sampling()], vocab)
    n = 3000 if vocab > 4096 else 40_000

    @jax.jit
    def run(keys, logits):
        return sampling.sample(keys, jnp.broadcast_to(logits, (n, vocab)), rows.take(jnp.zeros(n, int)))[0]

    counts = np.bincount(run(keys_of(n), logits), minlength=vocab)
    assert chi_square(counts, oracle(logits, Sampling(), np.array([], int))) > 1e-3


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.one_of(st.just(0.0), st.integers(1, 2**24).map(lambda i: i / 2**24)), min_size=33, max_size=33),
    st.one_of(st.sampled_from([0.0, 1 - 2**-24]), st.integers(0, 2**24 - 1).map(lambda i: i / 2**24)),
)
def test_a_token_of_probability_zero_is_never_drawn(weights, u):
    if any(weights):
        assert weights[int(first_above(np.float32(u), np.array(weights, np.float32)))] > 0


@pytest.mark.parametrize("vocab", [67, 4100])
def test_a_rows_token_does_not_depend_on_the_rest_of_the_batch(vocab):
    n = 64
    logits = np.random.default_rng(0).normal(0, 2, (n, vocab)).astype(np.float32)
    choices = [Sampling(), Sampling(temperature=0.8, top_p=0.9), Sampling(temperature=0.0), Sampling(top_k=9)]
    rows = sampling.stack_rows([s for s, _ in zip(itertools.cycle(choices), range(n))], vocab)
    keys = keys_of(n)
    whole = jax.tree.map(np.asarray, draw(keys, logits, rows))
    for count in (1, 7):
        part = draw(keys[:count], logits[:count], rows.take(np.arange(count)))
        assert all((np.asarray(a) == b[:count]).all() for a, b in zip(part, whole))
    order = np.random.default_rng(1).permutation(n)
    shuffled = draw(keys[order], logits[order], rows.take(order))
    assert all((np.asarray(a) == b[order]).all() for a, b in zip(shuffled, whole))


def test_keys_fold_problem_lineage_and_step_in_this_order():
    root = jax.random.PRNGKey(3)
    made = row_keys(np.array([3, 3, 3]), np.array([5, 5, 6]), np.array([0, 1, 0]), np.array([9, 9, 9]))
    for key, (problem, lineage) in zip(np.asarray(made), [(5, 0), (5, 1), (6, 0)]):
        expected = root
        for data in (problem, lineage, 9):
            expected = jax.random.fold_in(expected, data)
        assert (key == np.asarray(expected)).all()
    assert len({tuple(map(int, k)) for k in keys_of(5000)}) == 5000


def test_greedy_takes_the_lowest_index_of_the_most_likely():
    logits = np.zeros((3, 600), np.float32)
    logits[1, [40, 300, 599]] = 5
    logits[2, [599]] = 5
    rows = sampling.stack_rows([Sampling(temperature=0.0)] * 3, 600)
    drawn = draw(keys_of(3), logits, rows)
    assert drawn.token.tolist() == [0, 40, 599]
    assert drawn.filtered_logprob.tolist() == [0, 0, 0]


def test_forced_tokens_are_taken_and_scored_under_the_model():
    logits = np.random.default_rng(0).normal(size=(2, VOCAB)).astype(np.float32)
    rows = sampling.stack_rows([Sampling(forced=(7, 9)), Sampling(top_k=1)], VOCAB)
    model = np.log(normalized(np.exp(logits[0].astype(np.float64))))
    for step, token in enumerate((7, 9)):
        forced = sampling.forced_at(rows, jnp.array([step, step]))
        assert forced.tolist() == [token, -1]
        drawn = draw(keys_of(2), logits, rows, forced=forced)
        assert drawn.token.tolist() == [token, int(logits[1].argmax())]
        assert float(drawn.logprob[0]) == pytest.approx(model[token], abs=2e-6)
        assert float(drawn.filtered_logprob[0]) == 0
    assert sampling.forced_at(rows, jnp.array([2, 2])).tolist() == [-1, -1]


def test_rows_without_any_possible_token_are_marked():
    logits = np.stack([np.full(VOCAB, -np.inf), np.full(VOCAB, np.nan), np.zeros(VOCAB)]).astype(np.float32)
    drawn = draw(keys_of(3), logits, sampling.stack_rows([Sampling()] * 3, VOCAB))
    assert drawn.token.tolist()[:2] == [-1, -1] and drawn.token[2] >= 0
    assert np.isnan(drawn.logprob).tolist() == [True, True, False]


def test_settings_of_a_slot_are_replaced_without_a_new_program():
    rows = sampling.stack_rows([Sampling()] * 3, VOCAB, EVERYTHING, bias_width=2, forced_width=2)
    new = Sampling(temperature=0.5, allowed=(4,), logit_bias=((4, 1.0),), forced=(1,))
    rows = rows.write(np.array([1, 3]), sampling.stack_rows([new, new], VOCAB, EVERYTHING, 2, 2))
    assert rows.temperature.tolist() == [1, 0.5, 1]
    assert rows.forced.tolist() == [[-1, -1], [1, -1], [-1, -1]]
    history = np.tile(HISTORY, (3, 1))
    p = np.asarray(sampling.distribution(np.zeros((3, VOCAB), np.float32), rows, history=history))
    assert p[1].argmax() == 4 and p[1, 4] == 1 and p[0, 4] < 0.1
    assert rows.filters == EVERYTHING and rows.filters.covers(Filters.of([new]))
    assert not Filters.of([Sampling()]).covers(Filters.of([new]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 1e-38), ("temperature", 1e-40), ("temperature", -1), ("temperature", float("nan")),
        ("top_k", -1), ("top_k", 1.5), ("top_p", 0), ("top_p", 1.1),
        ("min_p", -0.1), ("typical_p", 0), ("repetition_penalty", 0), ("allowed", ()),
        ("logit_bias", ((1, float("nan")),)),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=f"sampling.{field}"):
        Sampling(**{field: value})


def test_unknown_tokens_are_refused_by_name():
    for s in (Sampling(allowed=(VOCAB,)), Sampling(forced=(-1,)), Sampling(logit_bias=((VOCAB, 1.0),))):
        with pytest.raises(ConfigError, match="unknown tokens"):
            sampling.stack_rows([s], VOCAB)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), max_size=3),
    st.lists(st.integers(0, 2), max_size=8),
)
def test_stop_sequences_match_as_a_suffix_compare_does(stops, tokens):
    table = stop.stack_stops([stops], count=3, width=3)
    window = jnp.full((1, 3), stop.EMPTY, jnp.int32)
    for i in range(len(tokens)):
        window = stop.push(window, np.array(tokens[i : i + 1]), np.array([True]))
        so_far = tokens[: i + 1]
        hits = [j for j, s in enumerate(stops) if so_far[-len(s) :] == s and len(so_far) >= len(s)]
        assert stop.matched(window, table).tolist() == [hits[0] if hits else -1]
        history = np.array([[1, 1, *tokens, 0]])
        again = stop.last_tokens(history, np.array([2 + i + 1]), 3, first=2)
        assert (np.asarray(again) == np.asarray(window)).all()
    assert (stop.push(window, np.array([1]), np.array([False])) == window).all()


@pytest.mark.parametrize(
    ("stops", "fault"),
    [
        ([()], "empty"),
        ([(1, 99)], "unknown"),
        ([(1,) * 9], "longer"),
        ([(0, 1)], "ends the sample"),
        ([(1, 5)], "allowed"),
    ],
)
def test_stop_sequences_that_can_never_match_are_refused(stops, fault):
    check = partial(stop.check_stops, vocab_size=10, max_tokens=8, eos={0}, allowed={0, 1, 2})
    check([(1, 2, 0)])
    with pytest.raises(ConfigError, match=fault):
        check(stops)
