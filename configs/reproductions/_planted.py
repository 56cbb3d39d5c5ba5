"""Policies that write letters and know nothing of the patterns that they should hold, and their practice."""

from __future__ import annotations

import functools
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.config import ModelConfig
from scaling.tasks.planted import Planted
from scaling.tasks.task import Problem
from scaling.tasks.text import CharTokenizer
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.objectives import Completions, PolicyGradient
from scaling.train.state import TrainState
from scaling.train.step import init_state, train_step
from search.posttrain import PostTraining, RolloutConfig, Rollouts

SYMBOLS, LETTERS, PROMPTS, GROUP = 6, "abcdef", 16, 8
TASK = Planted(symbols=SYMBOLS, horizon=32)
TOKENS = CharTokenizer.of(TASK)
END = int(TOKENS.encode(TASK.end)[0])
MODEL = ModelConfig(vocab_size=TOKENS.vocab_size, d_model=32, n_layers=2, n_heads=4).resolved()
ASKED = [TASK.problem(a + b) for a in LETTERS for b in LETTERS]  # all there are
ROWS = PROMPTS * GROUP


def holds(problem: Problem, text: str) -> float:
    """1 for a text that holds the pattern, whether or not it has ended."""
    return float(problem.instance in text)


def imitated(steps: int, letters: int) -> TrainConfig:
    seq = 2 + letters + 1
    return TrainConfig(steps, ROWS, seq, learning_rate=3e-3, weight_decay=0.0, objective=Completions())


def imitate(seed: int, steps: int, texts: list[str], letters: int, start: Any = None) -> Any:
    """The parameters after so many steps on `texts`, each a prompt and a completion; start: what to go on from."""
    config, size = imitated(steps, letters), len(texts)
    tokens = np.zeros((size, config.seq_len + 1), np.int32)
    weights = np.zeros((size, config.seq_len), np.float32)
    for i, text in enumerate(texts):
        tokens[i, : len(text)] = TOKENS.encode(text)
        weights[i, 2 : len(text) - 1] = 1
    state = jax.jit(partial(init_state, MODEL, config))(np.uint32(seed), hyperparameters(config))
    if start is not None:
        state = state._replace(params=start)

    def step(state: TrainState, rows: jax.Array) -> tuple[TrainState, None]:
        batch = {"tokens": jnp.asarray(tokens)[rows], "weights": jnp.asarray(weights)[rows]}
        return train_step(MODEL, config, jnp.inf, state, batch, hyperparameters(config))[0], None

    order = np.random.default_rng(seed).permutation(np.arange(steps * ROWS) % size).reshape(steps, ROWS)
    return jax.device_get(jax.jit(lambda state, order: jax.lax.scan(step, state, order)[0])(state, order).params)


def babble(seed: int, count: int, fewest: int, most: int, end: str) -> list[str]:
    """Prompts with uniform letters behind them: what a policy that knows no pattern has read."""
    rng = np.random.default_rng([seed, 1])
    found = []
    for _ in range(count):
        text = "".join(LETTERS[i] for i in rng.integers(0, SYMBOLS, rng.integers(fewest, most + 1)).tolist())
        found.append(ASKED[rng.integers(len(ASKED))].prompt + text + end)
    return found


@functools.cache
def start(seed: int, steps: int, fewest: int, most: int, end: str) -> Any:
    """A policy of this seed that babbles texts of so many letters."""
    return imitate(seed, steps, babble(seed, 4000, fewest, most, end), TASK.horizon)


def rollouts(params: Any, letters: int, **more: Any) -> Rollouts:
    """What draws completions of at most so many tokens."""
    return Rollouts(
        MODEL, params, TOKENS, ASKED, holds, prompts=PROMPTS, group=GROUP, seq_len=2 + letters, ends=(END, 0), **more
    )


def practised(drawn: Rollouts, steps: int, seed: int) -> TrainConfig:
    """So many updates of GRPO."""
    return TrainConfig(
        steps=steps, batch_size=PROMPTS, seq_len=drawn.seq_len, learning_rate=2e-3, schedule="constant", warmup_steps=5,
        weight_decay=0.0, objective=PolicyGradient(group=GROUP), init_from="a policy that babbles", seed=seed,
    )  # fmt: skip


def practise(
    start: Any, drawn: Rollouts, steps: int, seed: int, folder: Path, source: Any = None, staleness: int | None = None
) -> tuple[Any, list[dict]]:
    """(the parameters after practice, its rows). source: of the batches, where it is not `drawn` itself."""
    drawn.seed = seed
    config = RolloutConfig(staleness=staleness)
    state = PostTraining(MODEL, practised(drawn, steps, seed), start, source or drawn, folder, config).run()
    return state.params, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
