"""Programs are repaired by edits that read what running gave, in trajectories side by side, and chosen by tests.

    python -m launch.reproduce repaired_programs --workdir runs/reproductions/repaired_programs

The policy is shared with other reproductions. The tests do it, nine of ten of which are right: with them alone .83 are
repaired, with the pass over the best three .82. For .89 of the programs some
trajectory is right, for .91 some of as many tokens of single edits.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from configs.reproductions import _repair as shared
from configs.reproductions._repair import PROGRAM, TASK, TESTED, Drawn
from configs.reproductions.grown_stacks import STAGES, WIDTH
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks.repair import Issue, Program
from search.strategies.debugging import Trajectory, UnitTest, selected, trajectories
from search.strategies.votes import elect

PROBLEMS, SIDE_BY_SIDE, EDITS = 600, 6, 4
TESTS, MORE = 3, 3  # that the policy writes: one for every input that the issue does not show; and for the choice
LEADS = ("one edit", "majority of edits", "majority of trajectories")


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="repaired_programs",
        methods=(20,),
        claim="Trajectories of edits that read what running the last one gave, chosen among by tests that the policy "
        "writes and a pass over the best three, repair more programs than one edit, than the majority of as many "
        "tokens of edits side by side, and than the majority of the same trajectories",
        source="Ehrlich et al. 2025, CodeMonkeys: Scaling test-time compute for software engineering, arXiv:2501.14723",
        smallest_effect=0.02,
        unit="share of programs repaired: lead over the best of the three",
        minutes=4,
        not_covered="language models, programs of a real language, and the search for what is relevant: a program has "
        "five lines and is read whole. A run shows the first of two inputs of the issue, the other is for the policy "
        "to read, and tests are for inputs that the issue does not show. Tests alone do as much as with the "
        "pass over the best three (0.83, 0.82)",
        simulated=False,
        run=run,
    )


def repaired(work: Workspace) -> dict:
    """Of every problem, whether it is repaired, by way; and what that cost."""
    student = shared.learner(WIDTH, work.quick)
    drawn = Drawn(student.model, shared.policy(work, WIDTH, STAGES), seed=1)
    issues = [p.instance for p in TASK.generate(1, 12 if work.quick else PROBLEMS, "test")]
    written = [0]

    def edit(numbers: Sequence[int], programs: Sequence[Program]) -> list[Program | None]:
        texts = drawn.each([shared.repair(issues[i], p) for i, p in zip(numbers, programs, strict=True)])
        written[0] += sum(min(len(text), PROGRAM) for text in texts)
        return [TASK.program(text) for text in texts]

    def passes(number: int, program: Program) -> bool:
        """The run that the policy sees: of the first input."""
        first = issues[number].inputs[0]
        return TASK.values(program, first) == TASK.values(issues[number].wanted, first)

    found = trajectories(edit, passes, [issue.broken for issue in issues], SIDE_BY_SIDE, EDITS)
    edited, tests = written[0], written_tests(drawn, issues)
    spent = edited + len(issues) * (TESTS + MORE) * TESTED
    alone = -(-spent // (PROGRAM * len(issues)))
    work.say(f"{spent / len(issues):.0f} tokens of a problem, as many as {alone} edits side by side")
    prompts = [shared.repair(issue, issue.broken) for issue in issues for _ in range(alone)]
    side = np.array(drawn.each(prompts)).reshape(len(issues), alone).tolist()
    rows = [ways(issue, one, [TASK.program(text) for text in texts], own, partial(more_tests, drawn, issue))
            for issue, one, texts, own in zip(issues, found, side, tests, strict=True)]  # fmt: skip
    right = [test.expected == shared.gives(issue.wanted, test.given)
             for issue, own in zip(issues, tests, strict=True) for test in own]  # fmt: skip
    return {
        "ways": {name: [row[name] for row in rows] for name in rows[0]},
        "tokens": {"edits": edited / len(issues), "all": spent / len(issues)}, "edits side by side": int(alone),
        "edits of a trajectory": float(np.mean([len(one.edits) for row in found for one in row])),
        "tests that are right": float(np.mean(right)) if right else None, "flops": STAGES * student.flops + drawn.flops,
    }  # fmt: skip


def tests_for(drawn: Drawn, asked: list[tuple[Issue, int]]) -> list[UnitTest | None]:
    """A test that the policy writes for each (issue, input)."""
    texts = drawn.each([shared.check(issue, x) for issue, x in asked])
    wanted = [shared.expected(text[:TESTED]) for text in texts]
    return [None if y is None else UnitTest(x, y) for (_, x), y in zip(asked, wanted, strict=True)]


def written_tests(drawn: Drawn, issues: list[Issue]) -> list[list[UnitTest]]:
    inputs = [[shared.unseen(issue)[i % (TASK.modulus - 2)] for i in range(TESTS)] for issue in issues]
    drawn.fill({shared.check(issue, x): TESTS // (TASK.modulus - 2) + MORE for issue in issues
                for x in shared.unseen(issue)})  # fmt: skip
    flat = tests_for(drawn, [(issue, x) for issue, row in zip(issues, inputs, strict=True) for x in row])
    return [[t for t in flat[i * TESTS : (i + 1) * TESTS] if t is not None] for i in range(len(issues))]


def more_tests(drawn: Drawn, issue: Issue, given: int) -> list[UnitTest]:
    """Others for one input."""
    before = TESTS // (TASK.modulus - 2)
    found = tests_for(drawn, [(issue, given)] * (before + MORE))[before:]
    return [test for test in found if test is not None]


def majority(programs: list[Program]) -> Program | None:
    won = elect(programs)
    return None if won is None else programs[won.candidate]


def ways(
    issue: Issue, row: list[Trajectory], side: list, tests: list[UnitTest], ask: Callable[[int], list[UnitTest]]
) -> dict[str, float]:
    """Whether each way to use the samples repairs one program."""
    ends, inputs = [one.program for one in row], shared.unseen(issue)
    read = [p for p in side if p is not None]
    by_tests = selected(ends, shared.gives, tests, inputs, lambda x: [])
    chosen = selected(ends, shared.gives, tests, inputs, ask)
    return {
        "chosen": float(ends[chosen] == issue.wanted),
        "one edit": float(np.mean([one.edits[0] == issue.wanted for one in row])),
        "majority of edits": float(majority(read) == issue.wanted),
        "majority of trajectories": float(majority(ends) == issue.wanted),
        "by tests alone": float(ends[by_tests] == issue.wanted),
        "one trajectory": float(np.mean([p == issue.wanted for p in ends])),
        "any trajectory": float(issue.wanted in ends), "any edit": float(issue.wanted in read),
        "passes the run": float(np.mean([one.passed for one in row])),
    }  # fmt: skip


def run(work: Workspace) -> Measured:
    kept = work.keep("repaired", partial(repaired, work))
    values = kept.pop("ways")
    rows = np.array([values["chosen"], *(values[name] for name in LEADS)]).T

    def lead(rows: np.ndarray) -> float:
        chosen, *others = rows.mean(0)
        return float(chosen - max(others))

    flops = kept.pop("flops")
    details = {
        "repaired": {name: float(np.mean(value)) for name, value in values.items()},
        "leads": {name: [float(np.mean(gap)), *bootstrap_interval(gap)] for name, gap in
                  zip(LEADS, (rows[:, :1] - rows[:, 1:]).T, strict=True)},
        **kept,
    }  # fmt: skip
    return Measured(lead(rows), bootstrap_interval(rows, lead), flops, details)
