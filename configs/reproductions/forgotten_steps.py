"""Questions that replace each other with what is solved in them, against a chain of all steps.

    python -m launch.reproduce forgotten_steps --workdir runs/reproductions/forgotten_steps

Policies of 0.06M weights learn both from the same problems: quantities worked out of one another, modulo 10
(scaling/tasks/dag.py). A mark at the end of a problem says which is asked for.
One of the two policies solves all problems either way, and says only that nothing is lost; the other, at a quarter of
them, is ahead with questions that replace each other. A trial of a third that is not judged, of 500 steps, was right in
26 per cent of problems with a chain and in 51 with questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from configs.reproductions import _imitation as imitation
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks.dag import CLOSE, QUESTION, Dag
from scaling.tasks.task import Problem
from scaling.tasks.text import CharTokenizer
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.engine.sampling import Sampling
from search.searcher import Searcher, SearchProblem
from search.strategies.atoms import atom_of_thoughts
from search.strategies.best_of_n import best_of_n
from search.strategies.strategy import Strategy

TASK, SEEDS, LOSS = Dag(leaves=4, middle=2), (0, 1), 0.02
TOKENS = CharTokenizer.of(TASK)
NODES = TASK.leaves + TASK.middle * TASK.layers + 1
PROMPT, ROOM = NODES * len("a3+4,"), NODES * len("a3+4=7|")
MODEL, SEQ = imitation.small(TOKENS), PROMPT + ROOM - 1
STEPS = 600
MARK, DELIMITER, END = (int(t) for t in TOKENS.encode(QUESTION + CLOSE + TASK.end))
WAYS: dict[str, tuple[str, Strategy]] = {  # the mark that asks for it, and what is searched with
    "chain": ("=", best_of_n(1, scored=False)),
    "atoms": (CLOSE, atom_of_thoughts(1, MARK, DELIMITER, ROOM, scored=False)),
}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="forgotten_steps",
        methods=(32,),
        claim="Questions that replace each other are answered as well as by a chain of all steps, with fewer tokens, "
        "and with less to read at once",
        source="Teng et al. 2025, Atom of thoughts for Markov LLM test-time scaling, arXiv:2502.12018",
        smallest_effect=0.0,
        unit="the least of: accuracy with questions that replace each other less with a chain, plus 0.02; share of the "
        "chain's tokens saved; share saved of the most tokens that are read at once, the prompt among them",
        minutes=5,
        not_covered="language models, whose questions are contracted in words: here both forms are imitated, and what "
        "depends on nothing else is solved at once. Deeper graphs, whose questions are written too often to save "
        "tokens. The first question stays in the prompt, which a search always reads. A chain writes every operation "
        "in full; one that leaves out those of digits alone would take fewer tokens, which the details say",
        simulated=False,
        run=run,
    )


def learner(quick: bool) -> imitation.Learner:
    """What learns, for as long as decides, or for seconds."""
    return imitation.Learner(MODEL, imitation.imitated(5 if quick else STEPS, SEQ, batch=64))


def taught(count: int, seed: int) -> imitation.Rows:
    """Every problem in a chain, and question by question: each question and what is written about it is a row."""
    rng, rows = np.random.default_rng(seed), []
    for problem in TASK.generate(seed, count):
        rows.append((problem.prompt, [(TASK.solution(problem, rng), True)]))
        asked = problem.prompt[:-1] + CLOSE
        rows += [(asked, [(question, False), (text, True)]) for question, text in TASK.atoms(problem)]
    return imitation.rows_of(TOKENS, SEQ, rows)


def answered(params: Any, way: str, problems: Sequence[Problem]) -> list[list[float]]:
    """Of every problem: right, tokens drawn, tokens read, and the most that were read at once."""
    mark, strategy = WAYS[way]
    config = SearchConfig(
        problems=256, prompt_len=PROMPT, max_tokens=ROOM, max_steps=8, max_rounds=32, delimiters=(DELIMITER,),
        ends=(END,), sampling=Sampling(0.0),
    )  # fmt: skip
    search = Searcher(TransformerDecoder(MODEL, params, PROMPT), strategy, config)
    rows: list[list[float]] = [[] for _ in problems]
    prompts = [tuple(int(t) for t in TOKENS.encode(problem.prompt[:-1] + mark)) for problem in problems]
    for found in search.run(SearchProblem(i, prompt) for i, prompt in enumerate(prompts)):
        i, (one,) = found.problem.number, found.candidates
        right, cost = TASK.verify(problems[i], TOKENS.decode(one.tokens)), found.cost
        longest = len(prompts[i]) + found.report.get("longest", len(one.tokens))
        rows[i] = [float(x) for x in (right, cost.generated_tokens, cost.prompt_tokens, longest)]
    return rows


def both(work: Workspace) -> dict[str, list]:
    """`answered` by both ways, of the problems of every seed after one another."""
    found: dict[str, list] = {way: [] for way in WAYS}
    for seed in SEEDS:
        params = learner(work.quick).learn(taught(200 if work.quick else 8000, seed), seed)
        problems = TASK.generate(100 + seed, 32 if work.quick else 1000, "test")
        for way in WAYS:
            rows = answered(params, way, problems)
            work.say(f"seed {seed}, {way}: {np.mean(rows, 0).round(3)}")
            found[way] += rows
    return found


def run(work: Workspace) -> Measured:
    found = work.keep("both", partial(both, work))
    rows = np.stack([np.array(found[way]) for way in WAYS], 1)  # [problems, ways, what]

    def parts(rows: np.ndarray) -> list[float]:
        chain, atoms = rows.mean(0)
        return [float(x) for x in (atoms[0] - chain[0] + LOSS, 1 - atoms[1] / chain[1], 1 - atoms[3] / chain[3])]

    def effect(rows: np.ndarray) -> float:
        return min(parts(rows))

    names = ("accuracy less that of a chain, plus 0.02", "tokens saved", "most read at once, saved")
    right, drawn = (rows[:, :, i].mean(0).tolist() for i in (0, 1))
    lines = {way: {"x": [drawn[i]], "y": [right[i]]} for i, way in enumerate(WAYS)}
    kinds = ("accuracy", "tokens drawn", "tokens read, the prompt among them", "most read at once")
    details = {
        "curves": [{"x": "tokens of a problem", "y": "accuracy", "log": "", "lines": lines}],
        "parts of the effect": {name: [parts(rows)[i], *bootstrap_interval(rows, lambda r, i=i: parts(r)[i])]
                                for i, name in enumerate(names)},
        "means": {way: dict(zip(kinds, rows[:, i].mean(0).tolist())) for i, way in enumerate(WAYS)},
        "most read at once of any problem": {way: float(rows[:, i, 3].max()) for i, way in enumerate(WAYS)},
        "accuracy by seed": {way: rows[:, i, 0].reshape(len(SEEDS), -1).mean(1).tolist() for i, way in enumerate(WAYS)},
        "accuracy less that of a chain, plus 0.02, by seed": [
            [parts(one)[0], *bootstrap_interval(one, lambda r: parts(r)[0])] for one in np.split(rows, len(SEEDS))],
        "tokens of a chain that leaves out operations on digits": float(ROOM - 4 * TASK.leaves),
    }  # fmt: skip
    flops = learner(work.quick).flops * len(SEEDS)
    return Measured(effect(rows), bootstrap_interval(rows, effect), float(flops), details)
