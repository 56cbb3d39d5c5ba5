"""Metrics on recorded samples: each equals the average over all subsets, drawn by a plain loop."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.laws.coverage import pass_at_k
from search.metrics import (
    Samples,
    best_of_curve,
    best_of_k,
    coverage_curve,
    genrm_scores,
    selection_results,
    vote,
    vote_curve,
    vote_limit,
)
from search.metrics.coverage import fit_coverage, fit_curve, fit_saturation, pass_rate, straight_line
from search.metrics.selection import best_of, subsets_of, vote_accuracy
from search.metrics.verification import told_apart
from tests.search import recorded

judged = st.integers(1, 7).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 1), min_size=n, max_size=n),
        st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9]), min_size=n, max_size=n),
        st.lists(st.sampled_from(["a", "b", "c", None]), min_size=n, max_size=n),
    )
)


def first_best(order: tuple[int, ...], scores: list[float]) -> int:
    return max(order, key=lambda i: scores[i])  # max keeps the first of equals


@settings(max_examples=40)
@given(judged)
def test_best_of_k_is_the_mean_over_all_ordered_subsets(case) -> None:
    correct, scores, _ = case
    ks = range(1, len(correct) + 1)
    brute = [np.mean([correct[first_best(o, scores)] for o in permutations(range(len(correct)), k)]) for k in ks]
    assert best_of_k(correct, scores, list(ks)) == pytest.approx(brute, abs=1e-11)
    assert np.isnan(best_of_k(correct, scores, [len(correct) + 1])[0])


def voted(order: tuple[int, ...], answers: list, weights: list[float]) -> int | None:
    """The first sample of the winning answer, by a dictionary that remembers which answer came first."""
    totals: dict = {}
    for i in order:
        if answers[i] is not None:
            totals[answers[i]] = totals.get(answers[i], 0.0) + weights[i]
    if not totals:
        return None
    best = max(totals.values())
    winner = next(answer for answer, total in totals.items() if total >= best - 1e-12 * best)
    return next(i for i in order if answers[i] == winner)


@settings(max_examples=25)
@given(judged, st.booleans())
def test_vote_accuracy_is_the_mean_over_all_orders_of_a_subset(case, weighted: bool) -> None:
    _, scores, answers = case
    correct = [float(answer == "a") for answer in answers]
    weights = scores if weighted else [1.0] * len(scores)
    samples = Samples.of([correct], scores=[weights], answers=[answers])
    codes, given = samples.answers[0], samples.scores[0]
    k = min(4, len(correct))
    for pick in combinations(range(len(correct)), k):
        winners = [voted(order, answers, list(given)) for order in permutations(pick)]
        brute = np.mean([0.0 if w is None else correct[w] for w in winners])
        found = vote_accuracy(codes, given, np.array(correct), np.array([pick]))
        assert found[0] == pytest.approx(brute, abs=1e-12)
        plain = voted(pick, answers, list(given))
        chosen = vote(codes[list(pick)], given[list(pick)])
        assert (None if chosen is None else pick[chosen]) == plain


def test_golden_rules_of_selection() -> None:
    golden = recorded.vectors("golden_vectors.json")
    case = golden["best_of_k_subset_expectation"]
    correct = case["correct_sorted_desc_score"]
    found = best_of_k(correct, -np.arange(len(correct)), [int(k) for k in case["k"]])
    assert found == pytest.approx(list(case["k"].values()), abs=1e-12)
    case = golden["weighted_vote"]
    answers, scores = case["answers"], case["scores"]
    codes = Samples.of([[0] * len(answers)], answers=[answers]).answers[0]
    assert answers[best_of(scores)] == case["best_of_n"]
    assert answers[vote(codes)] == case["majority_first_seen"]
    assert answers[vote(codes, scores)] == case["weighted_sum"]
    counts = Counter(answers)
    assert sorted(a for a in counts if counts[a] == max(counts.values())) == case["majority_tie_set"]
    for case in golden["pass_at_k"]:
        samples = Samples.of([[1] * case["c"] + [0] * (case["n"] - case["c"])])
        value = coverage_curve(samples, [case["k"]], bootstrap=20)["accuracy"].iloc[0]
        assert (np.isnan(value) and case["v"] is None) or value == pytest.approx(case["v"], abs=1e-11)


def drawn(problems: int = 60, n: int = 48, seed: int = 0, a: float = 0.5, b: float = 2.0) -> Samples:
    """Problems with Beta pass rates, a noisy score, and four answers of which "0" is right."""
    rng = np.random.default_rng(seed)
    rates = rng.beta(a, b, problems)
    correct = rng.random((problems, n)) < rates[:, None]
    answers = np.where(correct, 0, 1 + rng.integers(0, 3, (problems, n)))
    scores = 1 / (1 + np.exp(-(2.0 * correct - 1 + rng.standard_normal((problems, n)))))
    return Samples.of(correct, scores=scores, answers=answers, tokens=rng.integers(5, 50, (problems, n)))


def test_a_curve_is_the_mean_over_problems_with_an_interval_that_covers_the_truth() -> None:
    inside = 0
    for seed in range(40):
        table = coverage_curve(drawn(seed=seed), [1, 8], interval=0.9, bootstrap=300)
        truth = 0.5 / 2.5
        inside += table["low"].iloc[0] <= truth <= table["high"].iloc[0]
    assert 31 <= inside <= 40  # of 40 at 90 %: 36 expected, five standard errors of 1.9 below is 27
    samples = drawn()
    table = coverage_curve(samples, [1, 8, 49])
    brute = np.mean([pass_at_k(48, c, 8) for c in samples.right])
    assert table["accuracy"].iloc[1] == pytest.approx(brute) and np.isnan(table["accuracy"].iloc[2])
    assert table["accuracy"].iloc[0] == pytest.approx(np.mean(samples.right / 48))


def test_votes_have_a_standard_error_that_shrinks_to_zero_where_all_subsets_are_taken() -> None:
    samples = drawn(problems=20, n=12)
    table = vote_curve(samples, [1, 2, 6, 12])
    assert list(table["standard_error"] == 0) == [True, True, False, True]  # C(12, 6) = 924 subsets are not
    assert table["accuracy"].iloc[0] == pytest.approx(np.mean(samples.right / 12))
    exact = []
    for correct, codes in zip(samples.correct, samples.answers):
        picks, everything = subsets_of(12, 6, 924, np.random.default_rng(0))
        assert everything and len(picks) == 924
        exact.append(vote_accuracy(codes, np.ones(12), correct, picks).mean())
    row = table.iloc[2]
    assert abs(row["accuracy"] - np.mean(exact)) < 4 * row["standard_error"] < 0.03
    with pytest.raises(ValueError, match="subsets: is 25: use 200 or more"):
        vote_curve(samples, [2], subsets=25)


def test_adding_a_k_changes_no_other_point_of_a_vote_curve() -> None:
    samples = drawn(problems=10, n=24)
    one, two = vote_curve(samples, [6]), vote_curve(samples, [3, 6, 12])
    assert one["accuracy"].iloc[0] == two["accuracy"].iloc[1]


def test_the_vote_levels_off_at_the_share_of_problems_whose_mode_is_right() -> None:
    samples = Samples.of(
        [[1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]],
        answers=[["a", "a", "b"], ["b", "b", "a"], ["a", "b", "c"], [None, "", float("nan")]],
    )
    assert vote_limit(samples)["accuracy"].iloc[0] == pytest.approx((1 + 0 + 1 / 3 + 0) / 4)
    many = Samples.of([[1, 1, 0] * 40, [0, 0, 1] * 40], answers=[["a", "a", "b"] * 40, ["b", "b", "a"] * 40])
    assert vote_curve(many, [1, 81])["accuracy"].to_numpy() == pytest.approx([0.5, 0.5], abs=0.02)
    assert vote_limit(many)["accuracy"].iloc[0] == 0.5


def test_best_of_k_reaches_the_best_scored_sample_and_the_noisy_scorer_levels_off_below_coverage() -> None:
    samples = drawn(problems=80, n=64)
    table, covered = best_of_curve(samples), coverage_curve(samples)
    last = [c[np.argmax(s)] for c, s in zip(samples.correct, samples.scores)]
    assert table["accuracy"].iloc[-1] == pytest.approx(np.mean(last))
    assert (table["accuracy"] <= covered["accuracy"] + 1e-12).all()
    assert table["accuracy"].iloc[0] == pytest.approx(covered["accuracy"].iloc[0])


def test_unreadable_answers_score_zero_and_never_vote() -> None:
    samples = Samples.of([[0, 0, 1]], scores=[[0.9, 0.8, 0.1]], answers=[["", None, "x"]])
    assert list(samples.scores[0]) == [0.0, 0.0, 0.1]
    assert best_of_curve(samples, [3])["accuracy"].iloc[0] == 1.0
    assert vote(samples.answers[0]) == 2 and vote(np.array([-1, -1])) is None


def test_a_verifiers_votes_become_scores() -> None:
    scores = genrm_scores([[True, False, True], [None, False], [None, None]], [np.nan, 0.3, np.nan])
    assert scores == pytest.approx([2 / 3, 0.3, 0.0])
    assert genrm_scores([[True, None]])[0] == 1.0


def test_samples_come_from_a_table_in_the_order_of_their_rows(tmp_path) -> None:
    table = pd.DataFrame(
        dict(
            problem=["q", "p", "q"], correct=[1, 0, 0], answer=["7", None, "8"], length=[3, 4, 5], score=[0.5, 0.1, 0.2]
        )
    )
    samples = Samples.from_table(table, columns={"tokens": "length"})
    assert samples.problems == ("q", "p") and list(samples.counts) == [2, 1] and list(samples.right) == [1, 0]
    assert list(samples.answers[0]) == [0, 1] and list(samples.answers[1]) == [-1]
    assert list(samples.tokens[0]) == [3, 5] and samples.first(1).counts.tolist() == [1, 1]
    table.to_json(tmp_path / "samples.jsonl", orient="records", lines=True)
    again = Samples.from_table(tmp_path / "samples.jsonl", columns={"tokens": "length"})
    assert again.problems == samples.problems and list(again.answers[1]) == [-1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(correct=[[0, 2]]), "correct: sample 1 of problem 0 is 2.0: give 0 or 1"),
        (dict(correct=[[0], [1]], scores=[[0.1], [np.nan]]), "scores: sample 0 of problem 1 is nan"),
        (dict(correct=[[0, 1]], answers=[["a"]]), "answers: problem 0 has 1 of them for 2 samples"),
        (dict(correct=[]), "samples: has no problems"),
        (dict(correct=[[1]], scores=[["high"]]), "scores: of problem 0 are not all numbers"),
    ],
)
def test_bad_samples_are_named(given, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Samples.of(**given)


def test_a_missing_column_or_field_is_named() -> None:
    with pytest.raises(ValueError, match="no column 'correct'"):
        Samples.from_table(dict(problem=[1], right=[1]))
    with pytest.raises(ValueError, match="samples: have no answers: give answers= or the column 'answer'"):
        vote_curve(Samples.of([[1]]), [1])


def test_stopped_sampling_is_corrected() -> None:
    rng = np.random.default_rng(0)
    used = 2 + rng.negative_binomial(2, 0.3, 20000)  # samples until the second success
    assert np.mean(2 / used) > 0.35 and np.mean(pass_rate(used, 2, stopped=True)) == pytest.approx(0.3, abs=0.005)
    assert pass_rate(10, 3) == 0.3 and np.isnan(pass_rate(1, 1, stopped=True))


@pytest.fixture(scope="module")
def heterogeneous():
    return fit_coverage(drawn(problems=1200, n=512, a=0.35, b=4.0), up_to=32, bootstrap=60)


def test_heterogeneous_tasks_follow_the_power_law_and_the_counts_extrapolate_16_fold(heterogeneous) -> None:
    assert heterogeneous.r_squared > 0.99
    beta = heterogeneous.beta
    assert [beta.alpha, beta.beta] == pytest.approx([0.35, 4.0], rel=0.2)
    assert heterogeneous.error("beta") < 0.03 and heterogeneous.error("power") < 0.06
    held = heterogeneous.table[heterogeneous.table["held_out"]]
    assert list(held["k"]) == [64, 128, 256, 512]
    assert ((held["beta_low"] < held["measured"]) & (held["measured"] < held["beta_high"])).all()
    shown = heterogeneous.summary()
    assert "R2 0.99" in shown and "mean error beyond k = 32" in shown


def test_homogeneous_tasks_do_not() -> None:
    rng = np.random.default_rng(1)
    laws = fit_coverage(Samples.of(rng.random((300, 256)) < 0.02), bootstrap=0)
    assert laws.r_squared < 0.95 and laws.beta.problem and laws.beta.problem in laws.summary()
    assert np.isnan(laws.error())  # nothing was held out


def test_intervals_of_a_law_come_from_resampled_problems(heterogeneous) -> None:
    """Refitting the law to a curve of resampled problems by hand gives draws of the same spread."""
    from scaling.laws import fit
    from scaling.laws.coverage import COVERAGE_POWER

    draws = heterogeneous.power.samples["b"]
    samples, k = drawn(problems=1200, n=512, a=0.35, b=4.0).first(32), np.array([1, 2, 4, 8, 16, 32])
    values = pass_at_k(32, samples.right[:, None], k)
    rng, refits = np.random.default_rng(3), []
    for _ in range(40):
        mean = values[rng.integers(0, 1200, 1200)].mean(0)
        refits.append(fit(COVERAGE_POWER, dict(samples=k, coverage=mean)).params.b)
    assert np.std(draws) == pytest.approx(np.std(refits), rel=0.4)
    assert heterogeneous.power.draws.kind == "problem"


def test_a_curve_that_is_a_law_gives_its_parameters_and_its_saturation_point() -> None:
    from scaling.laws.saturation import SATURATION, saturation_point

    k = np.array([1, 2, 4, 8, 16, 32, 64])
    values = np.tile(SATURATION(dict(Fmax=0.8, p=0.15), samples=k), (5, 1))
    found = fit_saturation(values, k, gain=0.005, bootstrap=20)
    assert found.samples == saturation_point(0.8, 0.15, 0.005)
    assert found.samples_interval == (found.samples, found.samples)
    fitted = fit_curve(SATURATION, values, {"samples": k}, bootstrap=0)
    assert [fitted.params.Fmax, fitted.params.p] == pytest.approx([0.8, 0.15], rel=1e-6)


def test_the_straight_line_test_leaves_out_what_has_no_logarithm() -> None:
    k = np.array([1.0, 2, 4, 8, 16])
    exact = np.exp(-2.0 * k**-0.4)
    assert straight_line(k, exact) == pytest.approx(1.0)
    assert straight_line(np.append(k, 32), np.append(exact, 1.0)) == pytest.approx(1.0)
    assert np.isnan(straight_line([1, 2], [0.1, 0.2]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(up_to=100), "up_to: is 100 of 8 samples"),
        (dict(up_to=2), "leaves 2 points of the curve"),
        (dict(interval=95), "interval: 95 is not a probability"),
    ],
)
def test_a_fit_that_cannot_be_is_refused(options, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit_coverage(drawn(problems=5, n=8), **options)


def test_a_curve_without_any_success_is_refused() -> None:
    with pytest.raises(ValueError, match="no problem is solved within 8 samples"):
        fit_coverage(Samples.of(np.zeros((4, 8))))


def test_results_of_one_draw_are_the_curves_problem_by_problem() -> None:
    samples = drawn(problems=12, n=16)
    table = selection_results(samples, [1, 4, 16])
    means = table.groupby(["strategy", "budget"])["correct"].mean()
    for name, found in {
        "coverage": coverage_curve(samples, [1, 4, 16]),
        "best_of_n": best_of_curve(samples, [1, 4, 16]),
        "majority": vote_curve(samples, [1, 4, 16]),
        "weighted_vote": vote_curve(samples, [1, 4, 16], weighted=True),
    }.items():
        assert means[name].to_numpy() == pytest.approx(found["accuracy"].to_numpy(), abs=1e-12)
    assert len(table) == 4 * 12 * 3
    later = samples.after(10)
    assert later.counts.tolist() == [6] * 12 and (later.correct[3] == samples.correct[3][10:]).all()
    with pytest.raises(ValueError, match="count: is 16 of 16 samples"):
        samples.after(16)


def test_samples_are_shown_in_one_line_and_missing_ones_are_explained():
    from search.metrics.coverage import coverage_curve

    samples = Samples.of([[1, 0, 0], [0, 0, 0, 0]], scores=[[0.1, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4]])
    assert repr(samples) == (
        "Samples(2 problems, 3 to 4 samples each: 14.3% right, 50.0% of problems at least once; with scores)"
    )
    with pytest.warns(UserWarning, match="NaN from k = 4 on: 1 of 2 problems have fewer samples than that"):
        coverage_curve(samples, [1, 2, 4])
    with pytest.warns(UserWarning, match="NaN ends: one problem says nothing of others"):
        assert coverage_curve(Samples.of([[1, 0, 0]]), [1, 2])["low"].isna().all()


def test_what_scores_tell_apart_equals_counted_pairs() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(dict(
        problem=np.repeat(np.arange(6), 9), correct=rng.integers(0, 2, 54).astype(float),
        score=rng.integers(0, 5, 54) / 4,
    ))  # fmt: skip
    rows.loc[rows["problem"] == 5, "correct"] = 1.0  # nothing to tell apart

    def counted(group: pd.DataFrame) -> float:
        right, wrong = (group.loc[group["correct"] == kind, "score"].to_numpy() for kind in (1, 0))
        wins = (right[:, None] > wrong).sum() + 0.5 * (right[:, None] == wrong).sum()
        return wins / (len(right) * len(wrong))

    found = told_apart(rows)
    assert found["area"] == pytest.approx(counted(rows))
    within = [counted(group) for _, group in rows.groupby("problem") if group["correct"].nunique() == 2]
    assert found["within"] == pytest.approx(np.mean(within))
    assert found["one_sample"] == rows["correct"].mean()
    assert np.isnan(told_apart(rows[rows["problem"] == 5])["area"])
