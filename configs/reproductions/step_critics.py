"""A critic of steps, taught by injected errors, helps on hard problems: at test time, and when solutions are gathered.

    python -m launch.reproduce step_critics --workdir runs/reproductions/step_critics

The policy and critic, which are one, are shared with other reproductions. The first half holds: on hard problems .76 of
the votes are right where drafts are refined, .20 of those for as many tokens of drafts (lead .56 [.52, .61]), although
the critic passes half of the wrong lines. The second does not: self-training raises pass@8 neither with revisions nor
without (.64 both, .65 before).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from configs.reproductions import _imitation as imitation
from configs.reproductions import _repair as shared
from configs.reproductions._repair import PROGRAM, TASK, TOKENS, Drawn
from configs.reproductions.grown_stacks import STAGES, WIDTH
from configs.reproductions.repaired_programs import majority
from configs.reproductions.self_refined import looks
from scaling.laws.coverage import pass_at_k
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks.repair import Issue, Program

PROBLEMS, SORTED, REFINED = 1200, 8, 4  # problems; drafts that sort them; others that are refined and vote
GATHERED, TRIES, TUNED = 1000, 8, 100  # training problems of self-training, drafts of each, and steps
SAMPLES, K, SEEDS = 16, 8, 3
GAIN = 0.02  # least of interest, of both gains


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="step_critics",
        methods=(167,),
        claim="On the third of the problems that is hardest for a policy, refining by a critic of steps and voting "
        "beats a vote for as many tokens, and self-training on what was refined too raises pass@8 over self-training "
        "on right drafts alone",
        source="Xi et al. 2024, Enhancing LLM reasoning via critique models with test-time and training-time "
        "supervision (AutoMathCritique), arXiv:2411.16579",
        smallest_effect=1.0,
        unit="the lesser of the gain in accuracy of votes and the gain in pass@8, over 0.02",
        minutes=6,
        not_covered="language models, critiques in words, and a critic apart from the policy: both are one model that "
        "learned all forms. Errors are injected at random, half of them such as show on one of two inputs only. One "
        "round of self-training, of three seeds. The first half of the claim holds alone: votes lead by 0.56 "
        "[0.52, 0.61], 0.76 against 0.20. It is pass@8 that stays, at 0.64 with revisions or without",
        simulated=False,
        run=run,
    )


def hardest(rates: np.ndarray) -> np.ndarray:
    """The places of the third of lowest pass rate, of equals the first."""
    return np.sort(np.argsort(rates, kind="stable")[: len(rates) // 3])


def tested(work: Workspace, drawn: Drawn, issues: list[Issue]) -> dict:
    """Which problems are hard; whether votes of drafts, and of refined drafts, are right on these; and the critic."""
    drafts = drawn.programs(issues, SORTED)
    rates = np.array([np.mean([p == issue.wanted for p in row]) for row, issue in zip(drafts, issues, strict=True)])
    chosen = hardest(rates)
    hard = [issues[i] for i in chosen]
    work.say(f"{len(hard)} hard problems, on which {rates[chosen].mean():.2f} of the drafts are right")
    own = [p for row in drawn.programs(hard, SORTED + REFINED) for p in row[SORTED:]]
    asked = [issue for issue in hard for _ in range(REFINED)]
    refined, _ = looks(drawn, asked, own)
    read = np.mean([one.looks for one in refined])
    count = int(np.ceil(REFINED * (1 + read * (shared.VERDICT + PROGRAM) / PROGRAM)))  # drafts for as many tokens
    rows = [row[SORTED:] for row in drawn.programs(hard, SORTED + count)]
    ends = [[one.versions[-1] for one in refined[i : i + REFINED]] for i in range(0, len(refined), REFINED)]
    plain = [own[i : i + REFINED] for i in range(0, len(own), REFINED)]

    def right(votes: Sequence[Sequence[Program | None]]) -> list[float]:
        return [float(majority([p for p in row if p is not None]) == issue.wanted)
                for row, issue in zip(votes, hard, strict=True)]  # fmt: skip

    return {
        "hard": chosen.tolist(), "refine and vote": right(ends), "vote of as many tokens": right(rows),
        "vote of as many drafts": right(plain), "drafts for as many tokens": count, "looks": float(read),
        "one draft": float(np.mean([p == i.wanted for p, i in zip(own, asked, strict=True)])),
        "one refined": float(np.mean([r.versions[-1] == i.wanted for r, i in zip(refined, asked, strict=True)])),
        "critic": criticised(drawn, [(i, p) for i, p in zip(asked, own, strict=True) if p is not None]),
    }  # fmt: skip


def criticised(drawn: Drawn, drafts: Sequence[tuple[Issue, Program]]) -> dict[str, float]:
    """Share of lines found right, of those that are and of those that are not."""
    said = drawn.each([shared.judge(issue, program) for issue, program in drafts])
    found: dict[str, list[bool]] = {"y": [], "n": []}
    for (issue, program), text in zip(drafts, said, strict=True):
        for truth, verdict in zip(TASK.verdicts(issue, program), shared.judged(text)[0], strict=False):
            found[truth].append(verdict == "y")
    return {f"found right, of lines that are {name}": float(np.mean(found[letter])) if found[letter] else 0.0
            for letter, name in (("y", "right"), ("n", "wrong"))}  # fmt: skip


def gathered(drawn: Drawn, issues: list[Issue]) -> dict[str, list[tuple[str, str]]]:
    """(prompt, right program) that the policy found itself: among its drafts, and among its revisions of wrong ones."""
    drafts = drawn.programs(issues, TRIES)
    pairs = [(issue, p) for issue, row in zip(issues, drafts, strict=True) for p in row]
    alone = {(shared.solve(issue), shared.text_of(p)) for issue, p in pairs if p == issue.wanted}
    wrong = [(issue, p) for issue, p in pairs if p is not None and p != issue.wanted]
    revised, _ = looks(drawn, [issue for issue, _ in wrong], [p for _, p in wrong])
    more = {(shared.solve(issue), shared.text_of(issue.wanted)) for (issue, _), one in zip(wrong, revised, strict=True)
            if issue.wanted in one.versions}  # fmt: skip
    return {"right drafts": sorted(alone), "and revisions": sorted(alone | more)}


def one(work: Workspace) -> dict:
    seeds = 1 if work.quick else SEEDS
    student, start = shared.learner(WIDTH, work.quick), shared.policy(work, WIDTH, STAGES)
    issues = [p.instance for p in TASK.generate(3, 30 if work.quick else PROBLEMS, "test")]
    drawn = Drawn(student.model, start, seed=3)
    found = tested(work, drawn, issues)
    hard = [issues[i] for i in found["hard"]]
    texts = gathered(drawn, [p.instance for p in TASK.generate(50, 20 if work.quick else GATHERED)])
    work.say(f"gathered: {[(name, len(pairs)) for name, pairs in texts.items()]}")
    tune = shared.learner(WIDTH, work.quick, TUNED, rate=2e-3)
    passed: dict[str, list] = {}
    flops = STAGES * student.flops
    for name, pairs in {"before": [], **texts}.items():
        rows = imitation.rows_of(TOKENS, shared.SEQ - 1, [(prompt, [(text, True)]) for prompt, text in pairs])
        passed[name] = []
        for seed in range(seeds if pairs else 1):
            params = tune.learn(rows, seed, start) if pairs else start
            again = Drawn(student.model, params, 10 + seed, drawn.writer)
            right = np.array([[p == issue.wanted for p in row] for issue, row in
                              zip(hard, again.programs(hard, SAMPLES), strict=True)])  # fmt: skip
            passed[name].append(pass_at_k(SAMPLES, right.sum(1)[:, None], np.array([1, K])).tolist())
            flops += tune.flops if pairs else 0
    return found | {"pass": passed, "gathered": {n: len(p) for n, p in texts.items()}, "flops": flops + drawn.flops}


def run(work: Workspace) -> Measured:
    kept = work.keep("one", partial(one, work))
    passed = {name: np.array(values).mean(0) for name, values in kept.pop("pass").items()}  # [problems, (1, K)]
    votes = {name: np.array(kept.pop(name)) for name in
             ("refine and vote", "vote of as many tokens", "vote of as many drafts")}  # fmt: skip
    gains = np.stack([votes["refine and vote"] - votes["vote of as many tokens"],
                      (passed["and revisions"] - passed["right drafts"])[:, 1]], 1)  # fmt: skip

    def least(rows: np.ndarray) -> float:
        return float(rows.mean(0).min() / GAIN)

    kept["hard"] = len(kept["hard"])
    flops = kept.pop("flops")
    details = {
        "votes on hard problems": {name: float(value.mean()) for name, value in votes.items()},
        f"pass@1 and pass@{K} on hard problems": {name: value.mean(0).tolist() for name, value in passed.items()},
        "gain of votes, and its interval": [float(gains[:, 0].mean()), *bootstrap_interval(gains[:, 0])],
        f"gain of pass@{K}, and its interval": [float(gains[:, 1].mean()), *bootstrap_interval(gains[:, 1])],
        **kept,
    }  # fmt: skip
    return Measured(least(gains), bootstrap_interval(gains, least), flops, details)
