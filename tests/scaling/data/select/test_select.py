"""Selection of examples: pruning equals a loop, prototypes are planted clusters', the student's margin is largest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from scaling.data.select import Teacher, keep, max_margin, prototype_distances


def kept_by_a_loop(scores: list[int], count: int, rule: str, classes: list[int], balance: float) -> list[int]:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i] if rule == "hard" else scores[i], i))
    least = int(balance * count / len(set(classes)))
    taken = [i for i in order if [j for j in order if classes[j] == classes[i]].index(i) < least] if balance else []
    for i in order:
        if len(taken) < count and i not in taken:
            taken.append(i)
    return sorted(taken)


@given(st.data())
def test_what_is_kept_is_what_a_loop_over_ranks_keeps(data: st.DataObject) -> None:
    scores = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=12))
    classes = data.draw(st.lists(st.integers(0, 2), min_size=len(scores), max_size=len(scores)))
    count = data.draw(st.integers(0, len(scores)))
    rule = data.draw(st.sampled_from(["hard", "easy"]))
    balance = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    found = keep(scores, count, rule, classes=classes, balance=balance)
    assert found.tolist() == kept_by_a_loop(scores, count, rule, classes, balance)


def test_random_pruning_reads_no_score_and_its_seed_decides() -> None:
    one = keep(np.arange(100), 10, "random", seed=1)
    assert one.tolist() == keep(-np.arange(100), 10, "random", seed=1).tolist()
    assert one.tolist() != keep(np.arange(100), 10, "random", seed=2).tolist() and len(set(one)) == 10
    with pytest.raises(ConfigError, match="did you mean hard"):
        keep([1.0], 1, "hadr")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is 3 of 2 examples"):
        keep([1.0, 2.0], 3, "hard")


def test_the_distance_to_the_nearest_prototype_is_that_to_the_planted_centre() -> None:
    rng = np.random.default_rng(0)
    centres = 20 * np.eye(4)
    names = np.repeat(np.arange(4), 25)
    x = centres[names] + 0.1 * rng.standard_normal((100, 4))
    means = np.array([x[names == name].mean(0) for name in range(4)])
    expected = np.linalg.norm(x - means[names], axis=1)
    np.testing.assert_allclose(prototype_distances(x, 4), expected, rtol=1e-12)
    far = keep(prototype_distances(np.vstack([x, [[10.0, 10, 10, 10]]]), 4), 1, "hard")
    assert far.tolist() == [100]


def test_the_student_has_the_largest_margin() -> None:
    """The conditions of Karush, Kuhn and Tucker, which only the optimum of this convex problem meets."""
    x, y = Teacher(5, seed=3).examples(40)
    w = max_margin(x, y)
    margins = y * (x @ w)
    assert margins.min() > 1 - 1e-9
    support = margins < 1 + 1e-7
    duals, *_ = np.linalg.lstsq((x[support] * y[support, None]).T, w, rcond=None)
    assert (duals > 0).all()
    np.testing.assert_allclose((x[support] * y[support, None]).T @ duals, w, atol=1e-9)
    np.testing.assert_allclose(max_margin([[2.0, 0.0], [-4.0, 1.0]], [1, -1]), [0.5, 0.0], atol=1e-12)  # by hand
    with pytest.raises(ConfigError, match="cannot be separated"):
        max_margin([[1.0], [1.0]], [1, -1])


def test_the_error_is_the_share_of_inputs_on_which_student_and_teacher_differ() -> None:
    teacher = Teacher(10, seed=1)
    student = teacher.probe(0.3)
    x, y = teacher.examples(200_000)
    assert teacher.error(teacher.vector) == pytest.approx(0, abs=1e-7)
    assert teacher.error(student) == pytest.approx(0.3 / np.pi)
    share = np.mean(np.sign(x @ student) != y)
    assert teacher.error(student) == pytest.approx(share, abs=4 * np.sqrt(0.1 * 0.9 / len(x)))


def test_the_best_rule_turns_with_the_amount_of_data() -> None:
    """Sorscher et al. 2022, figure 1, at a dimension of 50; the margins are far beyond the spread over seeds."""
    def errors(kept: int) -> dict[str, float]:
        return {rule: np.mean([Teacher(50, seed).pruned_error(kept, 0.2, rule) for seed in range(4)])
                for rule in ("hard", "easy", "random")}  # fmt: skip

    many, few = errors(400), errors(50)
    assert many["hard"] < 0.8 * many["easy"] < many["random"]
    assert few["easy"] < 0.6 * few["random"] < few["hard"]
