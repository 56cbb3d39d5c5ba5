"""Objective: what training minimises, what a batch must hold for it, and which frozen models it reads.

A part returns sums over its batch and the weight that they are divided by, once, over all micro-batches of a step: so
neither accumulation nor a mesh changes what is minimised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from models import counts, transformer
from models.config import ModelConfig
from models.cross_entropy import log_probabilities, log_probabilities_and_entropy
from models.errors import require
from models.pipeline import Totals
from models.routing import Routing
from models.weight import WeightTree

if TYPE_CHECKING:
    from scaling.train.config import TrainConfig

Batch = Mapping[str, jax.Array]
BASE = "base"  # the frozen model that train.trains adapts
BESIDE = "beside"  # where the weights lie, in the params, that an objective trains beside the model
TOKENS, WEIGHTS = "[batch, seq + 1] int32", "[batch, seq] float32"


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclass(frozen=True)
class Frozen:
    """A model that an objective reads and nothing trains: a resolved config and its params."""

    config: ModelConfig
    params: Any


class Mean(NamedTuple):
    """A metric as its sum over a batch and how many were summed, float32 scalars."""

    total: jax.Array
    number: jax.Array


class Summed(NamedTuple):
    """The sums of one batch: the loss and the weight that it is divided by, and the metrics by name."""

    totals: Totals
    measured: dict[str, Mean]


@dataclass(frozen=True)
class Objective:
    """What every objective has; a part is a frozen dataclass that says what differs, in a file of its own."""

    judged: ClassVar[bool] = True  # whether a rise of the loss beyond train.spike_factor is a failure
    staged: ClassVar[bool] = False  # whether it passes through a pipeline of stages

    @property
    def needs(self) -> dict[str, str]:
        """Field of a batch -> its dims and dtype."""
        return {"tokens": TOKENS}

    @property
    def reads(self) -> dict[str, str | None]:
        """Frozen model -> a trial's directory or a Hugging Face folder; None: the model that the run starts from."""
        return {}

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it measures beside the loss, by the names in metric rows."""
        return ()

    @property
    def sequences(self) -> int:
        """How many sequences one row of a batch holds."""
        return 1

    def beside(self, model: ModelConfig) -> WeightTree:
        """The declarations of what it trains beside `model`, which is resolved, and leaves behind at the end; the loss
        finds their values in params[BESIDE]."""
        return {}

    def check(self, model: ModelConfig, frozen: Mapping[str, ModelConfig]) -> None:
        """ConfigError when it cannot train `model`, or cannot read a frozen model of such a config."""
        for name, config in frozen.items():
            problem = f"has {config.vocab_size} tokens and the trained model {model.vocab_size}"
            fix = "give a model of the same tokenizer and vocabulary"
            require(config.vocab_size == model.vocab_size, f"train.objective.{name}", problem, fix)

    def loss(
        self, model: ModelConfig, train: TrainConfig, params: Any, batch: Batch, frozen: Mapping[str, Frozen]
    ) -> tuple[jax.Array, Summed]:
        """(what is minimised, summed over `batch`; its parts). Differentiable in params."""
        raise NotImplementedError

    def flops(self, model: ModelConfig, tokens: int, seq_len: int, frozen: Mapping[str, ModelConfig]) -> int:
        """FLOPs of training on `tokens` tokens in sequences of `seq_len`: 3 passes, and one of each frozen model."""
        passes = sum(tokens * counts.forward_flops(config, seq_len) // seq_len for config in frozen.values())
        return counts.train_flops(model, tokens, seq_len) + passes


def check_batch(objective: Objective, batch: Mapping[str, Any]) -> None:
    """ConfigError when `batch` lacks a field that `objective` needs, or has one with other dims."""
    holds = ", ".join(f"{name} {list(x.shape)}" for name, x in batch.items())
    for name, form in objective.needs.items():
        dims = form[1 : form.index("]")].split(", ")
        problem = f"({type(objective).__name__}) needs {name} {form} in a batch, which holds {holds}"
        fits = name in batch and len(batch[name].shape) == len(dims)
        fits = fits and all(not d.isdigit() or int(d) == n for d, n in zip(dims, batch[name].shape, strict=True))
        require(fits, "train.objective", problem, "give data that has it, or another objective")


def abstract_batch(objective: Objective, rows: int, seq_len: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of the fields that a batch of `rows` rows must hold."""
    sizes = {"batch": rows, "seq": seq_len, "seq + 1": seq_len + 1}
    found = {}
    for name, form in objective.needs.items():
        dims, dtype = form[1:].split("] ")
        shape = tuple(sizes[d] if d in sizes else int(d) for d in dims.split(", "))
        found[name] = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    return found


class Read(NamedTuple):
    """What a model makes of sequences: hidden `[sequences, seq, d_model]`, the head, and the routing of experts."""

    config: ModelConfig
    hidden: jax.Array
    head: Any
    routing: Routing | None


def sequences_of(batch: Batch) -> dict[str, jax.Array]:
    """tokens, weights and segments of a batch whose rows hold any number of sequences, as `[sequences, ...]`."""
    return {
        name: batch[name].reshape(-1, batch[name].shape[-1])
        for name in ("tokens", "weights", "segments")
        if name in batch
    }


def read(config: ModelConfig, params: Any, inputs: jax.Array, segments: jax.Array | None = None) -> Read:
    """The model's pass over inputs `[sequences, seq]`."""
    output = transformer.forward(config, params, inputs, None, segments)
    return Read(config, output.hidden, output.head, output.routing)


def read_frozen(frozen: Frozen, inputs: jax.Array, segments: jax.Array | None = None) -> Read:
    """The same of a frozen model, through which no gradient passes."""
    found = read(frozen.config, jax.lax.stop_gradient(frozen.params), inputs, segments)
    return found._replace(hidden=jax.lax.stop_gradient(found.hidden), head=jax.lax.stop_gradient(found.head))


def target_logprobs(found: Read, targets: jax.Array, temperature: float = 1.0) -> jax.Array:
    """log p of targets `[sequences, seq]` in nats, float32."""
    cap = found.config.logit_softcap
    return log_probabilities(found.hidden, found.head, targets, softcap=cap, temperature=temperature)


def target_logprobs_and_entropy(
    found: Read, targets: jax.Array, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """The same, and the entropy of each distribution in nats."""
    cap = found.config.logit_softcap
    return log_probabilities_and_entropy(found.hidden, found.head, targets, softcap=cap, temperature=temperature)


def summed(
    found: Read, minimised: jax.Array, weight: jax.Array, measured: dict[str, Mean] | None = None
) -> tuple[jax.Array, Summed]:
    """What `Objective.loss` returns, of a summed loss and the weight `[sequences]` of each of its sequences.

    The routers' penalty of a sequence counts with that weight, so that it is a mean beside the loss.
    """
    total = weight.sum()
    if found.routing is None:
        totals = Totals(minimised, total)
    else:
        routing = found.routing
        penalty = jnp.sum(routing.penalty * weight)
        totals = Totals(minimised, total, penalty, routing.balance.sum(), routing.dropped.sum())
    return totals.objective, Summed(totals, measured or {})


def masked_mean(x: jax.Array, mask: jax.Array) -> Mean:
    """x where mask is not 0, as a metric; no gradient passes."""
    x, mask = jax.lax.stop_gradient(x), jnp.broadcast_to(mask, x.shape).astype(jnp.float32)
    return Mean(jnp.sum(jnp.where(mask > 0, x * mask, 0)), mask.sum())
