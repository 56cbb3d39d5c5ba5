"""Policy gradients: PPO, GRPO, RLOO, Dr. GRPO, GSPO and their kin as one form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from models.config import ModelConfig
from models.errors import require
from models.serialize import added
from models.transformer import shifted
from scaling.train.objectives.advantage import AdvantageName, advantages
from scaling.train.objectives.objective import (
    Batch,
    Frozen,
    Mean,
    Objective,
    Summed,
    masked_mean,
    read,
    read_frozen,
    sequences_of,
    summed,
    target_logprobs,
    target_logprobs_and_entropy,
)
from scaling.typed import STEPS, at_most, typed

if TYPE_CHECKING:
    from scaling.train.config import TrainConfig

LARGEST_LOG = 20.0  # of a ratio, so that a token that has become impossible gives a large number and no infinity


@dataclass(frozen=True)
class PolicyGradient(Objective):
    """A clipped importance-weighted policy gradient on groups of completions of one prompt.

    With A the advantage of a token, rho its ratio p / p_old, d = log p - log p_reference, per token:

        -min(rho A, clip(rho) A) x correction + kl x estimate(d) - entropy x H

    averaged as `normalize` says, with H the entropy of the distribution that the token is of. A row of a batch is one
    prompt with its `group` completions, so that no filter or micro-batch parts a group. weights are 1 on
    sampled tokens (the end included), 0 on prompts, padding and what an environment wrote. A completion whose reward is
    not finite is left out of its group, the loss and every mean.

        GRPO (Shao et al. 2024)       the defaults
        Dr. GRPO (Liu et al. 2025)    advantage="centered", normalize="constant"
        DAPO (Yu et al. 2025)         normalize="token", clip_high=0.28, mask_truncated
        RLOO (Ahmadian et al. 2024)   advantage="leave_one_out", clip="none", normalize="sum"
        PPO (Schulman et al. 2017)    advantage="given" (`advantage.generalized`), normalize="token"
        GSPO (Zheng et al. 2025)      ratio="sequence", clip_low=3e-4, clip_high=4e-4
        CISPO (MiniMax 2025)          clip="weight", clip_low=1, normalize="token"
    """

    group: int = 8  # completions of one prompt in a row of a batch
    advantage: AdvantageName = "grpo"  # of a completion within its group: see scaling.train.objectives.advantage
    baseline: float = 0.0  # what "reinforce" subtracts from a reward
    deviation_floor: float = 1e-4  # added to the standard deviation that "grpo" divides by
    old: Literal["sampled", "batch", "current"] = "sampled"  # p_old: recorded while sampling, recomputed by a trainer
    # before the first update on these samples (old_logprobs of the batch), or p itself (one update per sample)
    ratio: Literal["token", "sequence"] = "token"  # sequence: the geometric mean of a completion's ratios
    clip: Literal["ratio", "weight", "none"] = "ratio"  # weight: the gradient of log p, times a clipped ratio
    clip_low: float = 0.2  # ratios below 1 - this are clipped
    clip_high: float = 0.2  # and above 1 + this
    dual_clip: float | None = None  # where A < 0 a token loses at most this many times -A
    kl: float = 0.0  # weight of the divergence from the reference
    kl_estimate: Literal["k1", "k2", "k3", "k3_ratio"] = "k1"  # k1: d in the reward, with what follows a token; in the
    # loss k2: d^2 / 2; k3: e^-d - 1 + d, whose gradient is that of KL(reference || p); k3_ratio: rho x k3
    reference: str | None = None  # a trial's directory or Hugging Face folder; None: what the run starts from
    normalize: Literal["sequence", "token", "constant", "sum"] = "sequence"  # a mean over completions of their means
    # over tokens; over all tokens; over completions of their sums / budget; of their sums
    budget: int | None = None  # tokens that "constant" divides by; None: those of a row
    mask_truncated: bool = False  # leave completions that were cut off out of groups and loss; else they have a reward
    correction: Literal["none", "truncate", "drop"] = "none"  # of p_old / p_sampled: a token's, at most the limit; or
    # completions whose product is above it are left out
    correction_limit: float = 2.0  # of either
    temperature: float = 1.0  # that was sampled at: p is at the same
    entropy: float = added(0.0)  # weight of a bonus for the entropy of every token's distribution, at that temperature
    progress: float = added(0.0)  # weight of what a token's segment adds to the chance of a right answer (`progress` of
    # the batch), beside the advantage

    judged: ClassVar[bool] = False  # a policy that learns may well have a rising surrogate

    def __post_init__(self) -> None:
        typed(self, "train.objective")
        at = "train.objective"
        at_most(self, at, budget=STEPS)
        require(1 <= self.group <= 2**16, f"{at}.group", f"is {self.group}", "give a number from 1 to 65,536")
        alone = self.group == 1 and self.advantage not in ("reinforce", "expert", "given")
        fix = "use a larger group, or advantage 'reinforce', 'expert' or 'given'"
        require(not alone, f"{at}.group", f"is 1, in which '{self.advantage}' is always 0", fix)
        for field in ("clip_low", "clip_high", "kl", "deviation_floor", "entropy", "progress"):
            value = getattr(self, field)
            require(value >= 0, f"{at}.{field}", f"is {value}", "give a number that is not negative")
        for field in ("temperature", "correction_limit"):
            require(getattr(self, field) > 0, f"{at}.{field}", f"is {getattr(self, field)}", "give a positive number")
        require(self.clip_low <= 1, f"{at}.clip_low", f"is {self.clip_low}", "give at most 1, which clips nothing")
        problem = f"is {self.dual_clip}"
        require(self.dual_clip is None or self.dual_clip > 1, f"{at}.dual_clip", problem, "give a number above 1")
        require(self.budget is None or self.budget >= 1, f"{at}.budget", f"is {self.budget}", "give a number of tokens")
        same = self.correction != "none" and self.old == "sampled"
        problem = f"is '{self.correction}', but p_old is what was sampled from"
        require(not same, f"{at}.correction", problem, "use 'none', or old='batch' or 'current'")

    @property
    def needs(self) -> dict[str, str]:
        token, whole = f"[batch, {self.group}, seq] float32", f"[batch, {self.group}] float32"
        needs = {"tokens": f"[batch, {self.group}, seq + 1] int32", "weights": token, "rewards": whole}
        if self.old == "sampled" or self.correction != "none":
            needs["sampled_logprobs"] = token
        if self.old == "batch":
            needs["old_logprobs"] = token
        if self.advantage == "given":
            needs["advantages"] = token
        if self.progress:
            needs["progress"] = token
        return needs | ({"truncated": whole} if self.mask_truncated else {})

    @property
    def reads(self) -> dict[str, str | None]:
        return {"reference": self.reference} if self.kl else {}

    @property
    def metrics(self) -> tuple[str, ...]:
        found: tuple[str, ...] = ("reward", "scorable", "used", "clipped", "ratio", "surprise")
        found += ("sampler_gap",) if "sampled_logprobs" in self.needs else ()
        return (*found, *(("kl",) if self.kl else ()), *(("entropy",) if self.entropy else ()))

    @property
    def sequences(self) -> int:
        return self.group

    def loss(
        self, model: ModelConfig, train: TrainConfig, params: Any, batch: Batch, frozen: Mapping[str, Frozen]
    ) -> tuple[jax.Array, Summed]:
        flat = sequences_of(batch)
        inputs, targets, mask, segments = shifted(flat["tokens"], flat["weights"], flat.get("segments"))
        found = read(model, params, inputs, segments)
        logp, entropy = target_logprobs_and_entropy(found, targets, self.temperature) if self.entropy else (
            target_logprobs(found, targets, self.temperature), None
        )  # fmt: skip
        reference = None
        if self.kl:
            other = read_frozen(frozen["reference"], inputs, segments)
            reference = target_logprobs(other, targets, self.temperature)
        minimised, weight, measured = self.of_logprobs(logp, mask, batch, reference, entropy)
        return summed(found, minimised, weight, measured)

    def of_logprobs(
        self, logp: jax.Array, mask: jax.Array, batch: Batch, reference: jax.Array | None = None,
        entropy: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, dict[str, Mean]]:  # fmt: skip
        """(summed loss, weight of each completion `[sequences]`, metrics) of log p of tokens `[sequences, seq]`; as
        many entropies where they are rewarded."""
        tokens = {name: batch[name].reshape(mask.shape) for name in self.needs if name in _PER_TOKEN and name in batch}
        rewards = batch["rewards"].astype(jnp.float32)
        kept = jnp.isfinite(rewards)
        if self.mask_truncated:
            kept &= batch["truncated"] == 0
        advantage = self._advantage(rewards, kept, tokens, mask)
        mask = mask * kept.reshape(-1, 1)
        terms = self.per_token(logp, advantage, mask, tokens, reference)
        if entropy is not None:
            terms.measured["entropy"] = masked_mean(entropy, mask)
            terms = terms._replace(loss=terms.loss - self.entropy * entropy)
        minimised, weight = self._normalized(terms.loss, terms.mask)
        measured = {
            "reward": masked_mean(rewards, jnp.isfinite(rewards)),
            "scorable": masked_mean(jnp.isfinite(rewards).astype(jnp.float32), jnp.ones(rewards.shape)),
            "used": masked_mean((terms.mask.sum(1) > 0).astype(jnp.float32), jnp.ones(weight.shape)),
            **terms.measured,
        }
        return minimised, weight, measured

    def _advantage(self, rewards: jax.Array, kept: jax.Array, tokens: dict[str, Any], mask: jax.Array) -> jax.Array:
        """A of every token, `[sequences, 1 or seq]`."""
        if self.advantage == "given":
            own = tokens["advantages"]
        else:
            own = advantages(self.advantage, rewards, kept, baseline=self.baseline, floor=self.deviation_floor)
            own = own.reshape(-1, 1)
        return own + self.progress * tokens["progress"] if self.progress else own

    def per_token(
        self, logp: jax.Array, advantage: jax.Array, mask: jax.Array, tokens: Mapping[str, jax.Array],
        reference: jax.Array | None = None,
    ) -> Terms:  # fmt: skip
        """The loss of every token `[sequences, seq]`, without the mask; differentiable in logp.

        advantage: `[sequences, 1 or seq]`. tokens: old_logprobs and sampled_logprobs, as `needs` says.
        """
        fixed = jax.lax.stop_gradient(logp)
        sampled = tokens.get("sampled_logprobs")
        old = {"current": fixed, "batch": tokens.get("old_logprobs"), "sampled": sampled}[self.old]
        assert old is not None, "checked by needs"
        change = jnp.where(mask > 0, jnp.clip(logp - old, -LARGEST_LOG, LARGEST_LOG), 0)
        ratio = jnp.exp(change)
        if self.ratio == "sequence":  # the value of the mean, the gradient of each token's own log p
            mean = jnp.sum(change * mask, 1, keepdims=True) / jnp.maximum(mask.sum(1, keepdims=True), 1)
            ratio = jnp.exp(jax.lax.stop_gradient(mean) + jnp.where(mask > 0, logp - fixed, 0))
        measured = {"surprise": masked_mean(-fixed, mask), "ratio": masked_mean(ratio, mask)}
        if reference is not None:
            apart = jnp.where(mask > 0, logp - reference, 0)
            measured["kl"] = masked_mean(_k3(apart), mask)
            if self.kl_estimate == "k1":
                after = jax.lax.stop_gradient(apart) * mask
                advantage = advantage - self.kl * jnp.flip(jnp.cumsum(jnp.flip(after, 1), 1), 1)
        loss, clipped = self._surrogate(ratio, advantage, logp)
        measured["clipped"] = masked_mean(clipped.astype(jnp.float32), mask)
        if sampled is not None and "sampler_gap" in self.metrics:
            measured["sampler_gap"] = masked_mean(jnp.abs(fixed - sampled), mask)
        if sampled is not None and self.correction != "none":
            drift = jnp.where(mask > 0, jnp.clip(jax.lax.stop_gradient(old) - sampled, -LARGEST_LOG, LARGEST_LOG), 0)
            if self.correction == "truncate":
                loss = loss * jnp.minimum(jnp.exp(drift), self.correction_limit)
            else:
                product = jnp.exp(jnp.clip(jnp.sum(drift * mask, 1, keepdims=True), -LARGEST_LOG, LARGEST_LOG))
                mask = mask * (product <= self.correction_limit)
        if reference is not None and self.kl_estimate != "k1":
            estimates = {"k2": jnp.square(apart) / 2, "k3": _k3(apart), "k3_ratio": ratio * _k3(apart)}
            loss = loss + self.kl * estimates[self.kl_estimate]
        return Terms(loss, mask, measured)

    def _surrogate(self, ratio: jax.Array, advantage: jax.Array, logp: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(-the surrogate of every token, whether its ratio was clipped)."""
        low, high = 1 - self.clip_low, 1 + self.clip_high
        inside = jnp.clip(ratio, low, high)
        if self.clip == "none":
            return -ratio * advantage, jnp.zeros(ratio.shape, bool)
        if self.clip == "weight":
            return -jax.lax.stop_gradient(inside) * advantage * logp, (ratio < low) | (ratio > high)
        gain = jnp.minimum(ratio * advantage, inside * advantage)
        clipped = inside * advantage < ratio * advantage
        if self.dual_clip is not None:
            floor = self.dual_clip * advantage
            lost = (advantage < 0) & (gain < floor)
            gain, clipped = jnp.where(lost, floor, gain), clipped | lost
        return -gain, clipped

    def _normalized(self, loss: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(the summed loss, the weight `[sequences]` of each completion)."""
        loss = jnp.where(mask > 0, loss * mask, 0)
        count = mask.sum(1)
        used = (count > 0).astype(jnp.float32)
        if self.normalize == "token":
            return loss.sum(), count
        if self.normalize == "sequence":
            return jnp.sum(loss.sum(1) / jnp.maximum(count, 1)), used
        return loss.sum() / ((self.budget or mask.shape[1]) if self.normalize == "constant" else 1), used


class Terms(NamedTuple):
    """The loss of every token and the mask of those that count, `[sequences, seq]`, and metrics."""

    loss: jax.Array
    mask: jax.Array
    measured: dict[str, Mean]


_PER_TOKEN = frozenset({"sampled_logprobs", "old_logprobs", "advantages", "progress"})


def _k3(apart: jax.Array) -> jax.Array:
    """e^-d - 1 + d (Schulman 2020): never negative, and unbiased for KL(p || reference) on samples of p."""
    apart = jnp.clip(apart, -LARGEST_LOG, LARGEST_LOG)
    return jnp.expm1(-apart) + apart
