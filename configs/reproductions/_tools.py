"""Policies that imitated calculations, some of them with a calculator, for what they then practise."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.config import ModelConfig
from scaling.tasks.calculation import Calculation
from scaling.tasks.task import Problem
from scaling.tasks.text import CharTokenizer
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.objectives import Completions, PolicyGradient
from scaling.train.state import TrainState
from scaling.train.step import init_state, train_step
from search.metrics.curves import powers_of_two
from search.posttrain import MeasureConfig, PostTraining, RolloutConfig, Rollouts
from search.posttrain.measure import Measure

TASK, SEQ = Calculation(operations=2, digits=1), 39
TOKENS = CharTokenizer.of(TASK)
MODEL = ModelConfig(vocab_size=TOKENS.vocab_size, d_model=48, n_layers=2, n_heads=4).resolved()
IMITATED = TrainConfig(
    steps=300, batch_size=64, seq_len=SEQ, learning_rate=4e-3, weight_decay=0.0, objective=Completions()
)
EXAMPLES = 2000
DIRECT, FUMBLED = 0.5, 0.4  # shares of traces that use no tool, and of calls that are first made wrongly


def trace(problem: Problem, rng: np.random.Generator) -> tuple[str, list[bool]]:
    """(a right completion, which of its characters its writer wrote rather than the calculator)."""
    steps = TASK.right_steps(problem)
    if rng.random() < DIRECT:
        return steps[-1].split("=")[1] + TASK.end, [True] * (len(steps[-1].split("=")[1]) + 1)
    text, own = "", list[bool]()
    for i, step in enumerate(steps):
        asked, reply = step.split("=")
        closing = TASK.end if i == len(steps) - 1 else TASK.delimiter
        parts = [(f"{asked[:-1]}=", True), ("!", False), ("|", True)] if rng.random() < FUMBLED else []
        for part, written in [*parts, (f"{asked}=", True), (reply, False), (closing, True)]:
            text, own = text + part, own + [written] * len(part)
    return text, own


def rows(problems: list[Problem], seed: int) -> dict[str, np.ndarray]:
    """Traces of problems as rows of a batch, with weight on what their writer wrote."""
    rng = np.random.default_rng(seed)
    found = {"tokens": np.zeros((len(problems), SEQ + 1), np.int32),
             "weights": np.zeros((len(problems), SEQ), np.float32)}  # fmt: skip
    for i, problem in enumerate(problems):
        text, own = trace(problem, rng)
        whole = TOKENS.encode(problem.prompt + text)
        found["tokens"][i, : len(whole)] = whole
        found["weights"][i, len(problem.prompt) - 1 : len(whole) - 1] = own
    return found


def imitate(seed: int, steps: int, start: Any = None) -> Any:
    """The parameters after so many steps of imitation; start: of a policy that goes on, with a new optimizer."""
    examples = rows(TASK.generate(0, EXAMPLES), seed)
    state = jax.jit(partial(init_state, MODEL, IMITATED))(np.uint32(seed), hyperparameters(IMITATED))
    if start is not None:
        state = state._replace(params=start)

    def step(state: TrainState, key: jax.Array) -> tuple[TrainState, None]:
        chosen = jax.random.randint(key, (IMITATED.batch_size,), 0, EXAMPLES)
        batch = jax.tree.map(lambda x: jnp.asarray(x)[chosen], examples)
        return train_step(MODEL, IMITATED, jnp.inf, state, batch, hyperparameters(IMITATED))[0], None

    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), int(start is not None)), steps)
    return jax.jit(lambda state, keys: jax.lax.scan(step, state, keys)[0])(state, keys).params


def rollouts(params: Any, seed: int, prompts: int, group: int, **more: Any) -> Rollouts:
    """What such a policy practises with: other problems, the calculator, and a reward of 1 for a right answer."""
    return Rollouts(
        MODEL, params, TOKENS, TASK.generate(7, 1000), lambda problem, text: float(TASK.verify(problem, text)),
        prompts=prompts, group=group, seq_len=SEQ, seed=seed, ends=(int(TOKENS.encode(TASK.end)[0]),),
        environment=TASK.environment(), most_calls=6, **more,
    )  # fmt: skip


def practised(objective: PolicyGradient, steps: int, prompts: int) -> TrainConfig:
    return TrainConfig(
        steps=steps, batch_size=prompts, seq_len=SEQ, learning_rate=1e-3, schedule="constant", warmup_steps=5,
        weight_decay=0.0, objective=objective, init_from="the policy that imitated", log_every=10, checkpoint_every=20,
    )  # fmt: skip


def practise(train: TrainConfig, start: Any, drawn: Rollouts, folder: Path, updates: int = 1) -> tuple[Any, list[dict]]:
    """(the parameters after practice, its rows)."""
    state = PostTraining(MODEL, train, start, drawn, folder, RolloutConfig(updates=updates)).run()
    return state.params, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def judged(params: Any, drawn: Rollouts, problems: int, samples: int) -> dict[str, float]:
    """Success and votes on held-out problems, tokens that a sample draws, calls of one, and the share that fail."""
    columns, flops = Measure(drawn, TASK, MeasureConfig(problems=problems, samples=samples))(params)
    found = drawn.drawn(TASK.generate(1, problems, "test"), params, 4, 1)
    tokens, calls, failed = (sum(getattr(x, name) for x in found.episodes) for name in ("drawn", "calls", "failed"))
    most = f"vote@{powers_of_two(samples)[-1]}"
    return {
        "success": columns["vote@1"], most: columns[most], f"pass@{samples}": columns[f"pass@{samples}"],
        "tokens": tokens / len(found.episodes), "calls": calls / len(found.episodes), "failed": failed / max(calls, 1),
        "flops": flops + found.flops,
    }  # fmt: skip
