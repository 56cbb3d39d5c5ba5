"""The sweep language: how many points, which ones, in which order, and what it refuses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from scaling.sweep.combinators import chain, derive, fixed, grid, product, seeds, together, where

FIELDS = ("train.learning_rate", "train.steps", "model.d_model", "data.seed")
axes = st.dictionaries(st.sampled_from(FIELDS), st.lists(st.integers(0, 9), max_size=4, unique=True), max_size=4)


def disjoint(names: tuple[str, ...]) -> st.SearchStrategy:
    return st.dictionaries(st.sampled_from(names), st.lists(st.integers(0, 9), min_size=1, max_size=3), max_size=2)


@given(axes)
def test_a_grid_has_every_combination_once_with_the_last_axis_fastest(given_axes):
    points = grid(given_axes)
    assert len(points) == math.prod(map(len, given_axes.values()))
    assert len({tuple(point.items()) for point in points}) == len(points)
    expected = [()]
    for name, values in given_axes.items():
        expected = [(*head, (name, value)) for head in expected for value in values]
    assert [tuple(point.items()) for point in points] == expected


def test_a_sweep_too_large_to_be_meant_is_refused_before_it_is_made():
    many = range(10**6)
    for make in (lambda: grid({"train.seed": many, "train.steps": many}), lambda: product(seeds(10**4), seeds(10**4)),
                 lambda: seeds(10**12)):  # fmt: skip
        with pytest.raises(ConfigError, match=r"make [\d,]+ trials: plan at most 100,000"):
            make()


def test_a_grid_without_axes_is_one_empty_point():
    assert grid({}) == [{}]


@given(disjoint(FIELDS[:2]), disjoint(FIELDS[2:]))
def test_a_product_of_grids_is_the_grid_of_all_their_axes(first, second):
    assert product(grid(first), grid(second)) == grid(first | second)


@given(disjoint(FIELDS[:1]), disjoint(FIELDS[1:2]), disjoint(FIELDS[2:]))
def test_a_product_is_associative_and_one_empty_point_is_its_unit(a, b, c):
    a, b, c = grid(a), grid(b), grid(c)
    assert product(product(a, b), c) == product(a, product(b, c)) == product(a, b, c)
    assert product(a, fixed({})) == product(fixed({}), a) == product(a) == a


@given(axes, axes)
def test_a_chain_keeps_all_points_in_order_and_a_product_distributes_over_it(first, second):
    first, second, factor = grid(first), grid(second), seeds(2)
    assert chain(first, second) == first + second
    assert product(chain(first, second), factor) == chain(product(first, factor), product(second, factor))


@given(st.sampled_from(FIELDS), st.integers(), st.integers())
def test_a_product_refuses_a_field_that_two_factors_set(field, a, b):
    with pytest.raises(ConfigError, match=f"{field}: is set by two factors of a product: set it in one of them"):
        product(fixed({field: a}), seeds(2), fixed({field: b}))


@given(st.lists(st.tuples(st.integers(), st.integers()), max_size=6))
def test_together_moves_all_axes_in_lockstep(pairs):
    points = together({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]})
    assert points == [{"a": a, "b": b} for a, b in pairs]


@given(st.lists(st.integers(), max_size=4), st.lists(st.integers(), max_size=4))
def test_together_refuses_axes_of_unequal_length(first, second):
    if len(first) == len(second):
        assert len(together({"a": first, "b": second})) == len(first)
        return
    with pytest.raises(ConfigError, match=f"'a': {len(first)}, 'b': {len(second)}.*give equally many values"):
        together({"a": first, "b": second})


@given(st.integers(0, 8), st.integers(0, 1000))
def test_seeds_are_consecutive_repetitions(count, first):
    assert seeds(count, first) == [{"train.seed": first + i} for i in range(count)]


@given(axes, st.integers(0, 9))
def test_where_keeps_the_points_that_pass_and_together_with_its_complement_all_of_them(given_axes, limit):
    points = grid(given_axes)

    def small(point):
        return sum(point.values()) < limit

    kept, dropped = where(points, small), where(points, lambda point: not small(point))
    assert all(map(small, kept)) and len(kept) + len(dropped) == len(points)
    assert kept == [point for point in points if point in kept]


@given(st.lists(st.integers(1, 512), min_size=1))
def test_derived_fields_are_computed_from_the_point_as_it_was_and_may_replace_a_field(widths):
    points = grid({"model.d_model": widths})
    derived = derive(points, {"train.learning_rate": lambda p: 1 / p["model.d_model"], "model.d_model": lambda p: 2})
    assert derived == [{"model.d_model": 2, "train.learning_rate": 1 / width} for width in widths]
    assert points == grid({"model.d_model": widths})
