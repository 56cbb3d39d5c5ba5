"""Solutions by combinations of observations, against as many tokens of solutions drawn again and again.

    python -m launch.reproduce planned_ideas --workdir runs/reproductions/planned_ideas

A policy of 0.06M weights learns three things from countdown with three numbers: to solve it (after `!`), to note one
operation of a solution (`?8-5=3;`), and to solve it with one or two notes, of which half may be wrong.
A solution after plans is right in 6 per cent of cases, one without in 7, and ideas differ as much either way. A trial
of another seed that is not judged, of 400 steps and 64 problems: one of eleven solutions after plans was right in 19
per cent of problems, and one of sixteen samples in 48.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from configs.reproductions import _imitation as imitation
from scaling.laws.coverage import pass_at_k
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks.countdown import Countdown
from scaling.tasks.task import Problem
from scaling.tasks.text import CharTokenizer
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.metrics import idea_diversity
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.best_of_n import best_of_n
from search.strategies.plan_search import plan_search

TASK, MARKS = Countdown(), "?;!"
TOKENS = CharTokenizer(TASK.alphabet + MARKS)
OBSERVE, CLOSE, SOLVE, END = (int(t) for t in TOKENS.encode(MARKS + TASK.end))
LOOKS, SAMPLES = 3, 12  # observations, and samples without
PROMPT, ROOM = len("30:20,20,20>!"), 2 * len("?20*20=400;") + len("!20*20=400>400,20|400-20=380>380.")
MODEL, SEQ = imitation.small(TOKENS, 64), PROMPT + ROOM - 1
STEPS = 600
WRONG = 0.5  # share of notes that are any legal operation


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="planned_ideas",
        methods=(19,),
        claim="Solutions after combinations of observations differ more in their ideas, and one of them is right more "
        "often, than as many tokens of solutions drawn again and again; and where they differ more, more is gained",
        source="Wang et al. 2024, Planning in natural language improves LLM search for code generation, "
        "arXiv:2409.03733",
        smallest_effect=0.02,
        unit="the least of: chance that two solutions differ in expression, with plans less without; share of problems "
        "with a right solution, with all plans less with as many tokens of samples; correlation of both over problems",
        minutes=5,
        not_covered="programs and language models: an observation is one operation of countdown with three numbers, an "
        "idea is an expression up to the order of sums and products, and plans are not put in words. No observations "
        "about observations. Tokens are those drawn; reading observations is not among them. All is drawn "
        "at temperature 1, and the relation of differences and gains is that of problems, not of policies",
        simulated=False,
        run=run,
    )


def learner(quick: bool) -> imitation.Learner:
    """What learns, for as long as decides, or for seconds."""
    return imitation.Learner(MODEL, imitation.imitated(5 if quick else STEPS, SEQ, batch=64))


def taught(count: int, seed: int) -> imitation.Rows:
    """Of every problem a solution, a note, and a solution after notes that are not learned."""
    rng, rows = np.random.default_rng(seed), []
    for problem in TASK.generate(seed, count):
        moves = [step for step, _ in TASK.moves(problem, TASK.start(problem))]

        def noted(steps: Sequence[str]) -> str:
            return f"?{steps[int(rng.integers(len(steps)))].split('>')[0]};"

        solutions = [TASK.solution(problem, rng) for _ in range(3)]
        steps = solutions[2].rstrip(TASK.end).split(TASK.delimiter)
        notes = "".join(noted(moves if rng.random() < WRONG else steps) for _ in range(rng.integers(1, 3)))
        look = noted(solutions[1].rstrip(TASK.end).split(TASK.delimiter))
        rows.append((problem.prompt, [("!", False), (solutions[0], True)]))
        rows.append((problem.prompt, [("?", False), (look[1:], True)]))
        rows.append((problem.prompt, [(f"{notes}!", False), (solutions[2], True)]))
    return imitation.rows_of(TOKENS, SEQ, rows)


def judged(problem: Problem, texts: Sequence[str]) -> list[float | None]:
    """Of a problem's solutions: how many, how many right, and how different their ideas, None for fewer than two."""
    right = sum(TASK.verify(problem, text) for text in texts)
    apart = idea_diversity(TASK.answer(text) for text in texts)
    return [len(texts), right, None if np.isnan(apart) else apart]


def searched(params: Any, problems: Sequence[Problem], planned: bool) -> list[list]:
    """`judged` and the tokens drawn, of every problem."""
    config = SearchConfig(
        problems=64, prompt_len=PROMPT, max_tokens=ROOM, max_steps=8, max_rounds=4, delimiters=(CLOSE,), ends=(END,)
    )  # fmt: skip
    strategy = best_of_n(SAMPLES, scored=False)
    if planned:
        strategy = plan_search(LOOKS, OBSERVE, CLOSE, SOLVE, ROOM, scored=False)
    search = Searcher(TransformerDecoder(MODEL, params, PROMPT), strategy, config)
    prompts = [TOKENS.encode(problem.prompt + "!" * (not planned)) for problem in problems]

    def row(found: Found) -> list:
        written = [c.tokens for c in found.candidates[LOOKS * planned :] if c.tokens]
        texts = [TOKENS.decode(tokens).rpartition("!")[2] for tokens in written]
        return [*judged(problems[found.problem.number], texts), found.cost.generated_tokens]

    asked = (SearchProblem(i, tuple(int(t) for t in prompt)) for i, prompt in enumerate(prompts))
    rows = {found.problem.number: row(found) for found in search.run(asked)}
    return [rows[i] for i in range(len(problems))]


def compared(work: Workspace) -> dict[str, list]:
    """`searched` without plans and with them."""
    problems = TASK.generate(1, 24 if work.quick else 500, "test")
    params = learner(work.quick).learn(taught(200 if work.quick else 6000, 0), 0)
    found = {}
    for way in ("samples", "plans"):
        found[way] = searched(params, problems, way == "plans")
        work.say(f"{way}: {np.array(found[way], float)[:, [0, 1, 3]].mean(0).round(3)}")
    return found


def run(work: Workspace) -> Measured:
    found = work.keep("compared", partial(compared, work))
    samples, plans = (np.array(found[way], float) for way in ("samples", "plans"))  # [problems, 4]
    equal = np.clip(plans[:, 3] / (samples[:, 3] / SAMPLES), 1, SAMPLES)
    every = np.arange(1, SAMPLES + 1)
    curve = pass_at_k(SAMPLES, samples[:, 1:2], every)
    without = np.array([np.interp(k, every, row) for k, row in zip(equal, curve)])
    # Of every problem: how much more ideas differ with plans, and how much more often a solution is right.
    rows = np.stack([plans[:, 2] - samples[:, 2], (plans[:, 1] > 0) - without], 1)

    def parts(rows: np.ndarray) -> list[float]:
        known = rows[np.isfinite(rows[:, 0])]  # a policy of a quick run may write nothing that can be read
        varied = len(known) > 1 and bool((known.std(0) > 0).all())
        apart = float(known[:, 0].mean()) if len(known) else 0.0
        return [apart, float(rows[:, 1].mean()), float(np.corrcoef(known.T)[0, 1]) if varied else 0.0]

    def effect(rows: np.ndarray) -> float:
        return min(parts(rows))

    names = ("difference of ideas, with plans less without", "right with plans less without, for equal tokens",
             "correlation of the two")  # fmt: skip
    lines = {
        "samples": {"x": (every * samples[:, 3].mean() / SAMPLES).tolist(), "y": curve.mean(0).tolist()},
        "all plans": {"x": [float(plans[:, 3].mean())], "y": [float((plans[:, 1] > 0).mean())]},
    }
    kinds = ("solutions", "right ones", "chance that two differ", "tokens drawn")
    details = {
        "curves": [{"x": "tokens of a problem", "y": "problems with a right solution", "log": "", "lines": lines}],
        "parts of the effect": {name: [parts(rows)[i], *bootstrap_interval(rows, lambda r, i=i: parts(r)[i])]
                                for i, name in enumerate(names)},
        "means": {way: dict(zip(kinds, np.nan_to_num(x.mean(0, where=np.isfinite(x))).tolist()))
                  for way, x in (("samples", samples), ("plans", plans))},
        "right, with all plans and with samples for as many tokens": [
            float((plans[:, 1] > 0).mean()), float(without.mean())],
        "samples for as many tokens": float(equal.mean()),
    }  # fmt: skip
    return Measured(effect(rows), bootstrap_interval(rows, effect), learner(work.quick).flops, details)
