"""Thinking about facts that a policy holds in its weights, forced to shorter and longer budgets.

    python -m launch.reproduce forced_recall --workdir runs/reproductions/forced_recall

Policies of 0.06M weights learn to answer questions of three facts (scaling/tasks/facts.py), some from 60 and some from
90 per cent of the facts, and are asked about all. A thought recalls fact by fact; where a recollection is wrong, a `~`
begins another one. A wait that is forced after a right recollection spoils it: of questions whose facts were all
learned, 99.9 per cent are right after one recollection and 67 per cent after five. A trial of one seed that is not
judged saw 0.76 and 0.73 after one and after two.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from configs.reproductions import _imitation as imitation
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks.facts import AGAIN, ANSWER, Facts
from scaling.tasks.task import Problem
from scaling.tasks.text import CharTokenizer
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.engine.sampling import Sampling
from search.searcher import Searcher, SearchProblem
from search.strategies.budget_forcing import budget_forcing

ALL, SEEDS = Facts(), (1, 2)
SHARES = {"fewer facts": 60, "more facts": 90}  # per cent
STEP, ROUNDS = len("k3c|"), 5
ROUND = STEP * ALL.hops
BUDGETS = (*range(0, ROUND, STEP), *(ROUND + i * (ROUND + 1) for i in range(ROUNDS)))  # tokens of a thought
TOKENS = CharTokenizer.of(ALL)
PROMPT, ROOM = len("k314="), BUDGETS[-1] + len(":m.")
MODEL, SEQ = imitation.small(TOKENS), PROMPT + ROOM - 1
STEPS = 300
CUT, PEAK = 0.2, 0.02  # share of thoughts that end early; the least of interest


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="forced_recall",
        methods=(178,),
        claim="Answers from facts in the weights are most often right at a thinking budget between none and the "
        "largest, and a policy that holds more facts is right more often at its best budget than one of fewer at any",
        source="Huang et al. 2025, m1: unleash the potential of test-time scaling for medical reasoning, "
        "arXiv:2504.00869",
        smallest_effect=PEAK,
        unit="accuracy, the least of: at the best budget less without a thought; at the best budget less at the "
        "largest; of more facts at its best budget less of fewer at its own",
        minutes=4,
        not_covered="medicine and language models; budgets in words, and ends of thoughts that differ in how sure they "
        "are. In what the policies learn from, a wait only ever follows a wrong recollection. All write greedily; "
        "budgets are whole recollections, up to five, which is the most that a text of training has; one in five has a "
        "second, and one in six hundred a fifth. The best budget is chosen on the other half of the problems",
        simulated=False,
        run=run,
    )


def learner(quick: bool) -> imitation.Learner:
    """What learns, for as long as decides, or for seconds."""
    return imitation.Learner(MODEL, imitation.imitated(5 if quick else STEPS, SEQ, batch=64))


def taught(share: int, count: int, seed: int) -> imitation.Rows:
    """Questions of known facts with thoughts, of which some end early: where is not learned, what follows is."""
    task, rng, rows = Facts(known=share, again=20, world=seed), np.random.default_rng([seed, share]), []
    for problem in task.generate(seed, count):
        thought, mark, answer = task.solution(problem, rng).partition(ANSWER)
        early = rng.random() < CUT
        if early:
            thought = "".join(step + "|" for step in task.right_steps(problem)[: rng.integers(ALL.hops)])
        rows.append((problem.prompt, [(thought, True), (mark, not early), (answer, True)]))
    return imitation.rows_of(TOKENS, SEQ, rows)


def forced(budget: int | None, params: Any) -> Searcher:
    """Thoughts of so many tokens; None: of as many as the policy writes by itself."""
    end, again, mark = (int(t) for t in TOKENS.encode("." + AGAIN + ANSWER))
    config = SearchConfig(
        problems=256, prompt_len=PROMPT, max_tokens=ROOM, max_steps=1, max_rounds=2, ends=(end,), sampling=Sampling(0.0)
    )
    least = 0 if budget is None else budget
    strategy = budget_forcing(1, mark, least=least, most=budget, wait=(again,), waits=ROOM, scored=False)
    return Searcher(TransformerDecoder(MODEL, params, PROMPT), strategy, config)


def answered(search: Searcher, params: Any, task: Facts, problems: Sequence[Problem]) -> list[tuple[float, int, bool]]:
    """(right, tokens, whether the answer can be read) for every problem."""
    search.params = (TransformerDecoder(MODEL, params, PROMPT).params, search.params[1])
    rows: list[Any] = [None] * len(problems)
    asked = (SearchProblem(i, tuple(int(t) for t in TOKENS.encode(p.prompt))) for i, p in enumerate(problems))
    for found in search.run(asked):
        tokens, i = found.candidates[0].tokens, found.problem.number
        text = TOKENS.decode(tokens)
        rows[i] = (float(task.verify(problems[i], text)), len(tokens), task.answer(text) is not None)
    return rows


def swept(work: Workspace) -> dict:
    """By policy, of the problems of every seed after one another: right at every budget and without one, and whether
    all facts were told; and of all, the tokens without a budget and answers that cannot be read at the largest."""
    count = 64 if work.quick else 1000
    worlds = {seed: Facts(world=seed) for seed in SEEDS}
    problems = {seed: world.generate(10 + seed, count, "test") for seed, world in worlds.items()}
    found: dict[str, dict] = {}
    policies = {}
    for name, share in SHARES.items():
        found[name] = {"right": [], "told": [], "tokens": [], "unread": []}
        for seed in SEEDS:
            policies[name, seed] = learner(work.quick).learn(taught(share, 500 if work.quick else 6000, seed), seed)
            told = Facts(known=share, world=seed)
            found[name]["told"] += [all(told.knows(*s[:2]) for s in told.right_steps(p)) for p in problems[seed]]
    for budget in (*BUDGETS, None):
        search = forced(budget, next(iter(policies.values())))
        for name, one in found.items():
            rows = [
                row for seed in SEEDS for row in answered(search, policies[name, seed], worlds[seed], problems[seed])
            ]
            right, tokens, readable = np.array(rows, float).T
            one["right"].append(right.tolist())
            one["tokens"].append(float(tokens.mean()))
            one["unread"].append(float(1 - readable.mean()))
            work.say(f"{name}, {budget} tokens: {right.mean():.3f}")
    return found


def at_best(right: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Right of every problem [problems] at the budget that is best on the other half of them; and both budgets."""
    half = np.arange(len(right)) % 2
    best = [int(right[half != h].mean(0).argmax()) for h in (0, 1)]
    return right[np.arange(len(right)), np.array(best)[half]], [BUDGETS[b] for b in best]


def run(work: Workspace) -> Measured:
    found = work.keep("swept", partial(swept, work))
    right = {name: np.array(one["right"][:-1]).T for name, one in found.items()}
    best = {name: at_best(rows) for name, rows in right.items()}
    fewer, more = SHARES

    def over(name: str, budget: int) -> np.ndarray:
        return best[name][0] - right[name][:, budget]

    parts = {"over no thought": over(more, 0), "over the largest budget": over(more, -1),
             "of more facts over fewer": best[more][0] - best[fewer][0]}  # fmt: skip
    rows = np.stack(list(parts.values()), 1)

    def effect(rows: np.ndarray) -> float:
        return float(rows.mean(0).min())

    one = BUDGETS.index(ROUND)
    lines = {name: {"x": list(BUDGETS), "y": rows.mean(0).tolist()} for name, rows in right.items()}
    details = {
        "curves": [{"x": "tokens of a thought", "y": "accuracy", "log": "", "lines": lines}],
        "parts of the effect": {name: [float(x.mean()), *bootstrap_interval(x)] for name, x in parts.items()},
        "over the largest budget, of fewer facts": [
            float(over(fewer, -1).mean()), *bootstrap_interval(over(fewer, -1))],
        "best budgets, on either half": {name: budgets for name, (_, budgets) in best.items()},
        "accuracy at its best budget": {name: float(x.mean()) for name, (x, _) in best.items()},
        "accuracy and tokens where nothing is forced": {
            name: [float(np.mean(x["right"][-1])), x["tokens"][-1]] for name, x in found.items()},
        "of answers after one recollection, right ones that were wrong after five, and wrong ones that were right": {
            name: [float((r[:, one] * (1 - r[:, -1])).mean()), float(((1 - r[:, one]) * r[:, -1]).mean())]
            for name, r in right.items()},
        "questions of which all facts were told, and accuracy on these after one recollection and after five": {
            name: [float(np.mean(x["told"])), *right[name][np.array(x["told"])][:, [one, -1]].mean(0).tolist()]
            for name, x in found.items()},
        "answers that cannot be read, at the largest budget": {name: x["unread"][-2] for name, x in found.items()},
    }  # fmt: skip
    by_seed = right[more].reshape(len(SEEDS), -1, len(BUDGETS)).mean(1)
    details["accuracy of more facts, by seed and budget"] = by_seed.tolist()
    flops = learner(work.quick).flops * len(SHARES) * len(SEEDS)
    return Measured(effect(rows), bootstrap_interval(rows, effect), float(flops), details)
