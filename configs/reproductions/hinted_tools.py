"""A few traces with hints to calculate, then rejection and reinforcement: more right answers in fewer tokens.

    python -m launch.reproduce hinted_tools --workdir runs/reproductions/hinted_tools

Policies of 0.06M weights work out sums and products of numbers of two digits by hand, place by place. One arm reads a
few of these traces with calls of a calculator in the place of the work, the other the same traces as they were. Then
both keep their own right answers (rejection, three rounds) and practise (GRPO), with as many steps and samples. The
replies of the calculator count as tokens. Of numbers of three digits, policies of such a size got one in fifteen right
by hand before any stage, so that there are two.

Success went from 0.39 to 0.60 by hand to 0.90 to 0.96 with calls. The arm by hand ended below that, at 0.27 to 0.36: 64
traces, read many times, cost it 15 points or more, which rejection and practice did not bring back.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs.reproductions import _imitation as imitation
from scaling.reproduction import Measured, Reproduction, Workspace, least
from scaling.tasks.longhand import Longhand
from scaling.tasks.task import Problem
from scaling.tasks.text import CharTokenizer
from scaling.train.objectives import PolicyGradient
from search.posttrain import PostTraining, RolloutConfig, Rollouts
from search.posttrain.hints import Part, with_calls

TASK, SEQ, EXAMPLES, HINTED = Longhand(operations=1, digits=2), 24, 3000, 64
TOKENS = CharTokenizer.of(TASK)
MODEL = imitation.small(TOKENS)
PROMPTS, GROUP, UPDATES, FAILED = 16, 8, 6, 0.5
GAIN, SAVED = 0.05, 0.3  # least of interest: success, and share of tokens
EXPERT = PolicyGradient(group=GROUP, advantage="expert", old="current", clip="none", normalize="token")


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="hinted_tools",
        methods=(248,),
        claim="Hints to call a calculator in a few traces, then rejection and reinforcement, raise success by 5 points "
        "with 30 % fewer tokens than the same stages by hand",
        source="Li et al. 2025, CoRT, arXiv:2506.09820",
        smallest_effect=1.0,
        unit="the lesser of: success gained, in units of 0.05; share of tokens saved, in units of 0.3",
        minutes=3,
        not_covered="programs as tools; words; hints of several kinds; distrust of replies. How much one call saves is "
        "a property of the task: 37 % of the tokens where all is called",
        simulated=False,
        run=run,
    )


def trace(problem: Problem, hinted: bool) -> tuple[str, tuple[Part, ...]]:
    """A solution by hand, or with a call for each of its results."""
    text = TASK.solution(problem, np.random.default_rng(0))
    parts = with_calls(TASK.environment(), problem, text, TASK.computations(text) if hinted else [])
    assert parts is not None
    return problem.prompt, parts


def kept(problem: Problem, text: str) -> float:
    """1 for an answer to learn from: right, and without a call that failed."""
    return float(TASK.verify(problem, text) and "!" not in text)


def rewarded(problem: Problem, text: str) -> float:
    """1 for a right answer, less for calls that failed."""
    return float(TASK.verify(problem, text)) - FAILED * ("!" in text)


def stages(start: Any, drawn: Rollouts, folder: Path, rounds: int, steps: int) -> tuple[list[Any], float]:
    """(the parameters after rejection and after reinforcement, FLOPs)."""
    found, flops = list[Any](), 0.0
    plan: list[tuple[PolicyGradient, int, int, Callable[[Problem, str], float]]] = [
        (EXPERT, rounds * UPDATES, UPDATES, kept), (PolicyGradient(group=GROUP), steps, 1, rewarded),
    ]  # fmt: skip
    for number, (objective, count, updates, reward) in enumerate(plan):
        drawn.reward = reward
        train = imitation.practised(objective, count, PROMPTS, SEQ)
        run = PostTraining(MODEL, train, start, drawn, folder / str(number), RolloutConfig(updates=updates))
        start = run.run().params
        found, flops = [*found, start], flops + run.flops
    return found, flops


def judged(params: Any, drawn: Rollouts, problems: int) -> dict[str, float]:
    """Of held-out problems; tokens are those of the completion, replies included."""
    found = drawn.drawn(TASK.generate(1, problems, "test"), params, 2, 1)
    return {
        "success": float(np.mean([TASK.verify(x.problem, x.text) for x in found.episodes])),
        "tokens": float(np.mean([len(x.tokens) for x in found.episodes])),
        "calls": float(np.mean([x.calls for x in found.episodes])),
        "failed calls": float(np.mean([x.failed for x in found.episodes])),
        "flops": float(found.flops),
    }


def one(work: Workspace, seed: int) -> dict:
    """Both arms of one seed, after every stage."""
    steps, hints, rounds, practice, problems = (3, 3, 1, 2, 20) if work.quick else (600, 40, 3, 6, 150)
    base = imitation.Learner(MODEL, imitation.imitated(steps, SEQ))
    few = imitation.Learner(MODEL, imitation.imitated(hints, SEQ, rate=2e-3))
    rows = partial(imitation.rows_of, TOKENS, SEQ)
    start = base.learn(rows([trace(p, False) for p in TASK.generate(0, EXAMPLES)]), seed)
    drawn = Rollouts(
        MODEL, start, TOKENS, TASK.generate(7, 1000), kept, prompts=PROMPTS, group=GROUP, seq_len=SEQ, seed=seed,
        ends=(int(TOKENS.encode(TASK.end)[0]),), environment=TASK.environment(), most_calls=4,
    )  # fmt: skip
    found: dict[str, Any] = {"before": judged(start, drawn, problems)}
    flops = base.flops + 2 * few.flops
    for arm, hinted in (("by hand", False), ("hinted", True)):
        first = few.learn(rows([trace(p, hinted) for p in TASK.generate(1000 + seed, HINTED)]), seed, start)
        later, spent = stages(first, drawn, work.folder / f"{arm.replace(' ', '_')}{seed}", rounds, practice)
        names = ("after a few traces", "after reinforcement")
        found[arm] = {name: judged(x, drawn, problems) for name, x in zip(names, [first, later[-1]], strict=True)}
        flops += spent
    return found | {"flops": flops}


def run(work: Workspace) -> Measured:
    every = []
    for seed in range(2 if work.quick else 3):
        work.say(f"seed {seed}: by hand, and with hints")
        every.append(work.keep(f"seed{seed}", partial(one, work, seed)))
    last = {arm: {key: np.array([x[arm]["after reinforcement"][key] for x in every]) for key in ("success", "tokens")}
            for arm in ("by hand", "hinted")}  # fmt: skip
    gain = last["hinted"]["success"] - last["by hand"]["success"]
    saved = 1 - last["hinted"]["tokens"] / last["by hand"]["tokens"]
    effect, interval = least([gain / GAIN, saved / SAVED])
    details = {"seeds": every, "success gained": gain.tolist(), "share of tokens saved": saved.tolist()}
    return Measured(effect, interval, sum(x["flops"] for x in every), details)
