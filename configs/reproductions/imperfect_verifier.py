"""Resampling a weak model until a verifier with false positives accepts never reaches a strong one's single sample.

    python -m launch.reproduce imperfect_verifier --workdir runs/reproductions/imperfect_verifier

Two models of 7 and 15 thousand parameters sort six letters; the verifier looks at the first three. They are part of the
ladder of configs/benchmark_ladder.py, whose training takes 10 of the 11 minutes.
"""

import numpy as np

from configs.benchmark_ladder import plan
from scaling.evaluate.likelihood import continuations
from scaling.reproduction import Measured, Reproduction, Workspace
from scaling.tasks import task_by_name
from search.policy import Policy, load_policy

TASK, LETTERS, CHECKED = "copy:longest=6,order=sorted", 6, 3
WIDTHS = (16, 24)  # weak, strong
ATTEMPTS = 2 ** np.arange(11)
PENALTY = 1.0  # a wrong answer that was accepted costs what a right one gains


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="imperfect_verifier",
        methods=(35,),
        claim="With a verifier that errs, no number of samples lifts a weak model to a strong one's single sample",
        source="Stroebl et al. 2024, Inference scaling fLaws, arXiv:2411.17501",
        smallest_effect=0.05,
        unit="accuracy of the strong model's single sample less the weak model's ceiling",
        minutes=11,
        not_covered="unit tests of programs; here a false positive is an answer whose first half is right. The best "
        "number of attempts (details) follows from the measured rates and a penalty of 1: none at all",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def run(work: Workspace) -> Measured:
    name = "benchmark_ladder_quick" if work.quick else "benchmark_ladder"
    table = work.sweep(plan(work.quick), name, shared=True)
    table = table[(table["seed"] == 0) & (table["steps"] == table["steps"].max())].set_index("d_model")
    widths = tuple(sorted(table.index)[:2]) if work.quick else WIDTHS
    places = [work.shared / "sweeps" / name / "trials" / table.loc[width, "trial"] for width in widths]
    items = 30 if work.quick else 500
    weak, strong = np.array(work.keep("rates", lambda: [rates(load_policy(place), items) for place in places]))
    right, accepted = weak.prod(1), weak[:, :CHECKED].prod(1)  # probabilities of one sample, [items]
    ceiling = right / accepted  # of ever more attempts: accepted is positive under a softmax
    gap = strong.prod(1) - ceiling
    rng = np.random.default_rng(0)
    low, high = np.quantile([gap[rng.integers(len(gap), size=len(gap))].mean() for _ in range(2000)], [0.05, 0.95])
    tries = 1 - (1 - accepted[:, None]) ** ATTEMPTS  # P(accepted within k), [items, k]
    every = np.arange(1, 1001)
    reward = ((1 - (1 - accepted[:, None]) ** every) * (ceiling - PENALTY * (1 - ceiling))[:, None]).mean(0)
    lines = {
        "weak, resampled": (tries * ceiling[:, None]).mean(0).tolist(),
        "weak, sampled": sampled(weak).tolist(),
        "weak, ceiling": [float(ceiling.mean())] * len(ATTEMPTS),
        "strong, one sample": [float(strong.prod(1).mean())] * len(ATTEMPTS),
    }
    curve = {"x": "attempts at most", "y": "accuracy", "log": "x",
             "lines": {label: {"x": ATTEMPTS.tolist(), "y": y} for label, y in lines.items()}}  # fmt: skip
    predicted, drawn = np.array(lines["weak, resampled"]), np.array(lines["weak, sampled"])
    details = {
        "curves": [curve],
        "false positives among the wrong samples of the weak model": float(
            ((accepted - right) / (1 - right)).mean()
        ),
        "best number of attempts": int(every[reward.argmax()]) if reward.max() > 0 else 0,
        "reward there, and of 1,000 attempts": [float(reward.max()), float(reward[-1])],
        "largest gap of sampled and predicted": float(np.abs(predicted - drawn).max()),
    }
    return Measured(float(gap.mean()), (float(low), float(high)), float(table["flops"].sum()), details)


def rates(policy: Policy, items: int) -> list[list[float]]:
    """The probability of each right letter after the right ones before it, [items, letters]; the words are distinct."""
    problems = [p for p in task_by_name(TASK).generate(0, 4 * items, "test") if len(p.instance) == LETTERS][:items]
    end, encode = policy.tokenizer.end_of_document, policy.tokenizer.encode
    pairs = [((end, *encode(p.prompt).tolist()), encode("".join(sorted(p.instance))).tolist()) for p in problems]
    return [np.exp(one.logprobs).tolist() for one in continuations(policy.model, policy.params, pairs)]


def sampled(rates: np.ndarray, repeats: int = 20) -> np.ndarray:
    """Accuracy [attempts] of drawing letters until the first CHECKED are right, at most so many times."""
    rng = np.random.default_rng(1)
    most = int(ATTEMPTS[-1])
    found = np.zeros(len(ATTEMPTS))
    for _ in range(repeats):
        for row in rates:
            passed = np.flatnonzero((rng.random((most, CHECKED)) < row[:CHECKED]).all(1))
            if len(passed) and (rng.random(LETTERS - CHECKED) < row[CHECKED:]).all():
                found += passed[0] < ATTEMPTS
    return found / (repeats * len(rates))
