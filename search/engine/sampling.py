"""The next token of every row: filters, temperature and an exact sampler, with all settings traced per row.

Filters follow `transformers` in definition and order: logit bias, repetition penalty, allowed tokens, temperature,
top-k, top-p, min-p, typical; each sees the renormalised distribution that the one before it left. None of them sorts:
a threshold is found by bisecting the bits of a float32, 31 sums over the row, and only the filters that `Filters`
names are compiled at all.

The draw inverts the cumulative distribution in two levels, first among blocks of about sqrt(vocab) tokens and then
inside one block, with a uniform number of 24 bits for each. So a block is drawn with its probability to 2^-24
absolute, a token with its probability inside the block to 2^-24 absolute, beside the rounding of the float32 sums
(relative 1e-7 each); tokens of probability below 1e-7 are drawn, with that absolute precision inside their block. A
row's token depends on its own key and logits alone, never on the rest of the batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.errors import require, require_held
from models.platform import on_cpu
from models.serialize import added
from scaling.typed import STEPS, at_most

FLAT_VOCAB = 64  # up to here one level of the draw is as fast as two
COLDEST = 1e-6  # the lowest temperature but 0: reciprocals of much lower ones overflow a float32
ROW_BY_ROW_VOCAB = 4096  # from here a CPU takes one row at a time: the 31 passes of a filter stay in its nearest cache


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one request are drawn. The defaults draw from the model's own distribution.

    temperature: 0 takes the most likely token (the lowest index on ties); else at least 1e-6.
    top_k: keep the k most likely tokens, and those as likely as the k-th; 0 is off.
    top_p: keep the smallest set, from the most likely down, whose probability reaches top_p (lowest index first).
    min_p: keep tokens at least min_p times as likely as the likeliest.
    typical_p: keep the smallest set, from the least |-log p - entropy| up, whose probability reaches typical_p
        (Meister et al. 2022).
    repetition_penalty: scores of tokens seen before (the prompt included) are divided by it when positive, else
        multiplied (Keskar et al. 2019).
    logit_bias: (token, number added to its logit) pairs; -inf bars the token.
    allowed: the only tokens that may be drawn; None allows all.
    forced: the first tokens of the sample, whatever the model says.
    min_tokens: before so many, no end token is drawn and no stop ends the sample.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed: tuple[int, ...] | None = None
    forced: tuple[int, ...] = ()
    min_tokens: int = added(0)

    def __post_init__(self) -> None:
        fits = math.isfinite(self.temperature) and self.temperature >= 0
        require(fits, "sampling.temperature", f"is {self.temperature}", "give 0 or more")
        cold, fix = 0 < self.temperature < COLDEST, "give 0, which takes the likeliest token"
        require(not cold, "sampling.temperature", f"is {self.temperature}, below {COLDEST}", fix)
        require(
            isinstance(self.top_k, int) and self.top_k >= 0,
            "sampling.top_k",
            f"is {self.top_k}",
            "give 0 (off) or more",
        )
        for name in ("top_p", "typical_p"):
            value = getattr(self, name)
            require(0 < value <= 1, f"sampling.{name}", f"is {value}", "give a number above 0, at most 1 (off)")
        require(0 <= self.min_p <= 1, "sampling.min_p", f"is {self.min_p}", "give a number from 0 (off) to 1")
        penalty = self.repetition_penalty
        fix = "give 1 (off) or more, or a factor of at least 1e-6"
        require(penalty >= 1e-6, "sampling.repetition_penalty", f"is {penalty}", fix)
        least = self.min_tokens
        require(isinstance(least, int) and least >= 0, "sampling.min_tokens", f"is {least}", "give 0 (off) or more")
        for name in ("temperature", "top_p", "min_p", "typical_p"):
            require_held(getattr(self, name), f"sampling.{name}")
        at_most(self, "sampling", temperature=1e6, repetition_penalty=1e6, top_k=STEPS, min_tokens=STEPS)
        require(self.allowed is None or len(self.allowed) > 0, "sampling.allowed", "is empty", "allow a token, or None")
        bad = [b for _, b in self.logit_bias if math.isnan(b) or b == math.inf]
        require(not bad, "sampling.logit_bias", f"holds {bad}", "add finite numbers, or -inf to bar a token")

    def check_tokens(self, vocab_size: int) -> None:
        """Raise ConfigError when a token named here is not one of the `vocab_size` tokens."""
        named = {"logit_bias": [t for t, _ in self.logit_bias], "allowed": self.allowed or (), "forced": self.forced}
        for name, tokens in named.items():
            bad = [t for t in tokens if not 0 <= t < vocab_size]
            require(not bad, f"sampling.{name}", f"names unknown tokens {bad[:5]}", f"use 0 to {vocab_size - 1}")


@dataclass(frozen=True)
class Filters:
    """What a program must be able to do: static, so that nobody pays for a filter that no request uses."""

    greedy: bool = False  # some row has temperature 0
    sampled: bool = True  # some row has another
    tempered: bool = False  # some row has a temperature other than 0 and 1
    top_k: bool = False
    top_p: bool = False
    min_p: bool = False
    typical: bool = False
    repetition: bool = False
    bias: bool = False
    mask: bool = False

    @staticmethod
    def of(samplings: Sequence[Sampling]) -> Filters:
        """The filters that these settings use."""

        def uses(s: Sampling) -> Filters:
            return Filters(
                greedy=s.temperature == 0,
                sampled=s.temperature != 0,
                tempered=s.temperature not in (0, 1),
                top_k=s.top_k > 0,
                top_p=s.top_p < 1,
                min_p=s.min_p > 0,
                typical=s.typical_p < 1,
                repetition=s.repetition_penalty != 1,
                bias=bool(s.logit_bias),
                mask=s.allowed is not None or s.min_tokens > 0,
            )

        made = [uses(s) for s in samplings]
        fields = [f.name for f in dataclasses.fields(Filters)]
        return Filters(**{name: any(getattr(f, name) for f in made) for name in fields}) if made else Filters()

    def __or__(self, other: Filters) -> Filters:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Filters(*(a or b for a, b in pairs))

    def covers(self, other: Filters) -> bool:
        """Whether a program made for these filters serves `other` too."""
        return self | other == self


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "bias_tokens", "bias_values",
        "allowed", "forced",
    ],
    meta_fields=["filters"],
)  # fmt: skip
@dataclass(frozen=True)
class SamplingRows:
    """The settings of n rows as arrays; `filters` is static, part of the program and not of the data.

    temperature, top_p, min_p, typical_p, repetition_penalty `[n]` float32; top_k `[n]` int32; bias_tokens `[n, b]`
    int32 (-1: none), bias_values `[n, b]` float32; allowed `[n, words]` uint32, bit t % 32 of word t // 32 for token t
    (words = 0 without masks); forced `[n, f]` int32 (-1: free).
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    typical_p: jax.Array
    repetition_penalty: jax.Array
    bias_tokens: jax.Array
    bias_values: jax.Array
    allowed: jax.Array
    forced: jax.Array
    filters: Filters = Filters()

    def write(self, slots: jax.Array, rows: SamplingRows) -> SamplingRows:
        """These rows with `rows` `[k]` written at `slots` `[k]` int32 (out of range: dropped); widths must agree."""
        rows = dataclasses.replace(rows, filters=self.filters)
        return jax.tree.map(lambda mine, new: mine.at[slots].set(new, mode="drop"), self, rows)

    def take(self, rows: jax.Array) -> SamplingRows:
        """The settings at `rows` `[k]` int32."""
        return jax.tree.map(lambda x: x[rows], self)


class Drawn(NamedTuple):
    """One token per row `[n]` int32, and two log-probabilities of it `[n]` float32, in nats.

    logprob: under the model's own distribution, temperature 1, before every filter, bias and penalty.
    filtered_logprob: under the distribution that the token was drawn from; 0 for greedy and forced tokens.
    A row whose every token is barred, or whose logits hold nan, gets token -1 and nan.
    """

    token: jax.Array
    logprob: jax.Array
    filtered_logprob: jax.Array


def stack_rows(
    samplings: Sequence[Sampling],
    vocab_size: int,
    filters: Filters | None = None,
    bias_width: int | None = None,
    forced_width: int | None = None,
) -> SamplingRows:
    """The settings of n requests as arrays on the host.

    filters: those of the program (None: what these settings use). bias_width, forced_width: columns of the biases
    and forced tokens, so that rows of other requests can be written in later (None: as many as these need).
    """
    filters = filters or Filters.of(samplings)
    n, words = len(samplings), -(-vocab_size // 32) if filters.mask else 0
    needed = Filters.of(samplings)
    require(filters.covers(needed), "sampling.filters", f"{needed} are not all in {filters}", "compile for both")
    most = max((len(s.logit_bias) for s in samplings), default=0)
    bias_tokens = np.full((n, most if bias_width is None else bias_width), -1, np.int32)
    bias_values = np.zeros(bias_tokens.shape, np.float32)
    longest = max((len(s.forced) for s in samplings), default=0)
    forced = np.full((n, longest if forced_width is None else forced_width), -1, np.int32)
    allowed = np.full((n, words), 0xFFFFFFFF, np.uint32)
    for i, s in enumerate(samplings):
        s.check_tokens(vocab_size)
        require(len(s.logit_bias) <= bias_tokens.shape[1], "sampling.logit_bias", "is too long", "raise bias_width")
        require(len(s.forced) <= forced.shape[1], "sampling.forced", "is too long", "raise forced_width")
        for j, (token, value) in enumerate(s.logit_bias):
            bias_tokens[i, j], bias_values[i, j] = token, value
        forced[i, : len(s.forced)] = s.forced
        if s.allowed is not None:
            allowed[i] = pack_tokens(s.allowed, vocab_size)

    def column(name: str, dtype: type = np.float32) -> np.ndarray:
        return np.array([getattr(s, name) for s in samplings], dtype)

    names = ("top_p", "min_p", "typical_p", "repetition_penalty")
    arrays = dict(temperature=column("temperature"), top_k=column("top_k", np.int32)) | {k: column(k) for k in names}
    arrays |= dict(bias_tokens=bias_tokens, bias_values=bias_values, allowed=allowed, forced=forced)
    return SamplingRows(**{k: jnp.asarray(v) for k, v in arrays.items()}, filters=filters)


def pack_tokens(tokens: Sequence[int], vocab_size: int) -> np.ndarray:
    """A set of tokens as bits `[ceil(vocab / 32)]` uint32: bit t % 32 of word t // 32."""
    bits = np.zeros(-(-vocab_size // 32) * 32, bool)
    bits[list(tokens)] = True
    return np.packbits(bits.reshape(-1, 32), axis=-1, bitorder="little").view("<u4")[:, 0].astype(np.uint32)


def step_keys(lineage_keys: jax.Array, step: jax.Array) -> jax.Array:
    """Keys `[n, 2]` uint32 of one step from those of the lineages `[n, 2]` (`decode.lineage_keys`); step `[n]` int32.

    They depend on what a row is and never on where it lies in the batch, so tokens do not either.
    """
    return jax.vmap(_fold_in)(lineage_keys, step)


def _fold_in(key: jax.Array, data: jax.Array) -> jax.Array:
    typed = jax.random.wrap_key_data(key, impl="threefry2x32")  # the default implementation can be configured away
    return jax.random.key_data(jax.random.fold_in(typed, data))


def uniform_pair(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two independent uniform numbers in [0, 1 - 2^-24], multiples of 2^-24, from one key `[2]` uint32."""
    bits = jax.random.bits(jax.random.wrap_key_data(key, impl="threefry2x32"), (2,), jnp.uint32)
    u = (bits >> 8).astype(jnp.float32) * jnp.float32(2**-24)
    return u[0], u[1]


def sample(
    keys: jax.Array,
    logits: jax.Array,
    rows: SamplingRows,
    *,
    history: jax.Array | None = None,
    forced: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(token `[n]` int32, its log-probability `[n]` float32 under the model at temperature 1); see `draw`."""
    drawn = draw(keys, logits, rows, history=history, forced=forced)
    return drawn.token, drawn.logprob


def draw(
    keys: jax.Array,
    logits: jax.Array,
    rows: SamplingRows,
    *,
    history: jax.Array | None = None,
    forced: jax.Array | None = None,
) -> Drawn:
    """One token per row from its filtered distribution.

    keys `[n, 2]` uint32; logits `[n, vocab]` float32 (-inf bars a token); history `[n, length]` int32, the tokens
    seen so far with anything outside the vocabulary ignored (needed for the repetition penalty alone); forced `[n]`
    int32, the token to take whatever the model says (-1: free; see `forced_at`).
    """
    vocab = logits.shape[1]
    filters = rows.filters
    assert not filters.repetition or history is not None, "the repetition penalty needs the history"
    history = history if filters.repetition else None

    def one(
        key: jax.Array, logits: jax.Array, row: SamplingRows, seen: jax.Array | None, force: jax.Array | None
    ) -> Drawn:
        kept = keep(logits, row, seen)
        token = kept.best
        if filters.sampled:
            token = invert(key, kept.weight)
            token = jnp.where(row.temperature == 0, kept.best, token) if filters.greedy else token
        free = True if force is None else force < 0
        token = token if force is None else jnp.where(free, token, force)
        at = jnp.maximum(token, 0)
        logprob = logits[at] - kept.log_total
        certain = (row.temperature == 0) | jnp.logical_not(free)
        filtered = jnp.where(certain, 0.0, jnp.log(kept.weight[at]) - jnp.log(kept.weight.sum()))
        valid = (jnp.isfinite(kept.top) | jnp.logical_not(free)) & jnp.isfinite(kept.log_total)
        nan = jnp.float32(jnp.nan)
        return Drawn(jnp.where(valid, token, -1), jnp.where(valid, logprob, nan), jnp.where(valid, filtered, nan))

    return _over_rows(one, vocab)(keys, logits.astype(jnp.float32), rows, history, forced)


def distribution(logits: jax.Array, rows: SamplingRows, *, history: jax.Array | None = None) -> jax.Array:
    """The probabilities `[n, vocab]` float32 that `draw` draws from; one-hot at temperature 0. Arguments as there."""
    vocab = logits.shape[1]
    history = history if rows.filters.repetition else None

    def one(logits: jax.Array, row: SamplingRows, seen: jax.Array | None) -> jax.Array:
        kept = keep(logits, row, seen)
        p = kept.weight / kept.weight.sum()
        greedy = (jnp.arange(vocab) == kept.best).astype(jnp.float32)
        return jnp.where(row.temperature == 0, greedy, p) if rows.filters.greedy else p

    return _over_rows(one, vocab)(logits.astype(jnp.float32), rows, history)


def forced_at(rows: SamplingRows, generated: jax.Array) -> jax.Array:
    """The token that each row must take as its `generated`-th (from 0), `[n]` int32; -1 where it is free."""
    width = rows.forced.shape[1]
    if width == 0:
        return jnp.full(generated.shape, -1, jnp.int32)
    token = jnp.take_along_axis(rows.forced, jnp.clip(generated, 0, width - 1)[:, None], axis=1)[:, 0]
    return jnp.where(generated < width, token, -1)


def bar(rows: SamplingRows, tokens: Sequence[int], early: jax.Array) -> SamplingRows:
    """The rows without these tokens where they are `early` `[n]` bool; a program without masks has no such row."""
    if not rows.filters.mask or not tokens:
        return rows
    left = rows.allowed & ~jnp.asarray(pack_tokens(tokens, 32 * rows.allowed.shape[1]))
    return dataclasses.replace(rows, allowed=jnp.where(early[:, None], left, rows.allowed))


def _over_rows(one, vocab: int):
    """`one` over the leading dim of its arguments: row after row on a CPU when the vocabulary is large."""
    if on_cpu() and vocab >= ROW_BY_ROW_VOCAB:
        return lambda *args: jax.lax.map(lambda row: one(*row), args)
    return jax.vmap(one)


class Filtered(NamedTuple):
    """weight `[vocab]`: the kept probabilities relative to the likeliest, which has 1.

    best: the greedy token; top: its score; log_total: log-sum-exp of the model's own logits.
    """

    weight: jax.Array
    best: jax.Array
    top: jax.Array
    log_total: jax.Array


def per_block(values: jax.Array, reduce: Callable[..., jax.Array]) -> jax.Array:
    """`reduce` over each block of a row `[vocab]` -> `[blocks]`; the last block may be short.

    Slices rather than padding: a padded copy of the row costs as much as the exponentials.
    """
    vocab = values.shape[0]
    width = _width(vocab)
    whole = vocab // width
    blocks = reduce(values[: whole * width].reshape(whole, width), axis=-1)
    return blocks if whole * width == vocab else jnp.append(blocks, reduce(values[whole * width :]))


def block_at(values: jax.Array, block: jax.Array, fill: float) -> tuple[jax.Array, jax.Array]:
    """(one block of a row `[vocab]` as `[width]`, the token it starts at); a short one is filled up in front."""
    width = _width(values.shape[0])
    start = jnp.minimum(block * width, values.shape[0] - width)
    inside = jax.lax.dynamic_slice_in_dim(values, start, width)
    return jnp.where(jnp.arange(width) >= block * width - start, inside, fill), start


def _width(vocab: int) -> int:
    return vocab if vocab <= FLAT_VOCAB else 32 * round(vocab**0.5 / 32 + 0.5)


def keep(logits: jax.Array, row: SamplingRows, seen: jax.Array | None) -> Filtered:
    """What the filters leave of one row of logits `[vocab]`."""
    f = row.filters
    scores = logits
    if f.bias:
        tokens = jnp.where(row.bias_tokens < 0, scores.shape[0], row.bias_tokens)
        scores = scores.at[tokens].add(row.bias_values, mode="drop")
    if f.repetition and seen is not None:
        tokens = jnp.where(seen < 0, scores.shape[0], seen)
        before = jnp.take(scores, tokens, mode="clip")
        after = jnp.where(before < 0, before * row.repetition_penalty, before / row.repetition_penalty)
        scores = scores.at[tokens].set(after, mode="drop")
    if f.mask:
        bits = (row.allowed[:, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
        scores = jnp.where(bits.reshape(-1)[: scores.shape[0]] == 1, scores, -jnp.inf)
    tops = per_block(scores, jnp.max)
    block = jnp.argmax(tops)
    top = tops[block]
    inside, start = block_at(scores, block, -jnp.inf)
    best = (start + jnp.argmax(inside)).astype(jnp.int32)
    below = scores - jnp.where(jnp.isfinite(top), top, 0.0)
    weight = jnp.exp(below)
    if f.bias or f.repetition or f.mask:
        highest = logits.max()
        log_total = highest + jnp.log(jnp.exp(logits - highest).sum())
    else:
        log_total = top + jnp.log(weight.sum())
    if f.tempered:
        below = below / jnp.where(row.temperature == 0, 1.0, row.temperature)
        weight = jnp.exp(below)
    if f.top_k:
        weight = keep_top_k(weight, row.top_k)
    if f.top_p:
        weight = keep_top_p(weight, row.top_p)
    if f.min_p:
        weight = jnp.where(weight >= row.min_p, weight, 0.0)
    if f.typical:
        weight = _typical(weight, below, row.typical_p)
    return Filtered(weight, best, top, log_total)


def keep_top_k(weight: jax.Array, k: jax.Array) -> jax.Array:
    """weight `[vocab]` with 0 for all but the k largest and those equal to the k-th; k = 0 keeps all."""
    threshold = _bisect(lambda t: (weight >= t).astype(jnp.float32).sum() >= k)  # exact: counts stay below 2^24
    return jnp.where((k == 0) | (weight >= threshold), weight, 0.0)


def keep_top_p(weight: jax.Array, p: jax.Array) -> jax.Array:
    """weight `[vocab]` with 0 outside of the smallest set, largest first, that holds the share p; p = 1 keeps all."""
    target = jnp.maximum(p * weight.sum(), jnp.finfo(jnp.float32).tiny)
    threshold = _bisect(lambda t: jnp.where(weight >= t, weight, 0.0).sum() >= target)
    above = jnp.where(weight > threshold, weight, 0.0)
    tied = weight == threshold
    room = jnp.maximum(jnp.ceil((target - above.sum()) / threshold), 1.0)

    def first_of_the_tied() -> jax.Array:
        return jnp.where(tied & (jnp.cumsum(tied.astype(jnp.float32)) <= room), weight, above)

    all_fit = tied.astype(jnp.float32).sum() <= room
    kept = jax.lax.cond(all_fit, lambda: jnp.where(tied, weight, above), first_of_the_tied)
    return jnp.where(p >= 1, weight, kept)


def _typical(weight: jax.Array, below: jax.Array, p: jax.Array) -> jax.Array:
    total = weight.sum()
    surprise = jnp.log(total) - below
    entropy = jnp.where(weight > 0, weight * surprise, 0.0).sum() / total
    distance = jnp.where(weight > 0, jnp.abs(surprise - entropy), jnp.inf)
    threshold = _bisect(lambda t: jnp.where(distance < t, weight, 0.0).sum() < p * total)
    return jnp.where((p >= 1) | (distance <= threshold), weight, 0.0)


def _bisect(holds) -> jax.Array:
    """The largest float32 t >= 0 at which `holds(t)`, true up to some t and false after: one bit at a time."""

    def body(i: jax.Array, bits: jax.Array) -> jax.Array:
        candidate = bits | jnp.left_shift(jnp.int32(1), 30 - i)
        t = jax.lax.bitcast_convert_type(candidate, jnp.float32)
        return jnp.where((t < jnp.inf) & holds(t), candidate, bits)

    # `holds` is evaluated at t = 0 so that the carry varies over the rows under vmap from the start
    start = jnp.where(holds(jnp.float32(0)), jnp.int32(0), jnp.int32(0))
    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, body, start), jnp.float32)


def invert(key: jax.Array, weight: jax.Array) -> jax.Array:
    """The token at which the cumulative weight `[vocab]` passes a uniform share of the total."""
    u_block, u_inside = uniform_pair(key)
    inside, start = block_at(weight, first_above(u_block, per_block(weight, jnp.sum)), 0.0)
    return start + first_above(u_inside, inside)


def first_above(u: jax.Array, weight: jax.Array) -> jax.Array:
    """First index with weight > 0 whose cumulative weight exceeds u times the total."""
    cumulative = jnp.cumsum(weight)
    # the maximum over what can be drawn is the total: a parallel sum need not be monotone in its last bit
    total = jnp.where(weight > 0, cumulative, 0.0).max()
    return jnp.argmax((cumulative > u * total) & (weight > 0)).astype(jnp.int32)
