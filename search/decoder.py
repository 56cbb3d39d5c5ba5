"""Decoder: what draws the tokens of a search, with one cache per particle and the prompt stored once per problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np

from models import cache, counts
from models.cache import Layers, Partial, Store
from models.config import ModelConfig
from models.context import Lead
from models.errors import require
from models.past import Arrays, Past, Read, keys_and_values
from models.span import Span
from models.transformer import Params, forward, logits
from search.engine.config import Precision
from search.engine.precision import computed, running_config, stored_params


class Outputs(NamedTuple):
    """What follows a particle's last token: logits `[..., vocab]` float32; value `[...]` float32, the value head's
    probability of success (0.5 without one); ended `[...]` bool: the particle can only end here."""

    logits: jax.Array
    value: jax.Array
    ended: jax.Array


class Price(NamedTuple):
    """What a token costs that attends to `context` keys, its own included.

    fixed + per_context * context + per_window * min(context, window), the last in layers with sliding windows.
    """

    fixed: float
    per_context: float
    per_window: float = 0.0
    window: int = 0

    def windowed(self, contexts: Any) -> Any:
        """The keys that windows leave of `contexts` keys each."""
        return jnp.minimum(contexts, self.window)

    def up_to(self, tokens: int) -> float:
        """What the first `tokens` tokens of a text cost together."""
        whole, inside = tokens * (tokens + 1) // 2, min(tokens, self.window)
        windowed = inside * (inside + 1) // 2 + (tokens - inside) * self.window
        return self.fixed * tokens + self.per_context * whole + self.per_window * windowed


class Decoder(Protocol):
    """A policy on the device. Arrays lead with `[problems]`, or `[problems, particles]` in a particle's cache.

    A cache is indexed by position: what lies after a particle's length is never read, so that going back costs nothing.
    """

    vocab_size: int

    def contexts(self, problems: int) -> Any:
        """What is kept per problem: the prompts' caches, and `Outputs` after each prompt."""

    def encode(self, prompt: Any) -> Any:
        """A prompt as arrays for `admit`; ConfigError when it cannot be one. The last is its length, int32."""

    def admit(self, params: Any, contexts: Any, slot: jax.Array, prompt: Any) -> Any:
        """The contexts with a prompt read into place `slot` `[]` int32."""

    def start(self, contexts: Any) -> Outputs:
        """What follows every prompt, `[problems]`."""

    def caches(self, problems: int, particles: int, length: int) -> Any:
        """Empty caches for particles of up to `length` tokens."""

    def position_axes(self, caches: Any) -> Any:
        """The axis of positions in every array of `caches`, in their structure."""

    def step(
        self, params: Any, contexts: Any, caches: Any, tokens: jax.Array, length: jax.Array
    ) -> tuple[Outputs, Any]:
        """Append tokens `[problems, particles]` int32 to particles of `length` tokens each."""

    def price(self, unit: str) -> Price:
        """What one token costs in "flops" or "bytes"."""

    params: Any


class Context(NamedTuple):
    """Prompts: keys and values `[problems, kv_heads, prompt_len, head_dim]`, their length, what follows them, and their
    tokens `[problems, prompt_len]` int32, for verifiers that read them."""

    layers: Layers
    length: jax.Array
    outputs: Outputs
    tokens: jax.Array


class ValueHead(NamedTuple):
    """Probability of success from the last hidden state: sigmoid(hidden . weight + bias); weight `[d_model]`."""

    weight: jax.Array
    bias: jax.Array


@dataclass(frozen=True)
class PromptPast(Past):
    """One layer of a prompt that is read at once, padded; `kept`: what it keeps of it `[1, heads, length, ...]`."""

    positions: jax.Array
    kept: Store = field(default_factory=dict)

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, PromptPast]:  # fmt: skip
        """Over the prompt itself."""
        kept, index = {name: x.transpose(0, 2, 1, 3) for name, x in new.items()}, self.positions[0]
        n, kv_heads = q.shape[1], read(kept)[0].shape[1]
        visible = jnp.tile(span.visible(index[:, None], index), (q.shape[2] // kv_heads, 1))[None]
        part = cache.own_block(cache.split_queries(q, kv_heads), kept, visible, span, read)
        part = cache.with_lead(part, lead, span)
        return cache.join_queries(cache.finish(part), n).astype(q.dtype), PromptPast(self.positions, kept)


@dataclass(frozen=True)
class ParticlePast(Past):
    """One layer of particles: a prompt for each problem, and each particle's own tokens after it.

    positions `[problems * particles, 1]`; prompt `[problems, heads, prompt_len, ...]` of `prompt_length` `[problems]`
    tokens; own `[problems * particles, heads, length, ...]` of `length` tokens; shape: (problems, particles).
    """

    positions: jax.Array
    prompt: Store
    own: Store
    prompt_length: jax.Array
    length: jax.Array
    shape: tuple[int, ...]

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, ParticlePast]:  # fmt: skip
        """Over the prompt, then the own tokens, in which the new one is written first."""
        queries = cache.split_queries(q, read(new)[0].shape[2])
        part = self._over_prompt(queries, span, read)
        own = cache.write(self.own, new, cache.write_block, self.length[:, None])
        index = jnp.arange(cache.length_of(own))
        visible = span.visible(self.length[:, None], index)
        visible = jnp.broadcast_to(visible[:, None], (len(self.length), queries.shape[2], len(index)))
        part = cache.merge(part, cache.own_block(queries, own, visible, span, read))
        part = cache.with_lead(part, lead, span)
        return cache.join_queries(cache.finish(part), 1).astype(q.dtype), dataclasses.replace(self, own=own)

    def _over_prompt(self, q: jax.Array, span: Span, read: Read) -> Partial:
        """Queries `[problems * particles, kv_heads, m, head_dim]` over their prompts, one product per problem."""
        problems, particles = self.shape
        _, kv_heads, m, head_dim = q.shape
        grouped = q.reshape(problems, particles, kv_heads, m, head_dim).swapaxes(1, 2)
        grouped = grouped.reshape(problems, kv_heads, particles * m, head_dim)
        room = cache.length_of(self.prompt)
        index = jnp.arange(room)
        visible = jnp.broadcast_to(index < self.prompt_length[:, None, None], (problems, particles * m, room))
        if span.window is not None:
            at = jnp.repeat(self.positions.reshape(problems, particles), m, axis=1)
            visible = visible & span.near(at[..., None], index)
        part = cache.own_block(grouped, self.prompt, visible, span, read)

        def back(x: jax.Array) -> jax.Array:
            x = x.reshape(problems, kv_heads, particles, m, *x.shape[3:]).swapaxes(1, 2)
            return x.reshape(problems * particles, kv_heads, m, *x.shape[4:])

        return jax.tree.map(back, part)


class TransformerDecoder:
    """A transformer as the decoder of a search, its particles' suffixes as dense rows beside one prompt per problem.

    model, params: as models.transformer.init makes them. precision: as in EngineConfig. head: a value head on the
    trunk, which costs nothing beside the forward pass.
    """

    def __init__(
        self,
        model: ModelConfig,
        params: Params,
        prompt_len: int,
        precision: Precision = "float32",
        head: ValueHead | None = None,
        field: str = "prompt",
    ):
        self.config = running_config(model, precision)
        for i, layer in enumerate(self.config.layers):
            problem = f"layer {i} ({type(layer.mixer).__name__}) keeps a state, and searches go back in a text"
            require(not layer.mixer.block, "model.pattern", problem, "use a policy whose layers attend")
        self.params = (stored_params(self.config, params), head)
        self.prompt_len, self.vocab_size = prompt_len, self.config.vocab_size
        self._field = field

    def contexts(self, problems: int) -> Context:
        """No prompts."""
        zeros = jnp.zeros(problems)
        outputs = Outputs(jnp.zeros((problems, self.vocab_size)), zeros + 0.5, zeros > 0)
        tokens = jnp.zeros((problems, self.prompt_len), jnp.int32)
        return Context(
            cache.empty(self.config, problems, self.prompt_len), jnp.zeros(problems, jnp.int32), outputs, tokens
        )

    def encode(self, prompt: Sequence[int]) -> tuple[np.ndarray, np.int32]:
        """(tokens `[prompt_len]` int32, how many of them are the prompt's)."""
        n = len(prompt)
        require(n > 0, self._field, "is empty", "give at least one token")
        fix = f"give at most {self.prompt_len} tokens, or raise search.prompt_len"
        require(n <= self.prompt_len, self._field, f"has {n} tokens", fix)
        unknown = [t for t in prompt if not 0 <= t < self.vocab_size]
        require(not unknown, self._field, f"holds unknown tokens {unknown[:5]}", f"use 0 to {self.vocab_size - 1}")
        tokens = np.zeros(self.prompt_len, np.int32)
        tokens[:n] = prompt
        return tokens, np.int32(n)

    def admit(self, params: Any, contexts: Context, slot: jax.Array, prompt: Any) -> Context:
        """Read one prompt, padded to prompt_len, and keep its keys and values."""
        weights, head = params
        weights, (tokens, length) = computed(self.config, weights), prompt
        pasts = [PromptPast(jnp.arange(self.prompt_len)[None]) for _ in range(self.config.n_layers)]
        output = forward(self.config, weights, tokens[None], pasts[0].positions, pasts=pasts)
        kept = tuple(past.kept for past in cast(tuple[PromptPast, ...], output.pasts))
        hidden, table = output.hidden, output.head
        last = jax.lax.dynamic_slice_in_dim(hidden, length - 1, 1, axis=1)
        after = self._outputs(last, table, head)
        outputs = jax.tree.map(lambda all, one: all.at[slot].set(one[0, 0]), contexts.outputs, after)
        layers = jax.tree.map(lambda all, one: all.at[slot].set(one[0]), contexts.layers, kept)
        return Context(layers, contexts.length.at[slot].set(length), outputs, contexts.tokens.at[slot].set(tokens))

    def start(self, contexts: Context) -> Outputs:
        """What follows every prompt."""
        return contexts.outputs

    def caches(self, problems: int, particles: int, length: int) -> Layers:
        """Zeros `[problems, particles, kv_heads, length, head_dim]` per layer."""
        return jax.tree.map(
            lambda x: x.reshape(problems, particles, *x.shape[1:]),
            cache.empty(self.config, problems * particles, length),
        )

    def step(
        self, params: Any, contexts: Context, caches: Layers, tokens: jax.Array, length: jax.Array
    ) -> tuple[Outputs, Layers]:
        """One token for every particle: over the problem's prompt and its own suffix, merged by log-sum-exp."""
        weights, head = params
        weights = computed(self.config, weights)
        flat = length.reshape(-1)
        positions = (contexts.length[:, None] + length).reshape(-1, 1)
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), caches)
        pasts = [
            ParticlePast(positions, prompt, own, contexts.length, flat, tokens.shape)
            for prompt, own in zip(contexts.layers, rows)
        ]
        output = forward(self.config, weights, tokens.reshape(-1, 1), positions, pasts=pasts)
        written = tuple(past.own for past in cast(tuple[ParticlePast, ...], output.pasts))
        outputs = self._outputs(output.hidden, output.head, head)
        outputs = jax.tree.map(lambda x: x[:, 0].reshape(*tokens.shape, *x.shape[2:]), outputs)
        return outputs, jax.tree.map(lambda x: x.reshape(*tokens.shape, *x.shape[1:]), written)

    def position_axes(self, caches: Layers) -> Any:
        """After problems, particles and heads."""
        return jax.tree.map(lambda _: 3, caches)

    def price(self, unit: str) -> Price:
        """FLOPs of matrix products (models.counts.decode_flops), or bytes of keys and values read and written."""
        if unit == "bytes":
            size = counts.kv_cache_bytes_per_token(self.config)
            return Price(size, size)
        window = self.config.sliding_window if any(self.config.sliding) else None
        at = [counts.decode_flops(self.config, n) for n in (0, 1, window or 1, (window or 1) + 1)]
        every, far = at[1] - at[0], at[3] - at[2]  # per key of all layers, and of those that see beyond the window
        price = Price(at[0], far, every - far, window or 0)
        keys = self.config.max_seq_len
        linear = price.fixed + price.per_context * keys + price.per_window * min(keys, price.window)
        problem = "in flops does not fit a model whose tokens do not cost a fixed amount and one for each key"
        require(linear == counts.decode_flops(self.config, keys), "budget.unit", problem, "use tokens")
        return price

    def _outputs(self, hidden: jax.Array, table: Any, head: ValueHead | None) -> Outputs:
        scores = logits(self.config, hidden, table)
        value = jnp.full(hidden.shape[:2], 0.5)
        if head is not None:
            value = jax.nn.sigmoid(hidden.astype(jnp.float32) @ head.weight + head.bias)
        return Outputs(scores, value, jnp.zeros(hidden.shape[:2], bool))
