"""Verifiers: exact, noisy and imperfect ones are what they say, and one that fails does not stop the others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit

from models.errors import ConfigError
from scaling.tasks import task_by_name
from search.verifiers import sandbox
from search.verifiers.imperfect import Careless, Imperfect
from search.verifiers.oracle import Adversarial, Noisy, Oracle
from search.verifiers.program import Case, ProgramVerifier
from search.verifiers.verifier import SMALLEST, judge, uniform

COUNTDOWN = task_by_name("countdown:numbers=3,largest=9")
PROBLEMS = COUNTDOWN.generate(0, 20)


def texts() -> list[str]:
    """A random legal completion of each problem."""
    rng = np.random.default_rng(0)
    return [COUNTDOWN.random_completion(problem, rng) for problem in PROBLEMS]


def test_the_oracle_says_what_the_task_knows() -> None:
    prefixes = [text.partition("|")[0] + "|" for text in texts()]
    for says, asked in (("value", COUNTDOWN.value), ("solvable", COUNTDOWN.solvable),
                        ("process", COUNTDOWN.process_reward), ("correct", COUNTDOWN.verify)):  # fmt: skip
        scores = Oracle(COUNTDOWN, says).score(PROBLEMS, prefixes)
        exact = [asked(problem, prefix) for problem, prefix in zip(PROBLEMS, prefixes, strict=True)]
        assert np.allclose(scores, exact, atol=1.1 * SMALLEST) and (scores > 0).all() and (scores < 1).all()
    with pytest.raises(ConfigError, match=r"oracle.says: is 'truth': use one of value"):
        Oracle(COUNTDOWN, "truth")


def test_noise_is_normal_and_belongs_to_the_text() -> None:
    class Half:
        def score(self, problems, completions):
            return np.full(len(completions), 0.5)

    noisy, many = Noisy(Half(), 2.0), [str(i) for i in range(4000)]
    noise = logit(noisy.score([PROBLEMS[0]] * 4000, many))
    assert abs(noise.mean()) < 4 * 2 / 4000**0.5 and abs(noise.std() / 2 - 1) < 4 / 8000**0.5
    assert np.allclose(noise[::-1], logit(noisy.score([PROBLEMS[0]] * 4000, many[::-1])))
    assert not np.allclose(noise, logit(noisy.score([PROBLEMS[1]] * 4000, many)))
    assert not np.allclose(noise, logit(Noisy(Half(), 2.0, seed=1).score([PROBLEMS[0]] * 4000, many)))
    exact = Oracle(COUNTDOWN)
    assert np.allclose(Noisy(exact, 0.0).score(PROBLEMS, texts()), exact.score(PROBLEMS, texts()))
    with pytest.raises(ConfigError, match=r"noisy.sigma: is -1"):
        Noisy(exact, -1)


def test_the_adversary_prefers_what_the_oracle_likes_least() -> None:
    exact = Oracle(COUNTDOWN).score(PROBLEMS, texts())
    turned = Adversarial(Oracle(COUNTDOWN)).score(PROBLEMS, texts())
    assert (np.argsort(turned, kind="stable") == np.argsort(-exact, kind="stable")).all()
    assert (turned > 0).all() and (turned < 1).all()


@pytest.mark.parametrize(("false_positives", "false_negatives"), [(0.1, 0.0), (0.0, 0.3), (0.2, 0.4)])
def test_an_imperfect_verifier_errs_at_its_rates_on_the_same_answers(false_positives, false_negatives) -> None:
    task = task_by_name("arithmetic")
    problems = [problem for problem in task.generate(0, 2000) for _ in range(2)]
    answers = [f"{i % 2 * 7 + problem.instance[0] * problem.instance[1]}." for i, problem in enumerate(problems)]
    verifier = Imperfect(Oracle(task, "correct"), false_positives, false_negatives, task)
    accepted = verifier.score(problems, answers) > 0.5
    for right, expected in ((True, 1 - false_negatives), (False, false_positives)):
        share = accepted[0 if right else 1 :: 2].mean()
        assert abs(share - expected) <= 4 * (expected * (1 - expected) / 2000) ** 0.5
    assert (verifier.score(problems[::-1], answers[::-1])[::-1] == verifier.score(problems, answers)).all()
    again = Imperfect(Oracle(task, "correct"), false_positives, false_negatives, task, seed=1)
    assert (again.score(problems, answers) != verifier.score(problems, answers)).any()


def test_one_answer_in_two_spellings_is_judged_alike() -> None:
    task = task_by_name("countdown:numbers=2,largest=9,smallest_target=2")
    problems = task.generate(0, 300)
    first = [f"{b}+{a}={a + b}>{a + b}." for a, b in (problem.instance[0] for problem in problems)]
    second = [f"{a}+{b}={a + b}>{a + b}." for a, b in (problem.instance[0] for problem in problems)]
    verifier = Imperfect(Oracle(task, "correct"), 0.5, 0.5, task)
    assert (verifier.score(problems, first) == verifier.score(problems, second)).all()
    with pytest.raises(ConfigError, match=r"imperfect.false_positives: is 1.5"):
        Imperfect(Oracle(task), 1.5)


def test_a_checker_that_forgets_what_was_used_has_known_false_positives() -> None:
    task = task_by_name("countdown:numbers=3")
    problem, careless = task.problem((3, 5, 8), 16), Careless(task)
    right, reuse = "8+5=13>3,13|13+3=16>16.", "8+5=13>3,13|8+8=16>16."
    wrong = ["8+5=13>3,13|13+3=17>16.", "8+5=13>3,13|9+7=16>16.", "8+5=13>3,13|13*3=39>39.", right[:-1], "?."]
    scores = careless.score([problem] * 7, [right, reuse, *wrong])
    assert (scores > 0.5).tolist() == [True, True] + [False] * 5
    assert [task.verify(problem, text) for text in (right, reuse)] == [True, False]


class Fails:
    """Raises on one problem and gives something that is no score on another."""

    def __init__(self, bad: float):
        self.bad = bad

    def score(self, problems, completions):
        if PROBLEMS[2] in problems:
            raise RuntimeError("broken")
        return np.asarray([self.bad if problem == PROBLEMS[5] else 0.25 for problem in problems])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.5, -0.1])
def test_a_verifier_that_fails_on_a_problem_marks_that_problem_only(bad: float) -> None:
    problems = [*PROBLEMS, PROBLEMS[2]]
    judged = judge(Fails(bad), problems, [""] * len(problems))
    assert set(judged.failed) == {2, 5, 20} and judged.failed[2] == judged.failed[20] == "RuntimeError: broken"
    assert judged.failed[5] == f"gave the score {bad}"
    assert (judged.scores[[2, 5, 20]] == SMALLEST).all() and (np.delete(judged.scores, [2, 5, 20]) == 0.25).all()


def test_scores_of_a_wrong_shape_are_no_scores() -> None:
    class One(Fails):
        def score(self, problems, completions):
            return np.asarray([0.5])

    judged = judge(One(0), PROBLEMS[:3], ["", "", ""])
    assert judged.failed == {} and (judged.scores == 0.5).all()  # one at a time, one score is right
    judged = judge(One(0), [PROBLEMS[0]] * 3, ["", "", ""])
    assert judged.failed == dict.fromkeys(range(3), "gave scores of shape (1,) for 3 completions")
    with pytest.raises(ValueError, match="1 problems and 0 completions"):
        judge(One(0), PROBLEMS[:1], [])


def test_counter_based_draws_are_uniform() -> None:
    draws = np.asarray([uniform("test", i) for i in range(5000)])
    counts = np.histogram(draws, 20, (0, 1))[0]
    assert ((counts - 250) ** 2 / 250).sum() < 50  # chi-square with 19 degrees of freedom: 43.8 at 0.001


DOUBLE = [Case("3", "6\n"), Case("-4", "-8"), Case("10", "20")]


@pytest.mark.skipif(not sandbox.levels(), reason="this machine has no sandbox")
def test_a_program_is_judged_by_what_it_prints() -> None:
    problem = PROBLEMS[0]
    verifier = ProgramVerifier(lambda _: DOUBLE, limits=sandbox.Allowance(seconds=60))
    assert verifier.level == sandbox.best_level()
    programs = {
        "print(2 * int(input()))": 1.0,
        "print(abs(2 * int(input())), '  ')": 2 / 3,
        "import os; os._exit(0)": 0.0,
        "raise SystemExit(0)": 0.0,
        "print(2 * int(input())); print('more')": 0.0,
        "print(6)": 1 / 3,
        "this is no program": 0.0,
        "": 0.0,
    }
    scores = verifier.score([problem] * len(programs), list(programs))
    assert np.allclose(scores, list(programs.values()), atol=2 * SMALLEST)
    strict = ProgramVerifier(lambda _: DOUBLE, limits=sandbox.Allowance(seconds=60), all_or_nothing=True)
    assert np.allclose(strict.score([problem] * 2, list(programs)[:2]), [1, 0], atol=2 * SMALLEST)


@pytest.mark.skipif(not sandbox.levels(), reason="this machine has no sandbox")
def test_the_expected_output_never_reaches_the_program() -> None:
    snoop = """
import gc, os, sys
seen = [sys.stdin.read(), str(dict(os.environ)), str(sys.argv), open(__file__).read()]
seen += [str(thing) for thing in gc.get_objects() if isinstance(thing, (str, bytes, dict, list, tuple))]
expected = "".join(map(str, [7, 7, 8, 1, 3, 5, 6, 0, 2]))
print(any(expected in text for text in seen if text is not expected))
"""
    verifier = ProgramVerifier(lambda _: [Case("x", "778135602")], limits=sandbox.Allowance(seconds=60))
    outcome = sandbox.run(snoop, b"x", verifier.limits, verifier.level)
    assert outcome.output == b"False\n"
    assert verifier.score(PROBLEMS[:1], [snoop])[0] == SMALLEST


def test_a_program_verifier_without_a_sandbox_cannot_be_made(monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "levels", lambda: ())
    with pytest.raises(ConfigError, match="so none is run"):
        ProgramVerifier(lambda _: DOUBLE)


def test_a_problem_without_cases_is_marked() -> None:
    if sandbox.levels():
        judged = judge(ProgramVerifier(lambda _: []), PROBLEMS[:1], ["print(1)"])
        assert "has no cases to test a program on" in judged.failed[0]
