"""Decoder: what draws the tokens of a search, with one cache per particle and the prompt stored once per problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np

from models import cache, counts
from models.cache import Layers, Partial, Store
from models.config import ModelConfig
from models.errors import require
from models.kept import Kept
from models.past import Read, Step, carry_blocks
from models.span import Span
from models.transformer import Params, forward, logits
from search.engine.config import Precision
from search.engine.decode import SlotPast
from search.engine.precision import computed, running_config, stored_params

TILE = 128  # tokens of a prompt that are read, and attended to, at once, where there is room for more


class Outputs(NamedTuple):
    """What follows a particle's last token: logits `[..., vocab]` float32; value `[...]` float32, the value head's
    probability of success (0.5 without one); ended `[...]` bool: the particle can only end here."""

    logits: jax.Array
    value: jax.Array
    ended: jax.Array


class Price(NamedTuple):
    """What a token costs that attends to `context` keys, its own included.

    fixed + per_context * context + per_window * min(context, window), the last in layers with sliding windows.
    per_clone: of what a particle keeps however long it is, when it is copied.
    """

    fixed: float
    per_context: float
    per_window: float = 0.0
    window: int = 0
    per_clone: float = 0.0

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
    What a particle keeps however long it is (the states of recurrent layers) has no positions: it is that after the
    token which was read last, and who goes back reads again from its first token.
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
        """The axis of positions in every array of `caches`, in their structure; -1 for an array without positions."""

    def step(
        self, params: Any, contexts: Any, caches: Any, tokens: jax.Array, length: jax.Array
    ) -> tuple[Outputs, Any]:
        """Append tokens `[problems, particles]` int32 to particles of `length` tokens each.

        A token below 0: the particle stands still. Nothing that it keeps changes, and its outputs are not used.
        """

    def price(self, unit: str) -> Price:
        """What one token costs in "flops" or "bytes"."""

    params: Any


class Context(NamedTuple):
    """Prompts: keys and values `[problems, kv_heads, prompt_len, head_dim]`, their length, what follows them, their
    tokens `[problems, prompt_len]` int32, for verifiers that read them and prompts that begin with them too, states
    after them `[problems, ...]` and after every tile but the last `[problems, tiles - 1, ...]`, and how many tiles were
    read of each `[problems]` int32: the others were found in another's place."""

    layers: Layers
    length: jax.Array
    outputs: Outputs
    tokens: jax.Array
    states: Layers
    marks: Layers
    read: jax.Array


class Own(NamedTuple):
    """What particles keep beside their prompts: keys and values `[problems, particles, kv_heads, length, head_dim]` of
    every layer, and states `[problems, particles, ...]` after the last token."""

    layers: Layers
    states: Layers


class ValueHead(NamedTuple):
    """Probability of success from the last hidden state: sigmoid(hidden . weight + bias); weight `[d_model]`."""

    weight: jax.Array
    bias: jax.Array


@dataclass(frozen=True)
class PromptPast(SlotPast):
    """One layer of a prompt that is read at once, padded: a slot of its own; live `[1, seq]` bool: its tokens."""

    def carry(self, step: Step, inputs: Any, kept: Mapping[str, Kept], size: int) -> tuple[Any, PromptPast]:
        """Block by block, up to the last token that is not padding."""
        y, state = carry_blocks(step, {name: self.state[name] for name in kept}, inputs, size, valid=self.live)
        return y, dataclasses.replace(self, state={**self.state, **state})


@dataclass(frozen=True)
class ParticlePast(SlotPast):
    """One layer of particles, as slots that share the prompt of their problem.

    prompt `[problems, heads, prompt_len, ...]` of `prompt_length` `[problems]` tokens; shape: (problems, particles).
    """

    prompt: Store = field(default_factory=dict)
    prompt_length: Any = None
    shape: tuple[int, ...] = ()

    def _over_prefix(self, q: jax.Array, features: int, span: Span, read: Read) -> Partial:
        """Queries `[problems * particles, kv_heads, m, head_dim]` over their prompts, one product per problem."""
        problems, particles = self.shape
        _, kv_heads, m, head_dim = q.shape
        grouped = q.reshape(problems, particles, kv_heads, m, head_dim).swapaxes(1, 2)
        grouped = grouped.reshape(problems, kv_heads, particles * m, head_dim)
        room = cache.length_of(self.prompt)
        at = jnp.repeat(self.positions.reshape(problems, particles), m, axis=1)[..., None]

        def over(store: Store, first: jax.Array | int, index: jax.Array) -> Partial:
            """Over the keys at `index` from `first` on."""
            visible = (index < self.prompt_length[:, None, None]) & (index >= first)
            visible = jnp.broadcast_to(visible, (problems, particles * m, len(index)))
            if span.window is not None:
                visible = visible & span.near(at, index)
            return cache.own_block(grouped, store, visible, span, read)

        def tile(i: jax.Array, part: Partial) -> Partial:
            """With one tile more, which adds exactly nothing behind the end of a prompt; the last one ends with it."""
            begin = jnp.minimum(i * TILE, room - TILE)
            store = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, begin, TILE, axis=2), self.prompt)
            return cache.merge(part, over(store, i * TILE, begin + jnp.arange(TILE)))

        if room <= TILE:
            part = over(self.prompt, 0, jnp.arange(room))
        else:
            tiles = -(-self.prompt_length.max() // TILE)
            part = jax.lax.fori_loop(0, tiles, tile, cache.nothing(grouped, features))

        def back(x: jax.Array) -> jax.Array:
            x = x.reshape(problems, kv_heads, particles, m, *x.shape[3:]).swapaxes(1, 2)
            return x.reshape(problems * particles, kv_heads, m, *x.shape[4:])

        return jax.tree.map(back, part)


class TransformerDecoder:
    """A transformer as the decoder of a search: the slots of an engine, which share one prompt per problem.

    model, params: as models.transformer.init makes them. precision, quantized_cache: as in EngineConfig. head: a value
    head on the trunk, which costs nothing beside the forward pass.
    """

    def __init__(
        self,
        model: ModelConfig,
        params: Params,
        prompt_len: int,
        precision: Precision = "float32",
        head: ValueHead | None = None,
        field: str = "prompt",
        quantized_cache: bool = False,
    ):
        self.config = running_config(model, precision)
        self.params = (stored_params(self.config, params), head)
        self.prompt_len, self.vocab_size = prompt_len, self.config.vocab_size
        self._field, self._quantized = field, quantized_cache

    def contexts(self, problems: int) -> Context:
        """No prompts."""
        zeros, none = jnp.zeros(problems), jnp.zeros(problems, jnp.int32)
        outputs = Outputs(jnp.zeros((problems, self.vocab_size)), zeros + 0.5, zeros > 0)
        tokens = jnp.zeros((problems, self.prompt_len), jnp.int32)
        layers, states = self._empty(problems, self.prompt_len)
        inner = -(-self.prompt_len // TILE) - 1  # ends of tiles within a prompt
        marks = jax.tree.map(lambda x: jnp.zeros((problems, inner, *x.shape[1:]), x.dtype), states)
        return Context(layers, none, outputs, tokens, states, marks, none)

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
        """Read one prompt, tile by tile as far as it goes, and keep its keys and values and the states after it.

        Full tiles with which a prompt in any place begins too are not read again, but copied from there.
        """
        weights, head = params
        weights, (tokens, length) = computed(self.config, weights), prompt
        size, many = min(TILE, self.prompt_len), self.prompt_len > TILE
        padded = jnp.pad(tokens, (0, -self.prompt_len % size))

        def tile(i: jax.Array | int, before: Context) -> Context:
            at = i * size + jnp.arange(size)[None]
            positions, live = jnp.minimum(at, self.prompt_len - 1), at < length
            kept = zip(before.layers, before.states)
            pasts = [PromptPast(positions, {}, (layer,), state, (), at, live) for layer, state in kept]
            part = jax.lax.dynamic_slice_in_dim(padded, i * size, size)[None]
            output = forward(self.config, weights, part, positions, pasts=pasts)
            read = cast(tuple[PromptPast, ...], output.pasts)
            last = jnp.clip(length - 1 - i * size, 0, size - 1)
            after = self._outputs(jax.lax.dynamic_slice_in_dim(output.hidden, last, 1, axis=1), output.head, head)
            layers, states = tuple(past.blocks[0] for past in read), tuple(past.state for past in read)
            marks = before.marks
            if many:
                marks = jax.tree.map(lambda all, now: all.at[:, i].set(now, mode="drop"), marks, states)
            after = jax.tree.map(lambda x: x[0], after)
            return before._replace(layers=layers, states=states, marks=marks, outputs=after)

        tiles = -(-length // size)
        nothing: tuple[Any, Context] = 0, self.contexts(1)
        found, begun = self._found(contexts, tokens, length) if many else nothing
        own = jax.lax.fori_loop(found, tiles, tile, begun) if many else tile(0, begun)
        own = own._replace(length=length[None], tokens=tokens[None], read=tiles[None] - found)
        return jax.tree.map(lambda all, one: all.at[slot].set(one[0]), contexts, own)

    def _found(self, contexts: Context, tokens: jax.Array, length: jax.Array) -> tuple[jax.Array, Context]:
        """(full tiles before the last token of a prompt that lie in some place, a place of its own that holds them)."""
        place = jnp.arange(self.prompt_len)
        same = (contexts.tokens == tokens) & (place < jnp.minimum(contexts.length[:, None], length - 1))
        common = jnp.argmin(same, axis=-1)  # tokens: the last is never the same
        source = jnp.argmax(common)[None]
        tiles = common[source[0]] // TILE

        def held(x: jax.Array) -> jax.Array:
            return jnp.where(place[:, None] < tiles * TILE, jnp.take(x, source, axis=0), 0).astype(x.dtype)

        marks = jax.tree.map(lambda x: jnp.take(x, source, axis=0), contexts.marks)
        states = jax.tree.map(lambda x: jnp.where(tiles > 0, x[:, jnp.maximum(tiles - 1, 0)], 0), marks)
        layers = jax.tree.map(held, contexts.layers)
        return tiles, self.contexts(1)._replace(layers=layers, states=states, marks=marks)

    def start(self, contexts: Context) -> Outputs:
        """What follows every prompt."""
        return contexts.outputs

    def caches(self, problems: int, particles: int, length: int) -> Own:
        """Zeros."""
        made = Own(*self._empty(problems * particles, length))
        return jax.tree.map(lambda x: x.reshape(problems, particles, *x.shape[1:]), made)

    def step(
        self, params: Any, contexts: Context, caches: Own, tokens: jax.Array, length: jax.Array
    ) -> tuple[Outputs, Own]:
        """One token for every particle: over the problem's prompt and its own suffix, merged by log-sum-exp, and on
        from its own state, the prompt's at first."""
        weights, head = params
        weights, flat = computed(self.config, weights), tokens.reshape(-1)

        def going_on(own: jax.Array, prompt: jax.Array) -> jax.Array:
            first = (length == 0).reshape(*length.shape, *(1,) * (own.ndim - 2))
            return jnp.where(first, prompt[:, None], own).reshape(-1, *own.shape[2:])

        states = jax.tree.map(going_on, caches.states, contexts.states)
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), caches.layers)
        pasts = self._pasts(contexts, rows, states, tokens, length)
        output = forward(self.config, weights, jnp.maximum(flat, 0)[:, None], pasts[0].positions, pasts=pasts)
        after = cast(tuple[ParticlePast, ...], output.pasts)
        outputs = self._outputs(output.hidden, output.head, head)
        outputs = jax.tree.map(lambda x: x[:, 0].reshape(*tokens.shape, *x.shape[2:]), outputs)
        own = Own(tuple(past.blocks[0] for past in after), tuple(past.state for past in after))
        return outputs, jax.tree.map(lambda x: x.reshape(*tokens.shape, *x.shape[1:]), own)

    def _pasts(
        self, contexts: Context, layers: Layers, states: Layers, tokens: jax.Array, length: jax.Array
    ) -> list[ParticlePast]:
        """Of every layer, for one token of particles `[problems, particles]`; what they keep leads with their rows."""
        live = tokens >= 0
        # Who stands still writes nowhere, and may be as long as positions go.
        positions = (contexts.length[:, None] + jnp.where(live, length, 0)).reshape(-1, 1)
        at, live = jnp.where(live, length, -1).reshape(-1, 1), live.reshape(-1)
        return [
            ParticlePast(positions, {}, (own,), state, (), at, live, prompt, contexts.length, tokens.shape)
            for prompt, own, state in zip(contexts.layers, layers, states)
        ]

    def position_axes(self, caches: Own) -> Own:
        """After problems, particles and heads; states have none."""
        return Own(*(jax.tree.map(lambda _, axis=axis: axis, part) for part, axis in zip(caches, (3, -1))))

    def _empty(self, rows: int, length: int) -> tuple[Layers, Layers]:
        """Zeros: keys and values of so many rows, and their states."""
        return cache.empty(self.config, rows, length, self._quantized), cache.empty_states(self.config, rows)

    def price(self, unit: str) -> Price:
        """FLOPs of matrix products (models.counts.decode_flops), or bytes read and written of what is kept."""
        if unit == "bytes":
            size = counts.kv_cache_bytes_per_token(self.config, self._quantized)
            state = 2 * counts.state_bytes_per_row(self.config)
            return Price(size + state, size, per_clone=state)
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
