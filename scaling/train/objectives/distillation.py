"""Distillation: the whole distribution of a teacher instead of one token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from models import transformer
from models.config import ModelConfig
from models.cross_entropy import cross_entropy, over_chunks
from models.errors import require
from models.transformer import shifted
from scaling.train.objectives.objective import Batch, Frozen, Mean, Objective, Read, Summed, read, read_frozen, summed
from scaling.typed import typed

if TYPE_CHECKING:
    from scaling.train.config import TrainConfig


@dataclass(frozen=True)
class Distillation(Objective):
    """A divergence between the next-token distributions of a teacher, T, and of the trained student, S; nats/token.

    forward: KL(T || S) (Hinton et al. 2015). reverse: KL(S || T). top: KL(T' || S), T' the teacher's `top` likeliest
    tokens, renormalised. Both at `temperature` t, times t^2, so that gradients keep their size. A mean over scored
    targets, as of the next token; a batch may hold weights and segments.
    """

    teacher: str = ""  # a trial's directory, or a Hugging Face folder
    divergence: Literal["forward", "reverse", "top"] = "forward"  # between teacher and student
    top: int = 50  # tokens of the teacher that "top" keeps
    temperature: float = 1.0  # divides the logits of both
    share: float = 1.0  # of the divergence in the loss; the rest is cross-entropy with the text

    def __post_init__(self) -> None:
        typed(self, "train.objective")
        fix = "name a trial's directory or a Hugging Face folder"
        require(self.teacher != "", "train.objective.teacher", "is not set", fix)
        for field in ("top", "temperature"):
            value = getattr(self, field)
            require(value > 0, f"train.objective.{field}", f"is {value}", "give a positive number")
        problem = f"is {self.share}"
        require(0 <= self.share <= 1, "train.objective.share", problem, "give a share from 0 to 1")

    @property
    def reads(self) -> dict[str, str | None]:
        return {"teacher": self.teacher}

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("divergence", "text_loss")

    def check(self, model: ModelConfig, frozen: Mapping[str, ModelConfig]) -> None:
        super().check(model, frozen)
        problem = f"is {self.top}, but there are {model.vocab_size} tokens"
        fits = self.divergence != "top" or self.top <= model.vocab_size
        require(fits, "train.objective.top", problem, f"give at most {model.vocab_size}")

    def loss(
        self, model: ModelConfig, train: TrainConfig, params: Any, batch: Batch, frozen: Mapping[str, Frozen]
    ) -> tuple[jax.Array, Summed]:
        inputs, targets, score, segments = shifted(batch["tokens"], batch.get("weights"), batch.get("segments"))
        student, teacher = read(model, params, inputs, segments), read_frozen(frozen["teacher"], inputs, segments)
        minimised, measured = self.mixed(student, teacher, targets, score)
        return summed(student, minimised, score.sum(1), measured)

    def mixed(
        self, student: Read, teacher: Read, targets: jax.Array, score: jax.Array
    ) -> tuple[jax.Array, dict[str, Mean]]:
        """(the sum of the divergence and of the text's cross-entropy as `share` says, both as metrics)."""
        diverged = self.temperature**2 * self._diverged(student, teacher, score)
        cap = student.config.logit_softcap
        text, weight = cross_entropy(student.hidden, student.head, targets, score, softcap=cap)
        fixed = jax.lax.stop_gradient((diverged, text))
        measured = {"divergence": Mean(fixed[0], weight), "text_loss": Mean(fixed[1], weight)}
        return self.share * diverged + ((1 - self.share) * text if self.share < 1 else 0), measured

    def _diverged(self, student: Read, teacher: Read, score: jax.Array) -> jax.Array:
        """The weighted sum of the divergences at all positions; the logits of few exist at once."""

        @jax.checkpoint
        def add(total: jax.Array, chunk: Positions) -> tuple[jax.Array, None]:
            logits = (
                transformer.logits(of.config, hidden, of.head) / self.temperature
                for of, hidden in ((teacher, chunk.teacher), (student, chunk.student))
            )
            return total + jnp.sum(chunk.weights * divergence(self.divergence, *logits, top=self.top)), None

        whole = Positions(student.hidden, teacher.hidden, score)
        return over_chunks(add, jnp.float32(0), whole, 2 * student.head.shape[1])[0]


class Positions(NamedTuple):
    """A stretch of positions: hidden states of both models `[batch, n, width]`, weights `[batch, n]`."""

    student: jax.Array
    teacher: jax.Array
    weights: jax.Array


def divergence(kind: str, teacher: jax.Array, student: jax.Array, *, top: int) -> jax.Array:
    """The divergence of logits `[..., vocab]` float32, in nats `[...]`; see `Distillation`."""
    s = jax.nn.log_softmax(student)
    if kind == "top":
        kept, places = jax.lax.top_k(teacher, top)
        t, s = jax.nn.log_softmax(kept), jnp.take_along_axis(s, places, -1)
        return jnp.sum(jnp.exp(t) * (t - s), -1)
    t = jax.nn.log_softmax(teacher)
    return jnp.sum(jnp.exp(s) * (s - t) if kind == "reverse" else jnp.exp(t) * (t - s), -1)
