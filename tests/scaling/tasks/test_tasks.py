"""Every task: pure, disjoint generators, verifiers that agree with a direct replay, process rewards, exact values."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError
from scaling.tasks import TASKS, task_by_name
from scaling.tasks.computation import Computation
from scaling.tasks.dag import Node
from scaling.tasks.hanoi import Hanoi
from scaling.tasks.planted import Planted, chance
from scaling.tasks.state_space import StateSpace
from scaling.tasks.tag import Tag
from scaling.tasks.task import side
from tests.scaling.tasks.replay import is_right

NAMES = [
    *TASKS,
    "countdown:numbers=4",
    "hanoi:disks=2,slack=3",
    "river:slack=2",
    "blocks:blocks=3,slack=1",
    "arithmetic:operation=add,style=scratchpad,digits=3",
    "arithmetic:operation=multiply,style=scratchpad",
    "arithmetic:style=reversed",
    "arithmetic:operation=max,fewest_digits=1",
    "arithmetic:operation=mod",
    "modular:operations=5,per_step=2",
    "modular:operations=2,per_step=0",
    "reasoned:operations=2,slips=45",
    "facts:hops=2,known=60",
    "dag:leaves=3,middle=3,layers=2",
    "tag:letters=2",
    "copy:order=reverse",
    "recall:negated=30",
]
WALKS = [name for name in NAMES if isinstance(task_by_name(name), StateSpace)]
COMPUTATIONS = [name for name in NAMES if isinstance(task_by_name(name), Computation)]


@pytest.mark.parametrize("name", NAMES)
def test_problems_are_a_pure_function_and_train_never_meets_test(name: str) -> None:
    task = task_by_name(name)
    train, test = task.generate(3, 60), task.generate(3, 6, "test")
    assert train == task.generate(3, 60) and train[:10] == task.generate(3, 10) != task.generate(4, 10)
    assert {side(task.name, problem.canonical) for problem in train} == {"train"}
    assert {side(task.name, problem.canonical) for problem in test} == {"test"}
    assert len({problem.canonical for problem in test}) == 6
    more = {problem.canonical for problem in task.generate(8, 200)}
    assert not more & {problem.canonical for problem in test}


def test_problems_that_differ_only_in_writing_are_on_one_side() -> None:
    arithmetic, graph = task_by_name("arithmetic"), task_by_name("path_star")
    assert arithmetic.problem(12, 34).canonical == arithmetic.problem(34, 12).canonical
    assert task_by_name("arithmetic:operation=mod").problem(12, 34) != arithmetic.problem(34, 12)
    problem = graph.generate(0, 1)[0]
    reverse = problem.instance._replace(edges=problem.instance.edges[::-1])
    assert graph.problem(reverse).canonical == problem.canonical and graph.problem(reverse) != problem


def test_a_split_that_holds_too_few_problems_says_so() -> None:
    with pytest.raises(ConfigError, match=r"count: Hanoi\(disks=2, slack=0\) has only \d+ distinct problems"):
        Hanoi(2).generate(0, 100, "test")
    assert len(Hanoi(2).generate(0, 100, "train")) == 100


def completions(task, problem, rng: np.random.Generator) -> list[str]:
    """A solution and random legal or wrong texts."""
    texts = [task.solution(problem, rng)]
    if isinstance(task, StateSpace):
        texts += [task.random_completion(problem, rng) for _ in range(3)]
    return texts


@pytest.mark.parametrize("name", NAMES)
def test_right_answers_are_accepted_and_mutations_judged_as_a_replay_judges_them(name: str) -> None:
    task, rng = task_by_name(name), np.random.default_rng(1)
    rejected = 0
    for problem in task.generate(1, 25):
        assert task.verify(problem, completions(task, problem, rng)[0])
        for text in completions(task, problem, rng):
            assert task.verify(problem, text) == is_right(task.name, problem.prompt, text), (problem.prompt, text)
            assert (task.answer(text) is not None) and task.value(problem, text) == task.verify(problem, text)
            for _ in range(10):
                place, character = (
                    int(rng.integers(len(text) + 1)),
                    task.alphabet[int(rng.integers(len(task.alphabet)))],
                )
                kind = int(rng.integers(3))
                changed = text[:place] + character * (kind > 0) + text[place + (kind < 2) :]
                verdict = task.verify(problem, changed)
                assert verdict == is_right(task.name, problem.prompt, changed), (problem.prompt, changed)
                assert task.value(problem, changed) == verdict if changed.endswith(".") else not verdict
                rejected += not verdict and task.verify(problem, text)
    assert rejected > 100


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@given(data=st.data())
def test_any_text_is_an_answer(name: str, data) -> None:
    task = task_by_name(name)
    problem = task.generate(5, 1)[0]
    text = data.draw(st.text(alphabet=task.alphabet + ".|=\n٣é", max_size=40) | st.text(max_size=10))
    assert task.verify(problem, text) == (is_right(task.name, problem.prompt, text))
    answer, reward, value = task.answer(text), task.process_reward(problem, text), task.value(problem, text)
    assert answer is None or task.end in text
    assert 0 <= reward <= 1 and 0 <= value <= 1 and task.solvable(problem, text) == (value > 0)
    task.verify(problem, "9" * 5000 + task.end)


@pytest.mark.parametrize("name", NAMES)
def test_process_rewards_follow_a_solution_and_drop_at_the_first_error(name: str) -> None:
    task, rng = task_by_name(name), np.random.default_rng(2)
    for problem in task.generate(2, 10):
        text = task.solution(problem, rng)
        steps = text.count(task.delimiter) + 1
        rewards = task.step_rewards(problem, text)
        assert len(rewards) == steps and rewards == sorted(rewards) and rewards[-1] == 1
        first = text.split(task.delimiter)[0]
        wrong = f"{first[:-1]}?{task.delimiter}" + text[len(first) + 1 :]
        assert task.step_rewards(problem, wrong) == [0.0] * len(task.step_rewards(problem, wrong))
        assert task.process_reward(problem, text + "x") == task.value(problem, text + "x") == 0


@pytest.mark.parametrize("name", WALKS)
def test_the_value_is_the_average_over_legal_moves_down_to_the_replay(name: str) -> None:
    task, rng = task_by_name(name), np.random.default_rng(3)
    for problem in task.generate(3, 3):
        prefix, state, made = "", task.start(problem), 0
        assert task.solvable(problem)
        for _ in range(4):
            moves = task.moves(problem, state)
            texts = [step + task.closing(problem, following, made + 1) for step, following in moves]
            if not texts:
                break
            values = [task.value(problem, prefix + text) for text in texts]
            assert task.value(problem, prefix) == pytest.approx(np.mean(values), rel=1e-12)
            for text, value in zip(texts, values, strict=True):
                if text.endswith(task.end):
                    assert value == is_right(task.name, problem.prompt, prefix + text)
            choice = int(rng.integers(len(moves)))
            prefix, state, made = prefix + texts[choice], moves[choice][1], made + 1
            if prefix.endswith(task.end):
                break


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_the_value_of_a_computation_is_where_right_steps_lead(name: str) -> None:
    task, rng = task_by_name(name), np.random.default_rng(4)
    for problem in task.generate(4, 20):
        steps = task.right_steps(problem)
        for stop in range(len(steps)):
            prefix = "".join(step + task.delimiter for step in steps[:stop])
            assert task.value(problem, prefix) == task.process_reward(problem, prefix) == 1
            assert task.conclude(problem, steps[:stop]) == task.right_answer(problem)
        too_long = task.delimiter.join(steps) + task.delimiter
        assert task.value(problem, too_long) == task.process_reward(problem, too_long) == 0
        assert task.solution(problem, rng) == task.delimiter.join(steps) + task.end


def test_an_error_in_a_chain_goes_on_and_may_cancel() -> None:
    modular = task_by_name("modular:operations=2")
    problem = modular.problem([3, 5, 2], ["+", "*"])
    assert problem.prompt == "7:3+5*2=" and modular.solution(problem, np.random.default_rng(0)) == "3+5=1|1*2=2."
    assert modular.value(problem, "3+5=2|") == 0 and modular.verify(problem, "3+5=2|2*2=2.")
    cancels = modular.problem([3, 5, 0], ["+", "*"])
    assert modular.value(cancels, "3+5=2|") == 1 and modular.process_reward(cancels, "3+5=2|") == 0
    scratchpad = task_by_name("arithmetic:operation=add,style=scratchpad")
    problem = scratchpad.problem(37, 48)
    assert scratchpad.solution(problem, np.random.default_rng(0)) == "7+8+0=15|3+4+1=8|85."
    assert scratchpad.conclude(problem, ["7+8+0=16"]) == "86" and scratchpad.conclude(problem, ["7+8+0=5"]) == "75"
    product = task_by_name("arithmetic:style=scratchpad").problem(12, 34)
    assert task_by_name("arithmetic:style=scratchpad").right_steps(product) == ["48", "360", "408"]
    plain = task_by_name("arithmetic")
    assert plain.digit_match(plain.problem(12, 34), "418.") == pytest.approx(2 / 3)


def test_a_thought_may_be_none_end_early_or_take_results_back() -> None:
    task, rng = task_by_name("reasoned:operations=2"), np.random.default_rng(0)
    problem = task.problem([3, 5, 2], ["+", "*"])
    whole = task_by_name("reasoned:operations=2,slips=0,direct=0,cut=0")
    assert problem.prompt == "7:3+5*2=" and whole.solution(problem, rng) == "3+5=1|1*2=2|:2."
    written = {task.solution(problem, rng) for _ in range(400)}
    assert {"!2.", "3+5=1|!2.", "3+5=1|1*2=2|:2.", "3+5=4~1|1*2=2|:2."} <= written
    assert all(task.verify(problem, text) and task.process_reward(problem, text) == 1 for text in written)
    assert task.value(problem, "3+5=4~1|") == 1 == task.process_reward(problem, "3+5=4~1|")
    assert task.value(problem, "3+5=1~4|") == 0 == task.process_reward(problem, "3+5=1~4|")
    assert task.value(problem, "3+5=1|1*2=2|2+0=2|") == 0 and not task.verify(problem, "3+5=|:2.")
    assert task.verify(problem, "3+5=4|:2.") and task.process_reward(problem, "3+5=4|:2.") == 0


def test_contracted_questions_stand_for_themselves_and_never_grow() -> None:
    task = task_by_name("dag:leaves=2,layers=0")
    asked = task.problem([Node("a", "3", "+", "4"), Node("b", "2", "*", "5"), Node("c", "a", "-", "b")])
    assert asked.prompt == "a3+4,b2*5,ca-b=" and task.atoms(asked) == [("", "a7,b0?c7-0;"), ("?c7-0;", "c7.")]
    assert task.solution(asked, np.random.default_rng(0)) == "a3+4=7|b2*5=0|c7-0=7."
    assert task.verify(asked, "?c7-0;c7.") and task.verify(asked, "a3+4=1|c0*1=7.") and not task.verify(asked, "c8.")
    assert task.value(asked, "a3+4=8|") == 0 and task.conclude(asked, ["a3+4=8"]) == "8"
    large = task_by_name("dag:leaves=5,middle=3,layers=2")
    for problem in large.generate(0, 40):
        atoms = large.atoms(problem)
        follows = [written.endswith(asked) for (_, written), (asked, _) in itertools.pairwise(atoms)]
        assert len(atoms) == 4 and all(follows)
        assert large.verify(problem, "".join(atoms[-1]))
        lengths = [len(problem.prompt), *(len(asked) for asked, _ in atoms[1:])]
        assert lengths == sorted(lengths, reverse=True)
        for question, _ in atoms[1:]:
            nodes = [Node(*node) for node in question[1:-1].split(",")]
            assert large.right_answer(large.problem(nodes)) == large.right_answer(problem)


def test_wrong_recollections_are_taken_back_and_only_known_facts_are_told() -> None:
    task, rng = task_by_name("facts:hops=3,known=40,again=60"), np.random.default_rng(0)
    first, second = task.fact("k", "3"), task.fact(task.fact("k", "3"), "1")
    two = task_by_name("facts:hops=2")
    asked = two.problem("k", "31")
    right = f"k3{first}|{first}1{second}|"
    other = "a" if second != "a" else "b"
    assert asked.prompt == "k31=" and two.solution(asked, rng) == f"{right}:{second}."
    assert two.verify(asked, f":{second}.") and not two.verify(asked, f"{right}:{other}.")
    assert two.process_reward(asked, f"k3{first}|{first}1{other}|") == 0
    assert two.process_reward(asked, f"k3{first}|{first}1{other}|~k3{first}|") == 1 == two.value(asked, right)
    assert two.value(asked, f"k3{first}|{first}1{other}|") == 0
    assert two.process_reward(asked, f"{right}~{right}:{other}.") == 0
    assert sum(task.knows(e, r) for e in "abcdefghijklmnopqrstuvwxyz" for r in "01234567") == 84
    rounds = []
    for problem in task.generate(0, 400):
        thought, _, answer = task.solution(problem, rng).partition(":")
        *wrong, last = [one.strip("|").split("|") for one in thought.split("~")]
        assert last == task.right_steps(problem) and answer == f"{task.right_answer(problem)}."
        for steps in wrong:
            assert [step[1] for step in steps] == list(problem.instance[1]) and steps[-1][-1] != last[-1][-1]
            assert sum(step[-1] != task.fact(*step[:2]) for step in steps) == 1
        facts = [step for steps in (*wrong, last) for step in steps if step[-1] == task.fact(*step[:2])]
        assert all(task.knows(*step[:2]) for step in facts)
        rounds.append(len(wrong))
    expected = sum(0.6**i for i in range(1, 5))
    assert abs(np.mean(rounds) - expected) < 4 * np.std(rounds) / 20


def test_a_thought_is_executed_whatever_results_it_wrote() -> None:
    task = task_by_name("reasoned:operations=2")
    given = {"3+5=1|1*2=2|:2.": "2", "3+5=4~1|1*2=6|:6.": "2", "3+5=4|4*2=1|:1.": "2", "3-5=5|5*6=2|:2.": "2",
             "3+5=1|:1.": "1", "3+5=1|!2.": None, "!2.": None, ":2.": None, "3+5=|:2.": None,
             "3+5=1|": None}  # fmt: skip
    assert {text: task.executed(text) for text in given} == given


def test_slips_come_at_their_rate_and_differ_between_chains_more_than_within() -> None:
    task, rng = task_by_name("reasoned:operations=8,slips=20,direct=0,cut=0"), np.random.default_rng(0)
    (problem,) = task.generate(0, 1)
    taken = np.array([task.solution(problem, rng).count("~") for _ in range(1500)])
    rates = rng.uniform(0, 0.4, 10**6)
    expected = rates / (1 - rates)  # slips of a step are geometric
    variance = (expected / (1 - rates)).mean() * 8 + 64 * expected.var()
    assert abs(taken.mean() - 8 * expected.mean()) < 4 * np.sqrt(variance / 1500)
    assert taken.var() / variance == pytest.approx(1, abs=0.2) and variance > 1.4 * taken.mean()


def test_all_functions_are_those_of_every_program_with_their_shares() -> None:
    task = task_by_name("program:modulus=3,examples=3")
    shares: dict[tuple[int, ...], float] = {}
    for length in (1, 2, 3):
        for steps in itertools.product(task.spelled, repeat=length):
            outputs = tuple(map(int, task.answer("|".join(steps) + ".").split(",")))
            shares[outputs] = shares.get(outputs, 0.0) + 1 / 3 / len(task.spelled) ** length
    outputs, share = task.functions()
    assert dict(zip(map(tuple, outputs.tolist()), share.tolist())) == pytest.approx(shares)


def test_a_program_may_pass_what_is_shown_and_fail_the_rest() -> None:
    task = task_by_name("program:examples=2")
    problem = task.problem((0, 1, 4, 2, 2, 4, 1), (1, 0))  # squares modulo 7
    assert problem.prompt == "1:1,0:0>" and task.verify(problem, "s.") and task.passes(problem, "s.")
    assert task.passes(problem, "s|s.") and not task.verify(problem, "s|s.")
    assert not task.passes(problem, "+1.") and not task.passes(problem, "s|")


@pytest.mark.parametrize(
    ("name", "prompt", "first", "second", "same"),
    [
        ("countdown", "", "5+3=8>8,8|8+8=16>16.", "3+5=8>8,8|8+8=16>16.", True),
        ("countdown", "", "8-5=3>3,3|3*3=9>9.", "8-3=5>5,5|5+5=10>10.", False),
        ("river", "", "ab|a.", "ba|a.", True),
        ("modular", "", "3+5=1|1*2=2.", "1*2=2.", True),
        ("reasoned", "", "3+5=1|:2.", "!2.", True),
        ("program", "", "+1|+2.", "+3.", True),
        ("path_star", "", "1|2.", "1|3.", False),
    ],
)
def test_votes_count_what_an_answer_says(name: str, prompt: str, first: str, second: str, same: bool) -> None:
    answers = [task_by_name(name).answer(text) for text in (first, second)]
    assert None not in answers and (answers[0] == answers[1]) == same
    assert task_by_name(name).answer(first[:-1]) is None


@pytest.mark.parametrize(
    ("symbols", "size", "shares"),
    [
        (4, 2, (0.184, 0.381, 0.645, 0.883)),
        (4, 3, (0.031, 0.092, 0.203, 0.386)),
        (10, 3, (0.002, 0.006, 0.0139, 0.0296)),
    ],
)
def test_random_letters_hold_a_pattern_as_often_as_enumerated(symbols: int, size: int, shares: tuple) -> None:
    """Against a count of all texts of four letters, and the shares that were computed for longer ones."""
    letters = "abcdefghij"[:symbols]
    patterns = ["".join(one) for one in itertools.product(letters, repeat=size)]
    texts = ["".join(one) for one in itertools.product(letters, repeat=4)] if symbols == 4 else []
    if texts:
        counted = [np.mean([pattern in text for text in texts]) for pattern in patterns]
        assert [chance(pattern, symbols, 4) for pattern in patterns] == pytest.approx(counted, rel=1e-12)
    for letters_written, share in zip((4, 8, 16, 32), shares, strict=True):
        assert chance("abc"[:size], symbols, letters_written) == pytest.approx(share, abs=1e-3)  # of unlike letters
    task = Planted(symbols=symbols, pattern=size, horizon=8)
    problem = task.generate(0, 1)[0]
    assert task.value(problem, "") == task.value(problem, "ab") == chance(problem.instance, symbols, 8)


RECORDED = 400  # systems, at least, behind each line of the file: its shares are multiples of 1/400 or 1/1000


def recorded(name: str) -> dict:
    """A line of the recorded baselines."""
    path = Path(os.environ.get("ISOFLOP_DATA", "/nonexistent")) / "testtime" / "random_policy_baselines.json"
    if not path.exists():
        pytest.skip("ISOFLOP_DATA is not set")
    return json.loads(path.read_text())[name]


@pytest.mark.parametrize("disks", [2, 3, 4, 5])
def test_random_moves_solve_hanoi_as_rarely_as_recorded(disks: int) -> None:
    task, expected = Hanoi(disks), recorded(f"hanoi N={disks}")
    problem = task.problem("A" * disks, "C" * disks)
    assert task.distances(problem)[task.start(problem)] == expected["opt_moves"]
    assert task.value(problem, "") == pytest.approx(expected["uniform_random_optimal_prob"], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("tag ABC r1-3 s2-5 T=8", Tag(steps=8)),
        ("tag ABCDE r1-5 s2-9 T=30 (TMBench)", Tag(5, 5, 2, 9, steps=30)),
    ],
)
def test_tag_systems_halt_and_grow_as_recorded(name: str, task: Tag) -> None:
    """The recorded systems may come back to a state, which ours may not: they are drawn here."""
    expected, rng = recorded(name), np.random.default_rng(0)

    def word(shortest: int, longest: int) -> str:
        return "".join(rng.choice(list("ABCDE"[: task.letters]), int(rng.integers(shortest, longest + 1))))

    halted, longest = [], []
    for _ in range(1500):
        rules = tuple(word(1, task.longest_rule) for _ in range(task.letters))
        problem = task.problem(rules, word(task.shortest_start, task.longest_start))
        run = [problem.instance[1], *task.right_steps(problem)]
        halted.append(run[-1].endswith("!"))
        longest.append(max(len(state.rstrip("!")) for state in run))
    error = (np.var(halted) * (1 / 1500 + 1 / RECORDED)) ** 0.5
    assert abs(np.mean(halted) - expected["halt_frac"]) < 3 * error
    for share, key in ((0.5, "median_maxlen"), (0.95, "p95_maxlen")):
        error = 3 * (share * (1 - share) * (1 / 1500 + 1 / RECORDED)) ** 0.5  # of a quantile, as a share
        low, high = np.quantile(longest, [share - error, min(share + error, 1)])
        assert low - 0.5 <= expected[key] <= high + 0.5


def test_every_move_of_a_puzzle_but_checkers_can_be_undone() -> None:
    for name in ("hanoi", "river", "blocks"):
        task = task_by_name(name)
        for state in [task.anchor(), *(following for _, following in task.neighbours(task.anchor()))]:
            for _, following in task.neighbours(state):
                assert state in [back for _, back in task.neighbours(following)]


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_full_checkers_take_the_known_number_of_moves(most: int) -> None:
    task = task_by_name(f"checkers:checkers={most}")
    problem = task.problem("R" * most + "_" + "B" * most, "B" * most + "_" + "R" * most)
    assert problem.instance.limit == (most + 1) ** 2 - 1


def test_three_pairs_cross_in_eleven() -> None:
    task = task_by_name("river")
    problem = task.problem(task.anchor(), (frozenset(), "R"))
    assert problem.prompt == "ABCabcL>R:" and problem.instance.limit == 11
    assert task.optimality_gap(problem, task.solution(problem, np.random.default_rng(0))) == 0


@pytest.mark.parametrize("name", ["river:slack=2", "hanoi:disks=2,slack=3"])
def test_slack_allows_detours_and_no_more(name: str) -> None:
    task, rng = task_by_name(name), np.random.default_rng(5)
    problem, right = task.generate(0, 1)[0], []
    for _ in range(20_000 if name.startswith("hanoi") else 3000):
        text = task.random_completion(problem, rng)
        assert text.count("|") < problem.instance.limit
        right.append(task.verify(problem, text))
    value = task.value(problem, "")
    assert abs(np.mean(right) - value) < 4 * (value * (1 - value) / len(right)) ** 0.5


def test_a_fact_derived_ahead_of_a_chain_leaves_its_answer_as_it_is_and_a_wrong_one_does_what_it_says() -> None:
    task = task_by_name("modular:operations=6")
    for problem in task.generate(0, 20):
        steps = task.right_steps(problem)
        for done in range(6):
            for value in range(7):
                rest = task.rest(problem, done, value)
                assert len(rest.instance[1]) == 6 - done
                operands, signs = rest.instance
                total = operands[0]
                for sign, operand in zip(signs, operands[1:], strict=True):
                    total = {"+": total + operand, "-": total - operand, "*": total * operand}[sign] % 7
                assert task_by_name(f"modular:operations={6 - done}").right_answer(rest) == str(total)
            known = int(steps[done - 1].split("=")[1]) if done else problem.instance[0][0]
            rest = task.rest(problem, done, known)
            assert task_by_name(f"modular:operations={6 - done}").right_steps(rest) == steps[done:]
    with pytest.raises(ValueError, match="done: is 6"):
        task.rest(problem, 6, 0)
