"""Step-level speculation (SpecReason, Pan et al. 2025): a small model writes a step, a large one judges it.

A step that the large model rates below a threshold is taken back and written by the large model itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.errors import ConfigError, require
from search.decoder import Decoder, Outputs, Price
from search.population import Population
from search.strategies.setting import Setting, Stepwise, Voting
from search.strategies.strategy import Choice, Strategy, View
from search.strategies.survey import Tags
from search.verifiers.scorer import Judge, Scorer, Unscored

SMALL, LARGE = 0, 1


class PairedContext(NamedTuple):
    """The prompts in both models."""

    small: Any
    large: Any

    @property
    def length(self) -> jax.Array:
        """Tokens of every prompt `[problems]` int32."""
        length: jax.Array = self.large.length
        return length


class PairedDecoder:
    """Two decoders side by side that both read every token; `Choice.writer` says whose distribution it is drawn from.

    Outputs: logits `[..., 2, vocab]`, value the large model's. A token costs what both cost: the large model reads
    drafts to judge them, the small one what the large one wrote to go on from it. In practice the large model reads a
    whole step at once, so that the ledger's depth and bytes are upper bounds for it; FLOPs are exact.
    """

    def __init__(self, small: Decoder, large: Decoder):
        problem = f"{small.vocab_size} tokens in the small model, {large.vocab_size} in the large one"
        require(small.vocab_size == large.vocab_size, "vocab_size", problem, "use models of one tokenizer")
        self.small, self.large, self.vocab_size = small, large, large.vocab_size
        self.params: Any = (small.params, large.params)

    def contexts(self, problems: int) -> PairedContext:
        """No prompts."""
        return PairedContext(self.small.contexts(problems), self.large.contexts(problems))

    def encode(self, prompt: Any) -> Any:
        """The prompt for both models; ConfigError when either refuses it."""
        large = self.large.encode(prompt)
        return self.small.encode(prompt), large, large[-1]

    def admit(self, params: Any, contexts: PairedContext, slot: jax.Array, prompt: Any) -> PairedContext:
        """Read a prompt with both."""
        return PairedContext(
            self.small.admit(params[0], contexts.small, slot, prompt[0]),
            self.large.admit(params[1], contexts.large, slot, prompt[1]),
        )

    def start(self, contexts: PairedContext) -> Outputs:
        """What follows every prompt."""
        return _both(self.small.start(contexts.small), self.large.start(contexts.large))

    def caches(self, problems: int, particles: int, length: int) -> Any:
        """(the small model's, the large model's)."""
        return self.small.caches(problems, particles, length), self.large.caches(problems, particles, length)

    def position_axes(self, caches: Any) -> Any:
        """Those of both."""
        return self.small.position_axes(caches[0]), self.large.position_axes(caches[1])

    def step(
        self, params: Any, contexts: PairedContext, caches: Any, tokens: jax.Array, length: jax.Array
    ) -> tuple[Outputs, Any]:
        """Append one token in both."""
        small, cache = self.small.step(params[0], contexts.small, caches[0], tokens, length)
        large, other = self.large.step(params[1], contexts.large, caches[1], tokens, length)
        return _both(small, large), (cache, other)

    def price(self, unit: str) -> Price:
        """The sum of both."""
        a, b = self.small.price(unit), self.large.price(unit)
        windows = {price.window for price in (a, b) if price.per_window}
        problem = "in flops does not fit two models with different windows"
        require(len(windows) <= 1, "budget.unit", problem, "use tokens")
        fixed, per_context, per_clone = a.fixed + b.fixed, a.per_context + b.per_context, a.per_clone + b.per_clone
        return Price(fixed, per_context, a.per_window + b.per_window, max(windows, default=0), per_clone)


def _both(small: Outputs, large: Outputs) -> Outputs:
    return Outputs(jnp.stack([small.logits, large.logits], axis=-2), large.value, small.ended | large.ended)


class JudgeScorer(Unscored):
    """The large model's rating of a step from the one token that follows: the expectation over its rating tokens.

    ratings: rating in (0, 1) of each token that is one, such as the digits. With a value head use `ValueScorer`.
    """

    def __init__(self, ratings: Mapping[int, float]):
        require(len(ratings) > 0, "ratings", "are empty", "give tokens and their ratings")
        bad = [r for r in ratings.values() if not 0 <= r <= 1]
        require(not bad, "ratings", f"of {bad[:3]}", "give ratings in [0, 1]")
        self._tokens = jnp.asarray(list(ratings), jnp.int32)
        self._ratings = jnp.asarray(list(ratings.values()), jnp.float32)

    def score(self, params: Any, contexts: Any, rows: Population) -> jax.Array:
        """Sum of p(token) rating / sum of p(token) over the rating tokens, `[problems, particles]` float32."""
        logits = rows.outputs.logits[..., LARGE, :][..., self._tokens]
        return jnp.clip((jax.nn.softmax(logits, axis=-1) * self._ratings).sum(-1), 1e-6, 1 - 1e-6)


class Drafts(NamedTuple):
    """accepted `[samples]` int32: tokens that stand; drafted `[samples]` bool: the small model wrote the last step;
    kept, judged `[]` int32: drafts that stood, and all."""

    accepted: jax.Array
    drafted: jax.Array
    kept: jax.Array
    judged: jax.Array


def step_speculation(samples: int, threshold: float = 0.7, stop_on_repeat: bool = True) -> Strategy:
    """`samples` generations whose steps are the small model's where the large one rates them `threshold` or more.

    The decoder is a `PairedDecoder`; the scorer rates what stands after a step. A generation ends as any other does,
    or (stop_on_repeat) after two equal steps in a row. The answer is the complete one of the highest score. Reported:
    the share of drafts that stood.
    """
    require(0 <= threshold <= 1, "threshold", f"is {threshold}", "give 0 to 1")
    rows = jnp.arange(samples)

    def select(key: jax.Array, state: Drafts, view: View) -> tuple[Choice, Drafts]:
        grown = view.length > state.accepted
        judged = grown & state.drafted
        rejected = judged & (view.score < threshold)
        accepted = jnp.where(rejected, state.accepted, view.length)
        again = jax.vmap(repeats)(view.tokens, view.ends, view.steps)
        stuck = ~rejected & again if stop_on_repeat else jnp.zeros(samples, bool)
        live = rejected | (~view.ended & ~stuck)
        choice = strategy.choice(
            rows, live, cut=jnp.where(rejected, state.accepted, -1), writer=rejected * LARGE, done=~live.any()
        )
        kept = state.kept + (judged & ~rejected).sum()
        return choice, Drafts(accepted, ~rejected, kept, state.judged + judged.sum())

    def report(state: Drafts, view: View) -> dict[str, jax.Array]:
        return {"accepted": state.kept / jnp.maximum(state.judged, 1), "drafts": state.judged}

    def init() -> Drafts:
        return Drafts(jnp.zeros(samples, jnp.int32), jnp.ones(samples, bool), jnp.int32(0), jnp.int32(0))

    strategy = Strategy("step_speculation", samples, samples, init, select, cuts=True, writers=2, report=report)
    return strategy


def repeats(tokens: jax.Array, ends: jax.Array, steps: jax.Array) -> jax.Array:
    """Whether the last two steps of a particle are equal, `[]` bool; tokens `[max_tokens]`, ends `[max_steps]`."""
    begins = jnp.concatenate([jnp.zeros(1, jnp.int32), ends])
    begin, middle, end = (begins[jnp.maximum(steps - back, 0)] for back in (2, 1, 0))
    place = jnp.arange(tokens.shape[-1])
    earlier = jnp.take(tokens, place - (middle - begin), mode="clip")
    same = jnp.where((place >= middle) & (place < end), tokens == earlier, True).all()
    return (steps >= 2) & (end - middle == middle - begin) & same


class OfLarge(Unscored):
    """A scorer of the device that sees a `PairedDecoder`'s particles as the large model's own."""

    def __init__(self, scorer: Scorer):
        self.scorer, self.params, self.flops_per_token = scorer, scorer.params, scorer.flops_per_token

    def score(self, params: Any, contexts: Any, rows: Population) -> jax.Array:
        """The scorer's, of the large model's contexts and outputs."""
        return self.scorer.score(params, contexts.large, self._rows(rows))

    def tokens(self, contexts: Any, rows: Population) -> jax.Array:
        """What the scorer reads."""
        return self.scorer.tokens(contexts.large, self._rows(rows))

    @staticmethod
    def _rows(rows: Population) -> Population:
        return rows._replace(outputs=rows.outputs._replace(logits=rows.outputs.logits[..., LARGE, :]))


@dataclass(frozen=True)
class StepSpeculation(Stepwise, Voting):
    """A small model writes a step, the policy rates it, and writes it itself where it is not good enough."""

    samples: int
    small: str  # the small model: a trial's directory or a Hugging Face folder, of the policy's tokenizer
    threshold: float = 0.7  # a rating from which on a step stands
    ratings: dict[str, float] = field(default_factory=dict)  # of each token that is one; none: the verifier rates
    stop_on_repeat: bool = True  # whether two equal steps in a row end a generation

    name = "step_speculation"
    tags = Tags("sequential", ("verification",), "steps", ("accuracy", "efficiency"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `step_speculation`."""
        return step_speculation(self.samples, self.threshold, self.stop_on_repeat)

    def decoder(self, setting: Setting) -> Decoder:
        """Both models; the small one is read from its folder."""
        from search.policy import load_policy

        small, policy = load_policy(self.small), setting.policy
        same, problem = tuple(small.spelling) == tuple(policy.spelling), f"{self.small} has another tokenizer than"
        require(same, f"{self.name}.small", f"{problem} {policy.source}", "use models of one tokenizer")
        return PairedDecoder(setting.decoder(small), setting.decoder())

    def scorer(self, setting: Setting) -> Any:
        """The large model's ratings, or a verifier that is shown the large model's particles."""
        if self.ratings:
            where = f"{self.name}.ratings"
            return JudgeScorer({setting.token(text, where): rating for text, rating in self.ratings.items()})
        if isinstance(setting.scorer, Judge):
            raise ConfigError("verifier", "that writes judgements does not rate drafts", "give ratings, or another one")
        return OfLarge(setting.scorer) if hasattr(setting.scorer, "flops_per_token") else setting.scorer
