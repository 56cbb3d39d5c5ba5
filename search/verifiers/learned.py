"""Learned verifiers: what a policy's own samples of training problems teach a scorer, by name.

confidence  the policy's last hidden state and how likely it found what it wrote, in one regression; free
value       the hidden state alone, a value head; free
process     a model of its own that starts as the policy and learns the task's reward of every step
outcome     the same, but it learns only how whole answers ended
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logit

from models.config import ModelConfig
from models.errors import require
from models.transformer import Params, init
from search.decoder import ValueHead
from search.engine.precision import running_config, stored_params
from search.named import instead
from search.verifiers.confidence import Confidence, ConfidenceScorer, fit_confidence
from search.verifiers.reward_model import RewardModel
from search.verifiers.reward_training import RewardTraining, outcome, process, train_reward_model
from search.verifiers.scorer import Scorer, ValueScorer
from search.verifiers.value_head import fit_value_head

Kind = Literal["confidence", "value", "process", "outcome"]
MOST_PREFIXES = 64 * 64  # that a regression is fitted to: more change nothing that samples would show


class Judged(NamedTuple):
    """A sample of a training problem: tokens of prompt and completion, 1.0 where the completion is right, and how many
    tokens of it each closed step ends after."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    right: float
    ends: tuple[int, ...]
    step_rewards: Callable[[], list[float]]  # the task's, one for each end; asked for only by `process`


Fitted = Confidence | ValueHead | tuple[Params, ValueHead]  # the last: trunk and head of a reward model


class Verifier(NamedTuple):
    """A scorer, and the value head that the decoder must have for it."""

    scorer: Scorer
    head: ValueHead | None


def check_kind(kind: str, field: str) -> None:
    """ConfigError with near names when there is no such verifier."""
    kinds = get_args(Kind)
    require(kind in kinds, field, f"is {kind!r}", instead(kind, kinds))


def fit(
    kind: Kind, model: ModelConfig, params: Params, samples: Sequence[Judged], seed: int = 0,
    training: RewardTraining | None = None,
) -> Fitted:  # fmt: skip
    """What a verifier of this kind learns from samples; the same arguments give the same arrays.

    training: of a process or an outcome model. A policy that is never right, or always, gets a constant from a
    regression, since there is nothing to tell apart.
    """
    samples = [sample for sample in samples if sample.ends]
    if kind in ("process", "outcome"):
        examples = [
            process(s.prompt, s.completion, s.ends, s.step_rewards())
            if kind == "process"
            else outcome(s.prompt, s.completion[: s.ends[-1]], s.right)
            for s in samples
        ]
        problems = sorted({s.prompt for s in samples})
        count = round(len(problems) * (training.held_out if training else 0))
        apart = {problems[i] for i in np.random.default_rng(seed).permutation(len(problems))[:count]}
        shown = [example for s, example in zip(samples, examples, strict=True) if s.prompt not in apart]
        held_out = [example for s, example in zip(samples, examples, strict=True) if s.prompt in apart]
        return train_reward_model(model, shown, training, params=params, held_out=held_out, seed=seed)
    d_model = model.resolved().d_model
    labels = [s.right for s in samples for _ in s.ends]
    if len(set(labels)) < 2:
        rate = (sum(labels) + 0.5) / (len(labels) + 1)
        if kind == "confidence":
            return Confidence.constant(d_model, rate)
        return ValueHead(jnp.zeros(d_model), jnp.float32(logit(rate)))
    texts = [(*s.prompt, *s.completion[:end]) for s in samples for end in s.ends]
    prompts = [len(s.prompt) for s in samples for _ in s.ends]
    order = np.random.default_rng(seed).permutation(len(texts))[:MOST_PREFIXES]
    texts, prompts, labels = ([each[i] for i in order] for each in (texts, prompts, labels))
    if kind == "value":
        return fit_value_head(model, params, texts, labels)
    return fit_confidence(model, params, texts, prompts, labels)


def fitted_like(kind: Kind, model: ModelConfig) -> Fitted:
    """Arrays with the shapes and types that `fit` gives, without their values."""
    d_model = model.resolved().d_model
    head = ValueHead(jnp.zeros(d_model), jnp.float32(0))
    if kind == "confidence":
        return Confidence.constant(d_model, 0.5)
    if kind == "value":
        return head
    config = running_config(model, "float32")
    return jax.eval_shape(lambda: stored_params(config, init(config, jax.random.key(0)))), head


def verifier_of(model: ModelConfig, fitted: Fitted, longest: int) -> Verifier:
    """The verifier with what `fit` learned. longest: tokens of the longest text that will be scored."""
    if isinstance(fitted, Confidence):
        return Verifier(ConfidenceScorer(fitted), fitted.head)
    if isinstance(fitted, ValueHead):
        return Verifier(ValueScorer(), fitted)
    return Verifier(RewardModel(model, *fitted, model.vocab_size, longest), None)


def fit_verifier(
    kind: Kind, model: ModelConfig, params: Params, samples: Sequence[Judged], longest: int, seed: int = 0,
    training: RewardTraining | None = None,
) -> Verifier:  # fmt: skip
    """`fit` and `verifier_of` in one."""
    return verifier_of(model, fit(kind, model, params, samples, seed, training), longest)
