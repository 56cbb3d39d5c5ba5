"""Small policies that imitate texts of characters: what several reproductions train with."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from models.config import ModelConfig
from scaling.tasks.text import CharTokenizer
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.objectives import Completions, Frozen, PolicyGradient
from scaling.train.state import TrainState
from scaling.train.step import init_state, train_step
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request

Rows = dict[str, Any]  # arrays, of NumPy or jax


def small(tokens: CharTokenizer, width: int = 48) -> ModelConfig:
    """A model of two layers."""
    return ModelConfig(vocab_size=tokens.vocab_size, d_model=width, n_layers=2, n_heads=4).resolved()


def imitated(
    steps: int, seq: int, rate: float = 5e-3, batch: int = 32, optimizer: Literal["adamw", "muon"] = "muon"
) -> TrainConfig:
    """Imitation of completions."""
    return TrainConfig(
        steps=steps, batch_size=batch, seq_len=seq, learning_rate=rate, schedule="wsd", warmup_steps=10,
        final_learning_rate=0.0, optimizer=optimizer, weight_decay=0.0, objective=Completions(),
    )  # fmt: skip


def practised(objective: PolicyGradient, steps: int, prompts: int, seq: int) -> TrainConfig:
    """Practice on what the policy writes."""
    return TrainConfig(
        steps=steps, batch_size=prompts, seq_len=seq, learning_rate=1e-3, schedule="constant", warmup_steps=3,
        weight_decay=0.0, objective=objective, init_from="the policy before", checkpoint_every=1000,
    )  # fmt: skip


def rows_of(tokens: CharTokenizer, seq: int, written: Sequence[tuple[str, Sequence[tuple[str, bool]]]]) -> Rows:
    """A prompt and the parts of a completion a row: tokens [n, seq + 1], weights [n, seq], 1 on what is to be learned.

    The second of a part says whether it is. ConfigError (data.tokenizer) for other characters.
    """
    found = {"tokens": np.zeros((len(written), seq + 1), np.int32),
             "weights": np.zeros((len(written), seq), np.float32)}  # fmt: skip
    for i, (prompt, parts) in enumerate(written):
        whole = tokens.encode(prompt + "".join(text for text, _ in parts))
        own = np.concatenate([np.full(len(text), own, np.float32) for text, own in parts])
        found["tokens"][i, : len(whole)] = whole
        found["weights"][i, len(prompt) - 1 : len(whole) - 1] = own
    return found


@functools.cache
def _program(model: ModelConfig, train: TrainConfig) -> tuple[Any, Any]:
    def step(frozen: Any, state: TrainState, batch: Rows) -> tuple[TrainState, None]:
        return train_step(model, train, float("inf"), state, batch, hyperparameters(train), frozen)[0], None

    def run(state: TrainState, batches: Rows, frozen: Any) -> TrainState:
        return jax.lax.scan(partial(step, frozen), state, batches)[0]

    return jax.jit(partial(init_state, model, train)), jax.jit(run)


@dataclass(frozen=True)
class Learner:
    """What learns, and how; `flops`: of one training."""

    model: ModelConfig
    train: TrainConfig

    @property
    def flops(self) -> float:
        passes = dict.fromkeys(self.train.objective.reads, self.model)
        return float(self.train.flops(self.model, self.train.tokens_per_step * self.train.steps, passes))

    def learn(self, rows: Rows, seed: int, start: Any = None) -> Any:
        """The parameters after training on rows drawn uniformly; start: of a policy that goes on, with a new optimizer,
        and which is the reference where the objective has one."""
        begin, run = _program(self.model, self.train)
        state = begin(np.uint32(seed), hyperparameters(self.train))
        if start is not None:
            state = state._replace(params=jax.tree.map(jax.numpy.asarray, start))
        shape = (self.train.steps, self.train.batch_size)
        chosen = np.random.default_rng([seed, start is not None]).integers(len(rows["tokens"]), size=shape)
        frozen = dict.fromkeys(self.train.objective.reads, Frozen(self.model, start))
        return run(state, {name: x[chosen] for name, x in rows.items()}, frozen).params


class Writer:
    """Draws completions of texts, with an engine that any policy of the model may use; `flops`: of all so far."""

    def __init__(self, model: ModelConfig, params: Any, tokens: CharTokenizer, seq: int, ends: str = "."):
        page = min(64, seq + 1)
        config = EngineConfig(
            slots=256, max_len=seq + 1, page_size=page, ends=(*(int(t) for t in tokens.encode(ends)), 0),
            stage_tokens=32, pages=264 * -(-(seq + 1) // page), reuse_prefixes=False,
        )  # fmt: skip
        self.tokens, self.room, self.engine = tokens, seq + 1, Engine(model, params, config)

    @property
    def flops(self) -> float:
        return float(self.engine.ledger.total.flops)

    def write(
        self, params: Any, prompts: Sequence[str], samples: int, seed: int, numbers: Sequence[int] | None = None
    ) -> list[list[str]]:
        """Samples of each prompt, which draw the random numbers of its number (by default its place)."""
        places = {number: i for i, number in enumerate(range(len(prompts)) if numbers is None else numbers)}
        self.engine.device.use_params(params)
        asked = []
        for number, i in places.items():
            row = tuple(int(t) for t in self.tokens.encode(prompts[i]))
            asked.append(Request(number, row, samples, self.room - len(row), seed=seed))
        found = [[""] * samples for _ in prompts]
        for one in self.engine.generate(asked):
            found[places[one.problem]][one.sample] = self.tokens.decode(one.tokens)
        return found
