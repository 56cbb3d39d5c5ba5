"""Compute at test time of four kinds, each on the same small policy: parallel, sequential, hybrid and internal.

    python -m launch.reproduce four_kinds --workdir runs/reproductions/four_kinds

Five minutes, most of them for two policies that other reproductions share.
"""

import numpy as np

from configs.reproductions._policy import (
    ROOM,
    TASK,
    answers,
    cut_answers,
    plan,
    posed,
    thinkers,
    thinking,
    thoughts,
)
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks import task_by_name
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.metrics import Samples
from search.metrics.selection import vote_values
from search.policy import load_policy
from search.searcher import Searcher, SearchProblem
from search.strategies.beam import beam
from search.verifiers.scorer import LikelihoodScorer

POLICY, CHAINS, SHORT, LONG = "weak", 8, 6, 30


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="four_kinds",
        methods=(174,),
        claim="Each kind of scaling at test time lifts one policy: a vote of eight thoughts (parallel), thoughts that "
        "may be longer (sequential), a beam over steps (hybrid), a thought rather than an answer at once (internal)",
        source="Zhang et al. 2025, A survey on test-time scaling, arXiv:2503.24235",
        smallest_effect=0.02,
        unit="accuracy, the least gain of the four, each over its own baseline",
        minutes=6,
        not_covered="language models; one method of each kind: the others are in the matrix of docs/search.md. The "
        "beam is scored by the policy's own likelihood, and internal is imitation of thoughts, not reinforcement",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def beamed(work: Workspace) -> list[float]:
    """Whether the beam's answer is right, of every problem."""
    policy, problems = load_policy(thinkers(work)[POLICY]), posed(work)
    prompts = [tuple(int(t) for t in policy.tokenizer.encode(p.prompt)) for p in problems]
    step, end = (policy.continuation(mark)[0] for mark in "|.")
    config = SearchConfig(
        problems=32, prompt_len=max(map(len, prompts)), max_tokens=ROOM, max_steps=8, max_rounds=10,
        delimiters=(step,), ends=(end, *policy.ends), sampling=thinking(policy),
    )  # fmt: skip
    decoder = TransformerDecoder(policy.model, policy.params, config.prompt_len)
    search = Searcher(decoder, beam(CHAINS, 4), config, LikelihoodScorer())
    right = np.zeros(len(problems))
    for found in search.run(SearchProblem(i, prompt) for i, prompt in enumerate(prompts)):
        i = found.problem.number
        text = "" if found.answer is None else policy.text(prompts[i], found.answer)
        right[i] = task_by_name(TASK).verify(problems[i], text)
    return right.tolist()


def measured(work: Workspace) -> dict[str, list[float]]:
    """Accuracy of every problem under each kind and its baseline."""
    table = thoughts(work, POLICY)
    samples, direct = Samples.from_table(table), answers(work, POLICY)
    rate = [float(row.mean()) for row in samples.correct]
    vote = vote_values(samples, np.array([CHAINS]), subsets=200)[0][:, 0]
    cut = {budget: cut_answers(work, POLICY, table, budget).mean(1).tolist() for budget in (SHORT, LONG)}
    return {
        "one thought": rate, "parallel": vote.tolist(), "hybrid": beamed(work), "short thought": cut[SHORT],
        "sequential": cut[LONG], "no thought": direct.groupby("problem")["correct"].mean().tolist(), "internal": rate,
    }  # fmt: skip


BASELINES = {
    "parallel": "one thought",
    "hybrid": "one thought",
    "sequential": "short thought",
    "internal": "no thought",
}


def run(work: Workspace) -> Measured:
    found = work.keep("right", lambda: measured(work))
    gains = np.stack([np.array(found[kind]) - found[base] for kind, base in BASELINES.items()], 1)

    def least(rows: np.ndarray) -> float:
        return float(rows.mean(0).min())

    details = {
        "accuracy": {name: float(np.mean(row)) for name, row in found.items()},
        "gains": {kind: [float(x.mean()), *bootstrap_interval(x)] for kind, x in zip(BASELINES, gains.T)},
    }
    flops = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(least(gains), bootstrap_interval(gains, least), float(flops), details)
