"""What a policy that practises is worth: votes and coverage of its samples on held-out problems, and their FLOPs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from scaling.evaluate.summary import mean_interval
from scaling.laws.coverage import pass_at_k
from scaling.tasks import Task
from search.metrics.curves import powers_of_two
from search.posttrain.config import MeasureConfig
from search.posttrain.rollouts import Rollouts
from search.strategies.votes import elect

log = logging.getLogger(__name__)
LEVEL = 0.9  # of the intervals over problems


class Measure:
    """`measure(params)`: the columns of one measurement. Draws with the engine of the rollouts, so nothing compiles.

    k is every power of two up to the samples: `vote@k` is the accuracy of the majority of k samples (the mean over
    disjoint blocks; of equal counts the answer that came first), `vote@1` that of one sample, `pass@k` the unbiased
    chance that one of k is right; `inference@k` FLOPs per problem of k samples, the prompt read once and what follows
    a reply by each sample. `_low` and `_high` are intervals over problems. `unjudged`: samples at which the verifier
    or an environment raised, which count as wrong.
    """

    def __init__(self, rollouts: Rollouts, task: Task, config: MeasureConfig):
        self.rollouts, self.task, self.config = rollouts, task, config
        self.problems = task.generate(config.seed, config.problems, "test")

    def __call__(self, params: Any) -> tuple[dict[str, float], float]:
        """(columns, FLOPs that measuring took); a function of params alone."""
        drawn = self.rollouts.drawn(self.problems, params, self.config.samples, self.config.seed)
        right = np.zeros((len(self.problems), self.config.samples))
        answers: list[list[str | None]] = [[None] * self.config.samples for _ in self.problems]
        decoding, unjudged = 0.0, 0
        for one in drawn.episodes:
            decoding += one.flops
            unjudged += one.fault is not None
            if one.fault is not None:
                continue
            try:
                right[one.row, one.sample] = self.task.verify(one.problem, one.text)
                answers[one.row][one.sample] = self.task.answer(one.text)
            except Exception as error:  # as in a rollout: it costs one sample, not the run
                log.warning("verifier of %r: %s: %s", one.problem.prompt, type(error).__name__, error)
                unjudged += 1
        reading = (drawn.flops - decoding) / len(self.problems)
        per_sample = decoding / right.size
        columns: dict[str, float] = {"unjudged": unjudged}
        for k in powers_of_two(self.config.samples).tolist():
            voted = [votes(a, r, k) for a, r in zip(answers, right, strict=True)]
            columns |= dict(zip((f"vote@{k}", f"vote@{k}_low", f"vote@{k}_high"), mean_interval(voted, LEVEL)))
            columns[f"pass@{k}"] = float(pass_at_k(right.shape[1], right.sum(1), k).mean())
            columns[f"inference@{k}"] = reading + k * per_sample
        return columns, float(drawn.flops)


def votes(answers: Sequence[str | None], right: np.ndarray, k: int) -> float:
    """Share of disjoint blocks of k samples whose most frequent answer is right; unread answers (None) do not vote."""
    won = []
    for start in range(0, len(answers) - k + 1, k):
        elected = elect(answers[start : start + k])
        won.append(elected is not None and bool(right[start + elected.candidate]))
    return float(np.mean(won))
