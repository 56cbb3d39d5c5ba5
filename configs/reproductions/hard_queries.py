"""Rejection sampling with a target for every query teaches the hard ones better than equal attempts, at equal size.

    python -m launch.reproduce hard_queries --workdir runs/reproductions/hard_queries

Two minutes on one core. A two-layer model imitates sums of two-digit numbers, and attempts other ones. Its right
answers make sets of one size: of equal attempts at all sums (vanilla), of the same number of right answers to each, or
of a number in proportion to how often it fails. A student, which starts as that model, trains on either set. An answer
is right with its exact probability, as only one text is right: attempts are drawn from it and not token by token.
Targets took four to seven times the attempts, and lifted the share of hard sums from 0.2 to more than half of the set.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs.reproductions import grpo_arithmetic as sums
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.tasks.text import solved_rows
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.objectives import Completions
from scaling.train.state import TrainState
from scaling.train.step import init_state, train_step
from search.posttrain.rejection import (
    Collected,
    equal_attempts,
    hard_targets,
    kept_to,
    to_targets,
    uniform_targets,
)

HARD, EACH, MOST, TRIES = 0.3, 2, 256, 16  # base rate below which a sum is hard; answers of a sum on average; most
# attempts at one; attempts by which its rate is known
STUDENT = TrainConfig(
    steps=200, batch_size=64, seq_len=sums.SEQ, learning_rate=1e-3, weight_decay=0.0, objective=Completions()
)


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="hard_queries",
        methods=(253,),
        claim="At equal size, sets with targets for every query teach hard queries better than equal attempts",
        source="Tong et al. 2024, DART-Math, arXiv:2407.13690",
        smallest_effect=0.02,
        unit="success on hard held-out queries above vanilla rejection, of the way with targets that gains less",
        minutes=6,
        not_covered="several different right answers to a query; equal attempts in place of equal size (targets take "
        "more, see the details); words",
        simulated=False,
        run=run,
    )


def rates_of(params: dict, rows: dict[str, np.ndarray]) -> np.ndarray:
    """The probability of the right answer of every row `[n]`."""
    return np.exp(np.asarray(sums.judged(params, rows)[0], np.float64))


def student(start: dict, rows: dict[str, np.ndarray], counts: np.ndarray, seed: int, steps: int) -> dict:
    """The parameters of a student of a set with so many answers of each row."""
    state = jax.jit(partial(init_state, sums.MODEL, STUDENT))(np.uint32(seed), hyperparameters(STUDENT))
    chosen = np.random.default_rng(seed).choice(
        len(counts), p=counts / counts.sum(), size=(steps, STUDENT.batch_size)
    )  # fmt: skip

    def step(state: TrainState, chosen: jax.Array) -> tuple[TrainState, None]:
        batch = jax.tree.map(lambda x: jnp.asarray(x)[chosen], rows)
        return train_step(sums.MODEL, STUDENT, jnp.inf, state, batch, hyperparameters(STUDENT))[0], None

    train = jax.jit(lambda state, order: jax.lax.scan(step, state, order)[0])
    return train(state._replace(params=start), chosen).params


def one(quick: bool, seed: int, imitation: int, steps: int) -> dict:
    """Success of the students of one seed on easy and hard sums, with what their sets are."""
    start = sums.imitate(seed, imitation)
    drawn = sums.TASK.generate(7 + seed, 100 if quick else 1500)
    asked = list({problem.canonical: problem for problem in drawn}.values())
    rows = solved_rows(sums.TOKENS, sums.TASK, asked, sums.SEQ)
    test = solved_rows(sums.TOKENS, sums.TASK, sums.TASK.generate(1, 50 if quick else 700, "test"), sums.SEQ)
    rates, before, rng = rates_of(start, rows), rates_of(start, test), np.random.default_rng(seed)

    def attempt(queries: np.ndarray) -> np.ndarray:
        return rng.random(len(queries)) < rates[queries]

    total, known = EACH * len(asked), rng.binomial(TRIES, rates) / TRIES
    sets: dict[str, Collected] = {
        "vanilla": equal_attempts(attempt, len(asked), total, MOST),
        "uniform": to_targets(attempt, uniform_targets(len(asked), total), MOST),
        "proportional": to_targets(attempt, hard_targets(known, total), MOST),
    }
    size, hard = min(int(found.right.sum()) for found in sets.values()), before < HARD
    found: dict[str, Any] = {"hard": float(hard.mean()), "size": size, "before": float(before[hard].mean())}
    for name, collected in sets.items():
        counts = kept_to(rng, collected.right, size)
        after = rates_of(student(start, rows, counts, seed, steps), test)
        found[name] = {
            "success on hard": float(after[hard].mean()), "success on all": float(after.mean()),
            "hard share of the set": float(counts[rates < HARD].sum() / size),
            "attempts at a query": float(collected.attempts.mean()),
        }  # fmt: skip
    return found


def run(work: Workspace) -> Measured:
    seeds, imitation, steps = (2, 3, 3) if work.quick else (5, 400, STUDENT.steps)
    every = []
    for seed in range(seeds):
        work.say(f"seed {seed}: three sets of one size")
        every.append(work.keep(f"seed{seed}", partial(one, work.quick, seed, imitation, steps)))
    gains = {
        name: np.array([x[name]["success on hard"] - x["vanilla"]["success on hard"] for x in every])
        for name in ("uniform", "proportional")
    }
    least = min(gains.values(), key=lambda gain: float(gain.mean()))
    details = {"seeds": every, "gains": {
        name: {"mean": float(gain.mean()), "interval": t_interval(gain)} for name, gain in gains.items()
    }}  # fmt: skip
    flops = sums.IMITATED.flops(sums.MODEL, sums.IMITATED.tokens_per_step * imitation, {})
    flops += 3 * STUDENT.flops(sums.MODEL, STUDENT.tokens_per_step * steps, {})
    return Measured(float(least.mean()), t_interval(least), float(flops * seeds), details)
