"""What a context allows to be derived before it is asked about need not be derived at each question.

    python -m launch.reproduce sleep_time --workdir runs/reproductions/sleep_time

The policy is shared with small_search.
"""

from functools import partial
from typing import cast

import numpy as np

from configs.reproductions._chains import TASK, plan, reckoners, said
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks import task_by_name
from scaling.tasks.mixed import Mixed
from scaling.tasks.modular import Modular
from search.metrics.cost import amortised, queries_to_pay

KNOWN, ASKED = 8, 4  # operations of a chain in the context, and those that a question adds
QUERIES = 10  # of one context
LIKELY = (0.25, 0.5, 0.75, 1.0)  # that a question is about the chain that was derived
LOSS, SAVED = 0.02, 0.5


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="sleep_time",
        methods=(162,),
        claim="Facts derived before a question halve its tokens at equal accuracy, pay off within ten questions of a "
        "context, and save more where questions are easier to foresee",
        source="Lin et al. 2025, Sleep-time compute, arXiv:2504.13171",
        smallest_effect=0.0,
        unit="the least of: accuracy with facts less without, plus 0.02; share of a question's tokens saved, less 0.5; "
        "share saved over ten questions of which three in four were foreseen, ahead included; share saved where all "
        "are foreseen less where one in four is",
        minutes=8,
        not_covered="language models: a context is chains of eight operations, one of which is worked out ahead, and a "
        "question adds four to one of them. Questions about other chains take as many tokens as without facts",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def asked(work: Workspace) -> list[list[float]]:
    """Of every context: tokens ahead, tokens and right of a question with the fact, and without."""
    policy, task = reckoners(work)["large"], cast(Mixed, task_by_name(TASK))
    whole, known, left = (cast(Modular, task.parts[task.levels.index(n)]) for n in (KNOWN + ASKED, KNOWN, ASKED))
    problems = whole.generate(1, 24 if work.quick else 600, "test")
    chains = [known.problem(list(p.instance[0][: KNOWN + 1]), list(p.instance[1][:KNOWN])) for p in problems]
    plain = said(policy, [problem.prompt for problem in problems], 1, 0.0)
    facts = said(policy, [chain.prompt for chain in chains], 1, 0.0)
    values = [known.answer(one[0][0]) for one in facts]
    rests = [whole.rest(p, KNOWN, int(value or 0)) for p, value in zip(problems, values, strict=True)]
    ends = said(policy, [rest.prompt for rest in rests], 1, 0.0)
    rows = []
    for problem, (alone,), (fact,), (end,) in zip(problems, plain, facts, ends, strict=True):
        right = left.answer(end[0]) == whole.right_answer(problem)
        rows.append([float(x) for x in (fact[1], end[1], right, alone[1], whole.verify(problem, alone[0]))])
    return rows


def run(work: Workspace) -> Measured:
    rows = np.array(work.keep("asked", partial(asked, work)))

    def saved(rows: np.ndarray, likely: float, queries: float) -> float:
        ahead, with_fact, _, without, _ = rows.mean(0)
        mixed = likely * with_fact + (1 - likely) * without
        return float(1 - amortised(ahead, mixed, queries) / without)

    def parts(rows: np.ndarray) -> list[float]:
        at_once = [saved(rows, likely, np.inf) for likely in LIKELY]
        accuracy = float(rows[:, 2].mean() - rows[:, 4].mean())
        return [accuracy + LOSS, at_once[-1] - SAVED, saved(rows, 0.75, QUERIES), at_once[-1] - at_once[0]]

    def effect(rows: np.ndarray) -> float:
        return min(parts(rows))

    ahead, with_fact, right, without, alone = rows.mean(0)
    queries = [1, 2, 4, 10, 20, 50]
    details = {
        "curves": [{"x": "questions of a context", "y": "share of tokens saved, ahead included", "log": "x",
                    "lines": {f"foreseen: {likely:.0%}": {"x": queries, "y": [saved(rows, likely, q) for q in queries]}
                              for likely in LIKELY}}],
        "parts of the effect": parts(rows),
        "accuracy with facts and without": [float(right), float(alone)],
        "tokens ahead, with facts, and without": [float(ahead), float(with_fact), float(without)],
        "questions to pay, by share foreseen": {
            f"{likely:.0%}": queries_to_pay(ahead, likely * with_fact + (1 - likely) * without, without)
            for likely in LIKELY},
    }  # fmt: skip
    flops = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(effect(rows), bootstrap_interval(rows, effect), float(flops), details)
