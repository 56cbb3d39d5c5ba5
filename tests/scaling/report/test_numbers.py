import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.report import numbers

UNIT = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "Q": 1e15}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (950, "950"), (1000, "1k"), (12_345, "12.3k"), (999_950, "1M"), (3.4e6, "3.4M"),
     (1.4e12, "1.4T"), (2.25, "2.25"), (math.nan, "–"), (math.inf, "–")],
)  # fmt: skip
def test_counts_read_as_people_write_them(value, text):
    assert numbers.count(value) == text


@given(st.floats(1e-3, 1e17))
def test_a_count_is_within_half_a_unit_of_its_third_figure(value):
    text = numbers.count(value)
    unit = text[-1] if text[-1].isalpha() else ""
    assert float(text.removesuffix(unit)) * UNIT[unit] == pytest.approx(value, rel=5.001e-3)


@given(st.floats(1e-300, 1e300))
def test_scientific_notation_reads_back(value):
    assert float(numbers.scientific(value, 4)) == pytest.approx(value, rel=5.001e-4)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (12.34, "12.3 s"), (59.97, "1 min 0 s"), (200, "3 min 20 s"), (3599.7, "1 h 0 min"),
     (7500, "2 h 5 min"), (math.nan, "–")],
)  # fmt: skip
def test_durations_never_show_sixty(seconds, text):
    assert numbers.duration(seconds) == text


def test_percent_shows_its_sign_when_asked():
    assert numbers.percent(0.0057) == "0.57 %"
    assert numbers.percent(0.0057, signed=True) == "+0.57 %"
    assert numbers.percent(-0.25) == "-25.0 %"
    assert numbers.percent(math.nan) == "–"
