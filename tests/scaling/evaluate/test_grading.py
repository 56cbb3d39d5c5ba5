"""Grading of generated answers: extraction, numbers with units, orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from scaling.evaluate.grading import after_marker, grade, grade_number, grade_order, tau_of, whole
from scaling.evaluate.item import Item, Quantity
from scaling.evaluate.units import last_number


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 is 7\n#### 7", "7"),
        ("The answer is 12.\n", "12"),
        ("Answer: 5 Answer: 6", "6"),
        ("so \\boxed{42} holds", "42"),
        ("first\nlast line.\n\n", "last line"),
        (" \n", None),
        ("", None),
    ],
)
def test_the_answer_is_what_follows_the_last_marker_or_the_last_line(text: str, answer: str | None) -> None:
    assert after_marker(text) == answer


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("it takes 1.5 km", ""),
        ("1500 m", ""),
        ("1.5e3m", ""),
        ("3000/2 m", ""),
        ("1550 m", ""),  # within 5 %
        ("1600 m", "wrong"),
        ("1500 s", "unit"),
        ("1500", "unit"),
        ("1500 parsec", "unit"),
        ("it is far", "parse"),
    ],
)
def test_numbers_are_compared_in_si_units_within_the_tolerance(text: str, fault: str) -> None:
    assert grade_number(Quantity(1.5, "km"), text)[::2] == (fault == "", fault)


def test_a_quantity_of_zero_needs_an_absolute_tolerance_which_is_in_its_unit() -> None:
    assert grade_number(Quantity(0.0, absolute=0.1), "0.05").correct
    assert not grade_number(Quantity(0.0), "0.05").correct
    assert grade_number(Quantity(1.0, "km", relative=0.0, absolute=0.2), "1100 m").correct
    with pytest.raises(ConfigError, match="gold.unit: 'metre' is not known"):
        grade_number(Quantity(1.0, "metre"), "1 m")


def test_a_fraction_over_zero_is_no_number() -> None:
    assert last_number("3/0") is None and last_number("2 and 3/4 %") == (0.75, "%")


@given(st.text(max_size=60))
def test_any_text_is_graded(text: str) -> None:
    item = Item("1", "s", "q", "generate", ("7",))
    assert grade(item, text).fault in ("", "parse", "wrong")
    assert grade_number(Quantity(7.0), text).fault in ("", "parse", "unit", "wrong")
    assert grade_order(["a", "b"], text).fault in ("", "permutation", "wrong")


@pytest.mark.parametrize("n", [3, 4, 5])
def test_tau_is_the_share_of_pairs_in_order_less_that_of_the_others(n: int) -> None:
    values = []
    for places in itertools.permutations(range(n)):
        pairs = list(itertools.combinations(range(n), 2))
        in_order = sum(places[i] < places[j] for i, j in pairs)
        values.append(tau_of(places))
        assert values[-1] == pytest.approx((2 * in_order - len(pairs)) / len(pairs))
    assert np.mean(values) == pytest.approx(0, abs=1e-12)
    if n == 4:
        assert np.std(values) == pytest.approx(0.49, abs=0.005)


def test_an_order_is_graded_by_its_labels_and_no_permutation_is_a_fault_of_its_own() -> None:
    gold = ["B", "A", "C"]
    assert grade_order(gold, "B, A, C")[::2] == (True, "") and grade_order(gold, "BAC.").correct
    assert grade_order(gold, "A > B > C")[2:] == ("wrong", pytest.approx(1 / 3))
    for text in ("B, A", "B A C A", "B x A C", ""):
        assert grade_order(gold, text)[::3] == (False, 0.0) and grade_order(gold, text).fault == "permutation"
    assert grade_order(["1", "10", "2"], "1 10 2").correct  # the longest label first


def test_a_verifier_decides_where_it_is_given() -> None:
    item = Item("1", "s", "q", "generate", ("1+2",))
    assert not grade(item, "2+1").correct
    assert grade(item, "2+1", whole, lambda item, text: text == "2+1").correct
