"""General models of four small domains, which are then specialised to one of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.config import ModelConfig
from models.transformer import apply, shifted
from scaling.tasks.modular import Modular
from scaling.tasks.task import Split
from scaling.tasks.text import CharTokenizer, solved_rows
from scaling.tasks.words import Copy, Recall
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.objectives import AnyObjective, Completions, Frozen
from scaling.train.step import init_state, train_step

CHAINS = 0  # the place of arithmetic, whose solutions are chains of thought
DOMAINS = (
    Modular(modulus=7, operations=3), Copy(letters=8, shortest=3, longest=5, order="reverse"),
    Copy(letters=8, shortest=3, longest=5, order="sorted"), Recall(pairs=3),
)  # fmt: skip
TOKENS, SEQ, EXAMPLES, CHUNK = CharTokenizer.of(*DOMAINS), 28, 4000, 100


def model(width: int) -> ModelConfig:
    return ModelConfig(vocab_size=TOKENS.vocab_size, d_model=width, n_layers=2, n_heads=2).resolved()


def train_config(learning_rate: float, objective: AnyObjective | None = None) -> TrainConfig:
    """Steps at a constant rate, so that any number of them is one program."""
    return TrainConfig(
        steps=CHUNK, batch_size=32, seq_len=SEQ, learning_rate=learning_rate, schedule="constant", warmup_steps=10,
        weight_decay=0.0, objective=objective or Completions(),
    )  # fmt: skip


def rows(domain: int, split: Split = "train", number: int = EXAMPLES) -> dict[str, np.ndarray]:
    """Solved problems of a domain, as rows of a batch."""
    task = DOMAINS[domain]
    return solved_rows(TOKENS, task, task.generate(domain, number, split), SEQ)


def mixture() -> dict[str, np.ndarray]:
    """As many rows as of one domain, of all domains in equal parts."""
    parts = [rows(domain, number=EXAMPLES // len(DOMAINS)) for domain in range(len(DOMAINS))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def trained(
    config: ModelConfig, train: TrainConfig, examples: dict[str, np.ndarray], steps: int, seed: int,
    start: Any = None, frozen: dict[str, Frozen] | None = None,
) -> Any:  # fmt: skip
    """The parameters after `steps` steps, a multiple of CHUNK; start: of a model that goes on, with a new optimizer."""
    hyper = hyperparameters(train)
    state = jax.jit(partial(init_state, config, train))(np.uint32(seed), hyper)
    if start is not None:
        state = state._replace(params=start)
    key = jax.random.fold_in(jax.random.key(seed), int(start is not None))
    for part in jax.random.split(key, steps // CHUNK):
        state = _chunk(config, train, state, examples, part, hyper, frozen or {})
    return state.params


@partial(jax.jit, static_argnums=(0, 1))
def _chunk(
    config: ModelConfig, train: TrainConfig, state: Any, examples: Any, key: Any, hyper: Any, frozen: Any
) -> Any:
    def step(state: Any, key: jax.Array) -> tuple[Any, None]:
        chosen = jax.random.randint(key, (train.batch_size,), 0, EXAMPLES)
        batch = jax.tree.map(lambda x: x[chosen], examples)
        return train_step(config, train, jnp.inf, state, batch, hyper, frozen)[0], None

    return jax.lax.scan(step, state, jax.random.split(key, CHUNK))[0]


@partial(jax.jit, static_argnums=0)
def _judged(config: ModelConfig, params: Any, tests: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    inputs, targets, weights, _ = shifted(tests["tokens"], tests["weights"], None)
    logits = apply(config, params, inputs)  # of quantised weights, too
    right = (logits.argmax(-1) == targets) | (weights == 0)
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    return -jnp.sum(logp * weights) / weights.sum(), right.all(1).mean()


def judged(config: ModelConfig, params: Any, problems: int) -> dict[str, list[float]]:
    """Of every domain's held-out problems: nats per token of the solutions, and the share that greedy decoding gives
    in full (each has one solution)."""
    found = [_judged(config, params, rows(domain, "test", problems)) for domain in range(len(DOMAINS))]
    return {"loss": [float(loss) for loss, _ in found], "accuracy": [float(right) for _, right in found]}


def flops(config: ModelConfig, train: TrainConfig, steps: int, frozen: dict[str, ModelConfig] | None = None) -> float:
    return float(train.flops(config, train.tokens_per_step * steps, frozen or {}))
