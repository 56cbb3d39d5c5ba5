"""Distillation by messages: a teacher and a student read each other's hidden states through a space between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from models import counts, transformer
from models.config import ModelConfig
from models.contraction import contract
from models.errors import require
from models.transformer import shifted
from models.weight import Weight, WeightTree
from models.wiring.prenorm import PreNorm
from scaling.train.objectives.distillation import Distillation
from scaling.train.objectives.objective import BESIDE, Batch, Frozen, Mean, Read, Summed, summed
from scaling.typed import at_most

if TYPE_CHECKING:
    from scaling.train.config import TrainConfig

LOSSES = ("interaction", "transfer", "consistency")


@dataclass(frozen=True)
class Talking(Distillation):
    """Two-way messages between hidden states (Talking Models, Zhao et al. 2023, arXiv:2310.03188).

    Each of the two models has an encoder E of its states to messages and a decoder D of messages to its states, linear
    here, of states h at unit root mean square. Low states are those after `student_layer` and `teacher_layer`, high
    ones what the heads read. With U the teacher's layers above its low states, beside the text's cross-entropy (and a
    `share` of the divergence, as in Distillation),

        interaction   |D_s E_t U(D_t E_s s_low) - s_high|^2    what the teacher makes of the student's own state
        transfer      |D_s E_t t_high - s_high|^2              what it makes of the text
        consistency   |D E h - h|^2                            over both models' low and high states

    each a mean over features and scored targets, times its weight. Gradients pass through U and change nothing in it.
    """

    share: float = 0.0  # of the divergence in the loss; the rest is cross-entropy with the text
    teacher_width: int = 64  # d_model of the teacher
    message: int = 32  # features of a message
    student_layer: int = 1  # layers below the student's low states
    teacher_layer: int = 1  # layers below the teacher's low states
    interaction: float = 1.0  # weight of the loss of that name
    transfer: float = 1.0  # weight of the loss of that name
    consistency: float = 1.0  # weight of the loss of that name

    def __post_init__(self) -> None:
        super().__post_init__()
        at_most(self, "train.objective", teacher_width=2**20, message=2**20)
        for field in ("teacher_width", "message", "student_layer", "teacher_layer"):
            value = getattr(self, field)
            require(value >= 1, f"train.objective.{field}", f"is {value}", "give 1 or more")
        for field in LOSSES:
            value = getattr(self, field)
            require(value >= 0, f"train.objective.{field}", f"is {value}", "give a weight that is not negative")

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*super().metrics, *LOSSES)

    def check(self, model: ModelConfig, frozen: Mapping[str, ModelConfig]) -> None:
        super().check(model, frozen)
        both = [("student", model, self.student_layer)]
        for name, config, layer in both + [(name, config, self.teacher_layer) for name, config in frozen.items()]:
            c = config.resolved()
            field = f"train.objective.{name}_layer"
            require(layer < c.n_layers, field, f"is {layer} of {c.n_layers} layers", "leave a layer above it")
            plain = isinstance(c.wired, PreNorm) and not c.routed and not c.scan_layers
            problem = f"({name}) has no states of its own between layers that a message could be"
            require(plain, "model", problem, "use PreNorm, dense channels and scan_layers=False")
        for config in frozen.values():
            problem = f"is {self.teacher_width}, and the teacher's d_model is {config.d_model}"
            fix = f"set it to {config.d_model}"
            require(config.d_model == self.teacher_width, "train.objective.teacher_width", problem, fix)

    def beside(self, model: ModelConfig) -> WeightTree:
        widths = {"student": model.d_model, "teacher": self.teacher_width}
        into = {f"{name}_encoder": Weight((d, self.message), ("embed", "rank"), "matrix") for name, d in widths.items()}
        out = {f"{name}_decoder": Weight((self.message, d), ("rank", "embed"), "matrix") for name, d in widths.items()}
        return into | out

    def loss(
        self, model: ModelConfig, train: TrainConfig, params: Any, batch: Batch, frozen: Mapping[str, Frozen]
    ) -> tuple[jax.Array, Summed]:
        inputs, targets, score, segments = shifted(batch["tokens"], batch.get("weights"), batch.get("segments"))
        place = Place(inputs, segments)
        student, low = _through(model.resolved(), params, self.student_layer, place)
        config, weights = frozen["teacher"].config, jax.lax.stop_gradient(frozen["teacher"].params)
        teacher, below = _through(config, weights, self.teacher_layer, place)

        def upper(x: jax.Array) -> jax.Array:
            return _above(config, weights, self.teacher_layer, x, place).hidden

        states = States(low, student.hidden, below, teacher.hidden)
        each = talk(states, upper, transformer.ready(self.beside(model.resolved()), params[BESIDE], model.dtype))
        total, measured = self.mixed(student, teacher, targets, score)
        for name, values in each.items():
            one = jnp.sum(values * score)
            total += getattr(self, name) * one
            measured[name] = Mean(jax.lax.stop_gradient(one), score.sum())
        return summed(student, total, score.sum(1), measured)

    def flops(self, model: ModelConfig, tokens: int, seq_len: int, frozen: Mapping[str, ModelConfig]) -> int:
        """Beside Distillation's: seven products with the maps of each model, three times, and the teacher's upper
        layers again, forwards and backwards without gradients of their weights."""
        config = next(iter(frozen.values())).resolved()
        above = config.layers[self.teacher_layer :]
        weighed = seq_len * sum(counts.tree_flops(transformer.block_weights(config, layer)) for layer in above)
        rest = sum(counts.layer_flops(config, layer, seq_len) for layer in above)
        maps = 7 * seq_len * 2 * self.message * (model.d_model + self.teacher_width)
        talked = 2 * weighed + 3 * rest + 3 * maps
        return super().flops(model, tokens, seq_len, frozen) + tokens * talked // seq_len


class Place(NamedTuple):
    """Inputs and segments `[batch, seq]` of a pass."""

    inputs: jax.Array
    segments: jax.Array | None


class States(NamedTuple):
    """Hidden states `[batch, seq, width]`: low and high ones of the student, and of the teacher."""

    student_low: jax.Array
    student_high: jax.Array
    teacher_low: jax.Array
    teacher_high: jax.Array


def talk(states: States, upper: Callable[[jax.Array], jax.Array], w: Any) -> dict[str, jax.Array]:
    """The losses of `Talking` by name, each `[batch, seq]` float32, a mean over features.

    upper: the teacher's high states of low ones. w: the maps, `[width, message]` and `[message, width]`.
    """

    def code(x: jax.Array, *maps: str) -> jax.Array:
        for name in maps:
            x = contract(x, w[name])
        return x

    low, high, below, above = (unit(x) for x in states)
    asked = code(low, "student_encoder", "teacher_decoder") * size(states.teacher_low)
    answer = code(unit(upper(asked)), "teacher_encoder", "student_decoder")
    told = code(above, "teacher_encoder", "student_decoder")
    kept = jnp.float32(0)
    for name, pair in (("student", (low, high)), ("teacher", (below, above))):
        for x in pair:
            kept += apart(code(x, f"{name}_encoder", f"{name}_decoder"), x) / 4
    return {"interaction": apart(answer, high), "transfer": apart(told, high), "consistency": kept}


def size(x: jax.Array) -> jax.Array:
    """Root mean square over features `[batch, seq, 1]`, float32."""
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)), -1, keepdims=True) + 1e-6)


def unit(x: jax.Array) -> jax.Array:
    """x at unit root mean square."""
    return (x / size(x)).astype(x.dtype)


def apart(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared difference over features, float32."""
    return jnp.mean(jnp.square((x - y).astype(jnp.float32)), -1)


def _through(c: ModelConfig, params: Any, at: int, place: Place) -> tuple[Read, jax.Array]:
    """(a model's pass, its states after `at` layers); `c` is resolved."""
    positions = jnp.arange(place.inputs.shape[1])[None]
    low = _layers(c, params, 0, at, transformer.embed(c, params, place.inputs, positions), place)
    return _above(c, params, at, low, place), low


def _above(c: ModelConfig, params: Any, at: int, x: jax.Array, place: Place) -> Read:
    """What the layers above `at` and the final norm make of states."""
    hidden, head = transformer.unembed(c, params, _layers(c, params, at, c.n_layers, x, place))
    return Read(c, hidden, head, None)


def _layers(c: ModelConfig, params: Any, first: int, stop: int, x: jax.Array, place: Place) -> jax.Array:
    positions = jnp.arange(place.inputs.shape[1])[None]
    for i in range(first, stop):
        x, _ = transformer.run_layer(c, c.layers[i], params[f"block_{i}"], x, positions, place.segments, place.inputs)
    return x
