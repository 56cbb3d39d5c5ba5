"""A stack of components that grew layer by layer, against the best of one layer, at equal tokens, on a trained policy.

    python -m launch.reproduce grown_stacks --workdir runs/reproductions/grown_stacks

The policy is shared with other reproductions. Stacks grow on one set of problems and are judged on another. A first
run, in which a layer could only come behind those before it, found none (0.002 [-0.008, 0.012] on the same problems):
tests and the first of those that pass most, .80, where a majority of plain drafts has .45. What the second found, two
revisions of two drafts and then the tests, has .94.
"""

import functools
from functools import partial

import numpy as np

from configs.reproductions import _repair as shared
from configs.reproductions._repair import PROGRAM, TASK, TESTED, TOKENS, VERDICT, Drawn
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks.repair import Issue, Program
from search.ledger import Cost
from search.searcher import SearchProblem
from search.strategies.compose import Component, Proposal, grow, rank, tokens_of, unit_test, vote

WIDTH, STAGES = 48, 5
SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16)  # candidates to begin with
MOST = SIZES[-1] * PROGRAM  # tokens of a problem
TESTS = 3  # that the policy writes for a problem
GROWN, JUDGED = 300, 600  # problems that stacks grow on, and others


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="grown_stacks",
        methods=(22,),
        claim="A stack of generator, critic, reviser, unit tests, ranks and votes, found by greedy search on other "
        "problems, is right more often than the best of one such layer between a generator and an end, for as many "
        "tokens",
        source="Saad-Falcon et al. 2024, Archon: An architecture search framework for inference-time techniques, "
        "arXiv:2409.15254",
        smallest_effect=0.02,
        unit="accuracy of the stack found less that of the best single layer found, on problems of neither search",
        minutes=6,
        not_covered="language models, several policies in one stack, and Bayesian search: the space is grown greedily. "
        "All components are one small policy that learned all forms. A search that put layers behind others only found "
        "no such stack (0.002 [-0.008, 0.012]): it takes revisions before the tests",
        simulated=False,
        run=run,
    )


@functools.cache
def tokens(program: Program) -> tuple[int, ...]:
    return tuple(int(token) for token in TOKENS.encode(shared.text_of(program)))


@functools.cache
def program(written: tuple[int, ...]) -> Program:
    found = TASK.program(TOKENS.decode(np.array(written)))
    assert found is not None
    return found


def generator(drawn: Drawn, count: int) -> Component:
    """So many programs; those that cannot be read are dropped."""

    def run(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        texts = [text[:PROGRAM] for text in drawn.take(shared.solve(problem.payload), count)]
        new = [Proposal(tokens(p)) for p in map(TASK.program, texts) if p is not None]
        return before + new, Cost(generated_tokens=sum(map(len, texts)))

    return Component(f"generate_{count}", "generate", run, lambda n: count * PROGRAM, lambda n: n + count)


def verdicts(drawn: Drawn, issue: Issue, before: list[Proposal]) -> list[str]:
    """A verdict on each candidate, with the program behind it."""
    return [text[: VERDICT + PROGRAM] for text in drawn.each([shared.judge(issue, program(p.tokens)) for p in before])]


def critic(drawn: Drawn) -> Component:
    """Scores: the share of lines that a verdict finds right; the texts end behind the verdict."""

    def run(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        said = [shared.judged(text)[0] for text in verdicts(drawn, problem.payload, before)]
        scores = [verdict.count("y") / TASK.lines if verdict else 0.5 for verdict in said]
        after = [Proposal(p.tokens, score) for p, score in zip(before, scores, strict=True)]
        return after, Cost(generated_tokens=VERDICT * len(before))

    return Component("critic", "critique", run, lambda n: n * VERDICT, lambda n: n)


def reviser(drawn: Drawn) -> Component:
    """Every candidate is criticised and written anew; one whose revision cannot be read stays."""

    def run(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        texts = verdicts(drawn, problem.payload, before)
        found = [shared.judged(text)[1] for text in texts]
        after = [p if new is None else Proposal(tokens(new)) for p, new in zip(before, found, strict=True)]
        return after, Cost(generated_tokens=sum(map(len, texts)))

    return Component("revise", "revise", run, lambda n: n * (VERDICT + PROGRAM), lambda n: n)


def tests_of(drawn: Drawn, issue: Issue, count: int) -> tuple[list[tuple[int, int]], Cost]:
    """(input, what it has to give) as the policy has it, for inputs that the issue does not show."""
    inputs = [shared.unseen(issue)[i % (TASK.modulus - 2)] for i in range(count)]
    texts = [text[:TESTED] for text in drawn.each([shared.check(issue, x) for x in inputs])]
    found = [(x, shared.expected(text)) for x, text in zip(inputs, texts, strict=True)]
    return [(x, y) for x, y in found if y is not None], Cost(generated_tokens=sum(map(len, texts)))


def passes(problem: SearchProblem, candidate: Proposal, test: tuple[int, int]) -> bool:
    return shared.gives(program(candidate.tokens), test[0]) == test[1]


def right(problem: SearchProblem, answer: Proposal | None) -> float:
    return float(answer is not None and program(answer.tokens) == problem.payload.wanted)


def prepare(drawn: Drawn, issues: list[Issue]) -> None:
    """Draw at once most of what stacks will ask for."""
    level = drawn.programs(issues, SIZES[-1])
    for keep in (16, 8, 5):
        pairs = [(i, issue, p) for i, issue in enumerate(issues) for p in level[i][:keep] if p is not None]
        said = drawn.each([shared.judge(issue, p) for _, issue, p in pairs])
        level = [[] for _ in issues]
        for (i, _, p), text in zip(pairs, said, strict=True):
            level[i].append(shared.judged(text[: VERDICT + PROGRAM])[1] or p)
    drawn.each([shared.check(issue, shared.unseen(issue)[i % (TASK.modulus - 2)]) for issue in issues
                for i in range(TESTS)])  # fmt: skip


def found(work: Workspace) -> dict:
    """What grew, and whether it and the best single layer are right on each of the other problems."""
    grown, judged = (12, 12) if work.quick else (GROWN, JUDGED)
    student = shared.learner(WIDTH, work.quick)
    drawn = Drawn(student.model, shared.policy(work, WIDTH, STAGES))
    issues = [p.instance for p in TASK.generate(0, grown + judged, "test")]
    work.say(f"the policy writes on {len(issues)} issues")
    prepare(drawn, issues)
    problems = [SearchProblem(i, None, issue) for i, issue in enumerate(issues)]
    unit = unit_test(lambda p: tests_of(drawn, p.payload, TESTS), passes, TESTS * TESTED)
    chosen = grow(
        [generator(drawn, count) for count in SIZES], [critic(drawn), reviser(drawn), unit, rank(4), rank(2)],
        [rank(1), vote(tuple), vote(tuple, weighted=True)], problems[:grown], right, 10**9, MOST,
    )  # fmt: skip
    single = max((t for t in chosen.trials if len(t.composition.components) <= 3), key=lambda t: t.mean)
    plain = max((t for t in chosen.trials if len(t.composition.components) == 2), key=lambda t: t.mean)
    rows: dict[str, dict] = {}
    for name, trial in (("stack", chosen.best), ("single", single), ("generator", plain)):
        ran = [trial.composition.run(problem) for problem in problems[grown:]]
        rows[name] = {
            "composition": trial.composition.name, "tokens at most": trial.composition.most,
            "where it grew": trial.mean, "tokens": float(np.mean([tokens_of(cost) for _, cost in ran])),
            "right": [right(p, answer) for p, (answer, _) in zip(problems[grown:], ran, strict=True)],
        }  # fmt: skip
        work.say(f"{name}: {rows[name]['composition']}, {np.mean(rows[name]['right']):.3f}")
    candidates = drawn.programs(issues[grown:], SIZES[-1])
    alone = [[p == issue.wanted for p in row] for row, issue in zip(candidates, issues[grown:], strict=True)]
    return {
        "rows": rows, "trials": [[t.composition.name, t.composition.most, t.mean] for t in chosen.trials],
        "one candidate": float(np.mean(alone)), "any of the candidates": float(np.mean(np.any(alone, 1))),
        "flops": STAGES * student.flops + drawn.flops,
    }  # fmt: skip


def run(work: Workspace) -> Measured:
    kept = work.keep("found", partial(found, work))
    rows = kept.pop("rows")
    gap = np.array(rows["stack"]["right"]) - np.array(rows["single"]["right"])
    trials = kept.pop("trials")
    table = [{"composition": name, "tokens at most": str(most), "accuracy": f"{mean:.3f}"}
             for name, most, mean in sorted(trials, key=lambda t: -t[2])[:12]]  # fmt: skip
    details = {
        "tables": [{"title": "the best dozen where stacks grew", "rows": table}],
        "judged": {name: {**row, "right": float(np.mean(row["right"]))} for name, row in rows.items()},
        "compositions tried": len(trials), **{name: value for name, value in kept.items() if name != "flops"},
    }  # fmt: skip
    return Measured(float(gap.mean()), bootstrap_interval(gap), kept["flops"], details)
