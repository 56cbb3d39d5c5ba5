"""Answers of chains that agree with their own executed program, weighed by an outcome model: vote, majority, best of N.

    python -m launch.reproduce executed_chains --workdir runs/reproductions/executed_chains

The weak thinker's twenty thoughts are shared with other reproductions. The programs do nearly all of it: 97 % of the
chains that they keep are right and 1 % of those that they drop. The outcome model, after 400 steps, tells little apart
(area under the curve 0.59 within problems): its best of N falls as N grows, and it adds 0.2 points to the votes kept.
"""

from functools import partial
from typing import cast

import numpy as np
from scipy.special import expit

from configs.reproductions._policy import ROOM, TASK, plan, thinkers, thinking, thoughts, write
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks import task_by_name
from scaling.tasks.mixed import Mixed
from scaling.tasks.reasoned import Reasoned
from search.metrics import Samples
from search.metrics.selection import best_of_k, vote_values
from search.metrics.verification import told_apart
from search.policy import load_policy
from search.verifiers.reward_training import RewardTraining, outcome, train_reward_model
from search.verifiers.value_head import last_hidden

K, COMPARED = np.array([1, 2, 4, 8, 16]), 8
TAUGHT, EACH = 600, 8  # training problems of the outcome model, and samples of each
TRAINING = RewardTraining(steps=400, batch=64, learning_rate=1e-3, held_out=0.1)
DROPPED = 1e-6  # weight of an answer that its program contradicts: it counts only where nothing else is left
WAYS = ("kept, weighted vote", "majority", "best of N", "weighted vote", "kept, majority", "kept, best of N")


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="executed_chains",
        methods=(165,),
        claim="A vote weighed by a verifier of right and wrong samples, of chains whose executed program agrees with "
        "them, beats the majority and the verifier's best of N",
        source="Liang et al. 2024, Improving LLM reasoning through scaling inference computation with collaborative "
        "verification, arXiv:2410.05318",
        smallest_effect=0.01,
        unit="accuracy with 8 thoughts: lead over majority or over the verifier's best of 8, whichever is less",
        minutes=10,
        not_covered="language models, and programs that a model writes from a chain: the operations of a chain are its "
        "program, run exactly, and an error in copying the problem passes. The best of 8 and the majority take all "
        "chains. The lead is the program's, not the verifier's, which is a weak one here (area under the curve 0.59 "
        "within problems): with the program the majority is 0.2 points behind, and without it the weighted vote leads "
        "the majority by 0.1",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def scored(work: Workspace, name: str) -> list[float]:
    """The outcome model's chance that a thought ends right, of every row of `thoughts`."""
    policy, task = load_policy(thinkers(work)[name]), task_by_name(TASK)
    problems = task.generate(1, 16 if work.quick else TAUGHT, "train")
    rows = write(policy, [p.prompt for p in problems], EACH, thinking(policy), ROOM, seed=1)

    def tokens(text: str) -> list[int]:
        return [int(token) for token in policy.tokenizer.encode(text)]

    examples = [[outcome(tokens(p.prompt), tokens(text), task.verify(p, text)) for text, _, _ in row]
                for p, row in zip(problems, rows, strict=True)]  # fmt: skip
    apart = round(TRAINING.held_out * len(problems))
    shown, held_out = ([one for row in part for one in row] for part in (examples[apart:], examples[:apart]))
    work.say(f"the outcome model learns from {len(shown)} thoughts")
    trunk, head = train_reward_model(policy.model, shown, TRAINING, params=policy.params, held_out=held_out)
    table, asked = thoughts(work, name), task.generate(0, 24 if work.quick else 500, "test")
    texts = [[*tokens(asked[i].prompt), *tokens(text)] for i, text in zip(table["problem"], table["text"], strict=True)]
    return expit(last_hidden(policy.model, trunk, texts, 256) @ np.asarray(head.weight) + float(head.bias)).tolist()


def compared(work: Workspace, name: str) -> dict:
    """Accuracy of every problem by way and K, `[WAYS, problems, K]`; and what the verifier and the programs tell."""
    task = cast(Reasoned, cast(Mixed, task_by_name(TASK)).parts[0])
    table = thoughts(work, name)
    table["score"] = work.keep("scores", partial(scored, work, name))
    agrees = np.array([task.executed(x) == a for x, a in zip(table["text"], table["answer"], strict=True)])
    every, weight = Samples.from_table(table), np.where(agrees, 1.0, DROPPED)
    kept = Samples.from_table(table.assign(score=table["score"] * weight))
    counted = Samples.from_table(table.assign(score=weight))

    def best(samples: Samples) -> np.ndarray:
        return np.array([best_of_k(c, s, K) for c, s in zip(samples.correct, samples.scores or (), strict=True)])

    values = (
        vote_values(kept, K, True, 400)[0], vote_values(every, K, False, 400)[0], best(every),
        vote_values(every, K, True, 400)[0], vote_values(counted, K, True, 400)[0], best(kept),
    )  # fmt: skip
    apart = told_apart(table[["problem", "correct", "score"]])
    return {
        "values": [value.tolist() for value in values], "share of chains kept": float(agrees.mean()),
        "right, of those kept": float(table["correct"][agrees].mean()),
        "right, of those dropped": float(table["correct"][~agrees].mean()) if not agrees.all() else None,
        "verifier": {k: v if np.isfinite(v) else None for k, v in apart.items()},
    }  # fmt: skip


def run(work: Workspace) -> Measured:
    found = work.keep("weak", partial(compared, work, "weak"))
    values = np.array(found.pop("values"))
    rows = values[:3, :, K.tolist().index(COMPARED)].T

    def effect(rows: np.ndarray) -> float:
        vote, majority, best = rows.mean(0)
        return float(vote - max(majority, best))

    lines = {way: {"x": K.tolist(), "y": value.mean(0).tolist()} for way, value in zip(WAYS, values, strict=True)}
    details = {
        "curves": [{"x": "thoughts", "y": "accuracy", "log": "x", "lines": lines}],
        "accuracy with 8": {way: line["y"][K.tolist().index(COMPARED)] for way, line in lines.items()},
        **found,
    }  # fmt: skip
    flops = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(effect(rows), bootstrap_interval(rows, effect), float(flops), details)
