"""Policies criticise and rewrite their own drafts; a score of accuracy, gain and cost ranks them as use does.

    python -m launch.reproduce self_refined --workdir runs/reproductions/self_refined

The policies write programs (scaling/tasks/repair.py); they are of two widths and three lengths of training. The gain
runs from .01 to .36, least where drafts are right already; the accuracy of drafts alone ranks them nearly as well
(.94).
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
from scipy.stats import spearmanr

from configs.reproductions import _repair as shared
from configs.reproductions._repair import PROGRAM, TASK, TOKENS, VERDICT, Drawn
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks.repair import Issue, Program
from search.ledger import Prices
from search.strategies.self_refine import Look, Refined, refinement_score, self_refined

POLICIES = ((32, 4), (32, 5), (32, 6), (48, 4), (48, 5), (48, 6))  # widths, stages
PROBLEMS, DRAFTS, LOOKS = 400, 8, 2
SCORED = 4  # drafts by which policies are scored; all are there to be voted on
AFFORDED = 2  # refined answers of the dearest policy, whose FLOPs each policy may spend
GAIN, AGREEMENT = 0.02, 0.6  # least of interest: accuracy gained, mean of the policies; Spearman's rank correlation


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="self_refined",
        methods=(157,),
        claim="Criticising and rewriting their own drafts makes policies more accurate on average, and a score of "
        "accuracy, gain and cost on some problems ranks them as a vote for equal FLOPs does on others",
        source="Shashidhar et al. 2023, Democratizing LLMs: cost-performance trade-offs in self-refined open-source "
        "models, arXiv:2310.07611",
        smallest_effect=1.0,
        unit="the lesser of: accuracy gained by refinement, mean of six policies, over 0.02; rank correlation of score "
        "and use over 0.6",
        minutes=6,
        not_covered="language models, and their published score: ours has its three parts, (drafts + gain) / "
        "cost^0.5, settled beforehand. Policies differ in width and in length of training alone",
        simulated=False,
        run=run,
    )


def looks(drawn: Drawn, issues: Sequence[Issue], drafts: Sequence[Program | None]) -> tuple[list[Refined], np.ndarray]:
    """Each draft refined, and the FLOPs of that; one that cannot be read stays what it is."""
    prices, spent = Prices(drawn.writer.engine.model, shared.SEQ + 1), np.zeros(len(drafts))
    places = [i for i, draft in enumerate(drafts) if draft is not None]

    def critic(numbers: Sequence[int], programs: Sequence[Program]) -> list[Look]:
        prompts = [shared.judge(issues[places[i]], program) for i, program in zip(numbers, programs, strict=True)]
        found = []
        for i, prompt, text in zip(numbers, prompts, drawn.each(prompts), strict=True):
            verdict, program = shared.judged(text[: VERDICT + PROGRAM])
            clean = verdict == "y" * TASK.lines
            spent[places[i]] += flops(prices, prompt, VERDICT if clean else min(len(text), VERDICT + PROGRAM))
            found.append(Look(clean, program))
        return found

    refined = self_refined(critic, [drafts[i] for i in places], LOOKS)
    every = [Refined([draft], 0, False) for draft in drafts]
    for i, one in zip(places, refined, strict=True):
        every[i] = one
    return every, spent


def flops(prices: Prices, prompt: str, tokens: int) -> int:
    """Of reading a prompt and writing so many tokens."""
    read = len(TOKENS.encode(prompt))
    return prices.prefill(0, read, 1) + prices.decode(read + 1, tokens - 1)


def measured(work: Workspace, width: int, stages: int) -> dict:
    """Of every problem and draft: right before and after, the refined program, FLOPs of both."""
    student = shared.learner(width, work.quick)
    drawn = Drawn(student.model, shared.policy(work, width, stages), seed=2)
    issues = [p.instance for p in TASK.generate(2, 12 if work.quick else PROBLEMS, "test")]
    drafts = [draft for row in drawn.programs(issues, DRAFTS) for draft in row]
    asked = [issue for issue in issues for _ in range(DRAFTS)]
    refined, spent = looks(drawn, asked, drafts)
    prices = Prices(student.model, shared.SEQ + 1)
    first = flops(prices, shared.solve(issues[0]), PROGRAM)
    work.say(f"width {width}, {stages} stages: {np.mean([d == i.wanted for d, i in zip(drafts, asked)]):.2f} are right")

    def rows(values: Sequence) -> list:
        return [list(values[i : i + DRAFTS]) for i in range(0, len(values), DRAFTS)]

    return {
        "before": rows([float(d == i.wanted) for d, i in zip(drafts, asked, strict=True)]),
        "after": rows([float(r.versions[-1] == i.wanted) for r, i in zip(refined, asked, strict=True)]),
        "program": rows(["" if r.versions[-1] is None else shared.text_of(r.versions[-1]) for r in refined]),
        "wanted": [shared.text_of(issue.wanted) for issue in issues],
        "draft flops": first, "flops of an answer": first + float(spent.mean()),
        "looks": float(np.mean([r.looks for r in refined])), "flops": stages * student.flops + drawn.flops,
    }  # fmt: skip


def used(one: dict, budget: float) -> list[float]:
    """Whether the vote of as many refined answers as a budget pays for is right, of every problem."""
    count = int(np.clip(budget // one["flops of an answer"], 1, DRAFTS))
    right = []
    for programs, wanted in zip(one["program"], one["wanted"], strict=True):
        votes = Counter(text for text in programs[:count] if text)
        right.append(float(bool(votes) and votes.most_common(1)[0][0] == wanted))
    return right


def run(work: Workspace) -> Measured:
    policies = POLICIES[:3] if work.quick else POLICIES
    found = [work.keep(f"width{w}_stages{stages}", partial(measured, work, w, stages)) for w, stages in policies]
    cost = np.array([one["flops of an answer"] for one in found])
    before, after = (np.array([np.array(one[name])[:, :SCORED].mean(1) for one in found]) for name in
                     ("before", "after"))  # fmt: skip
    use = np.array([used(one, AFFORDED * cost.max()) for one in found])
    scored, other = np.arange(0, use.shape[1], 2), np.arange(1, use.shape[1], 2)
    pairs = np.stack([np.concatenate([b[:, half] for b in (before, after, use)]).T for half in
                      (scored[: len(other)], other)], 1)  # [pairs of problems, 2, 3 x policies]  # fmt: skip

    def parts(rows: np.ndarray) -> tuple[float, float]:
        (base, better, _), (*_, value) = (np.split(half, 3) for half in rows.mean(0))
        agreement = spearmanr(refinement_score(base, better, cost), value)[0]
        every = rows.mean((0, 1))
        gain = np.split(every, 3)[1] - np.split(every, 3)[0]
        return float(gain.mean()), float(np.nan_to_num(agreement))

    def least(rows: np.ndarray) -> float:
        gain, agreement = parts(rows)
        return min(gain / GAIN, agreement / AGREEMENT)

    names = [f"width {width}, {stages} stages" for width, stages in policies]
    score = refinement_score(before.mean(1), after.mean(1), cost)
    table = [{"policy": n, "drafts": f"{b:.3f}", "refined": f"{a:.3f}", "cost": f"{c / cost.min():.2f}",
              "score": f"{s:.3f}", "vote for equal FLOPs": f"{u:.3f}"}
             for n, b, a, c, s, u in
             zip(names, before.mean(1), after.mean(1), cost, score, use.mean(1), strict=True)]  # fmt: skip
    gain, agreement = parts(pairs)
    details = {
        "tables": [{"title": "policies, over all problems", "rows": table}],
        "gain, and its interval": [gain, *bootstrap_interval(pairs, lambda rows: parts(rows)[0])],
        "agreement, and its interval": [agreement, *bootstrap_interval(pairs, lambda rows: parts(rows)[1])],
        "agreement of drafts' accuracy alone": float(spearmanr(before[:, scored].mean(1), use[:, other].mean(1))[0]),
        "looks of a draft": {name: one["looks"] for name, one in zip(names, found, strict=True)},
    }  # fmt: skip
    return Measured(least(pairs), bootstrap_interval(pairs, least), sum(one["flops"] for one in found), details)
