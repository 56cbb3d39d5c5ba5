"""Rules that stop early on recorded answers, against the published definitions written out again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from search.metrics import Samples, adaptive_consistency, early_stopping, short_m_curve, stopped, vote_curve
from search.metrics.stopping import length_correlation, short_race

answers = st.lists(st.integers(0, 3), min_size=1, max_size=40).map(np.array)


def settled(drawn: list[int], criterion: str) -> bool:
    """The authors' criteria (adaptive_consistency/stopping_criterias.py), integral for integral."""
    counts = [count for _, count in Counter(drawn).most_common()]
    if criterion == "beta":
        a, b = counts[0], counts[1] if len(counts) > 1 else 0
        over = integrate.quad(lambda x: x**a * (1 - x) ** b, 0.5, 1)[0]
        return over / integrate.quad(lambda x: x**a * (1 - x) ** b, 0, 1)[0] >= 0.95 - 1e-9
    if len(drawn) == 1:
        return False
    if criterion == "share":
        return counts[0] / len(drawn) >= 0.8 - 1e-12
    shown = counts if len(counts) > 1 else [*counts, 1]
    return stats.entropy(shown, base=2) / np.log2(len(shown)) <= 0.75 + 1e-12


@pytest.mark.parametrize("criterion", ["beta", "entropy", "share"])
@given(codes=answers)
def test_adaptive_consistency_stops_where_the_authors_code_does(criterion: str, codes: np.ndarray) -> None:
    winner, used = adaptive_consistency(criterion)(codes)
    stops = [n for n in range(1, len(codes) + 1) if settled(list(codes[:n]), criterion)]
    assert used == (stops[0] if stops else len(codes))
    assert codes[winner] == Counter(codes[:used].tolist()).most_common(1)[0][0]


def test_four_equal_answers_settle_it() -> None:
    assert adaptive_consistency()(np.zeros(40, int)) == (0, 4)
    with pytest.raises(ValueError, match="criterion: 'bta' is not known: did you mean 'beta'"):
        adaptive_consistency("bta")


@given(answers)
def test_early_stopping_ends_with_the_first_unanimous_window(codes: np.ndarray) -> None:
    winner, used = early_stopping(window=5, most=40)(codes)
    windows = [codes[i : i + 5] for i in range(0, len(codes) - 4, 5)]
    hit = next((i for i, window in enumerate(windows) if len(set(window.tolist())) == 1), None)
    assert used == (len(codes) if hit is None else 5 * (hit + 1))
    expected = Counter(codes.tolist()).most_common(1)[0][0] if hit is None else codes[5 * hit]
    assert codes[winner] == expected


def test_unreadable_answers_are_neither_unanimous_nor_counted() -> None:
    nothing = np.full(10, -1)
    assert early_stopping()(nothing) == (None, 10) and adaptive_consistency()(nothing) == (None, 10)
    assert adaptive_consistency()(np.array([-1, 2, 2, -1, 2, 2, 0]))[1] == 6


def easy_and_hard(problems: int = 30, n: int = 40) -> Samples:
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.3, 1.0, problems)
    correct = rng.random((problems, n)) < rates[:, None]
    lengths = rng.geometric(0.05, (problems, n)) + np.where(correct, 0, 10)
    return Samples.of(correct, answers=np.where(correct, 0, 1 + rng.integers(0, 4, (problems, n))), tokens=lengths)


def test_stopping_early_keeps_the_accuracy_of_the_full_vote_for_fewer_samples() -> None:
    samples = easy_and_hard()
    full = vote_curve(samples, [40])["accuracy"].iloc[0]
    for rule in (early_stopping(), adaptive_consistency()):
        found = stopped(samples, rule, orders=40)
        assert found.samples < 25 and abs(found.accuracy - full) < 0.03
        assert found.low <= found.accuracy <= found.high and 0 <= found.standard_error < 0.02


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_a_race_costs_what_was_written_until_it_ended(lengths: list[int], data) -> None:
    m = data.draw(st.integers(1, len(lengths)))
    race = short_race(lengths, m)
    end = sorted(lengths)[m - 1]
    written = sum(sum(1 for step in range(length) if step < end) for length in lengths)  # token by token
    assert (race.tokens, race.depth) == (written, end)
    assert sorted(lengths[i] for i in race.finished) == sorted(lengths)[:m]


def test_short_races_are_the_plain_vote_when_all_chains_may_end_and_cheaper_when_not() -> None:
    samples = easy_and_hard(problems=12, n=8)
    everyone = short_m_curve(samples, 8, [8])
    assert everyone["tokens"].iloc[0] == pytest.approx(everyone["plain_tokens"].iloc[0])
    assert everyone["accuracy"].iloc[0] == pytest.approx(vote_curve(samples, [8])["accuracy"].iloc[0], abs=1 / 12)
    table = short_m_curve(samples, 3, [4, 8])
    assert (table["tokens"] < table["plain_tokens"]).all() and table["depth"].is_monotonic_decreasing
    assert table.attrs["length_correlation"] == length_correlation(samples) < 0


def test_a_tie_goes_to_the_shortest_chain() -> None:
    samples = Samples.of([[0, 1]], answers=[["long", "short"]], tokens=[[9, 2]])
    assert short_m_curve(samples, 2, [2])["accuracy"].iloc[0] == 1.0
