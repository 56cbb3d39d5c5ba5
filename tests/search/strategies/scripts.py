"""A policy without chance: a table says what comes next, and a loop writes what it would."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from search.decoder import Outputs, Price
from tests.search.strategies.enumeration import Text


class Scripts(NamedTuple):
    """Which script each problem follows, prompts' length (0), and what comes first."""

    script: jax.Array
    length: jax.Array
    outputs: Outputs


class ScriptDecoder:
    """A table `[scripts, vocab, vocab, length]` says what follows the last two tokens at each length."""

    def __init__(self, table: np.ndarray):
        self.vocab_size, self.long = table.shape[1], table.shape[3]
        self.params: Any = jnp.asarray(table, jnp.int32)

    def contexts(self, problems: int) -> Scripts:
        zeros = jnp.zeros(problems, jnp.int32)
        return Scripts(zeros, zeros, self._says(jnp.zeros(problems, jnp.int32)))

    def encode(self, prompt: Any) -> tuple[np.int32, np.int32]:
        return np.int32(prompt), np.int32(0)

    def admit(self, params: Any, contexts: Scripts, slot: jax.Array, prompt: Any) -> Scripts:
        first = self._says(params[prompt[0], 0, 0, 0])
        outputs = jax.tree.map(lambda all, one: all.at[slot].set(one), contexts.outputs, first)
        return Scripts(contexts.script.at[slot].set(prompt[0]), contexts.length, outputs)

    def start(self, contexts: Scripts) -> Outputs:
        return contexts.outputs

    def caches(self, problems: int, particles: int, length: int) -> jax.Array:
        return jnp.zeros((problems, particles, length), jnp.int32)

    def position_axes(self, caches: jax.Array) -> int:
        return caches.ndim - 1

    def step(
        self, params: Any, contexts: Scripts, caches: jax.Array, tokens: jax.Array, length: jax.Array
    ) -> tuple[Outputs, jax.Array]:
        before = jnp.take_along_axis(caches, jnp.maximum(length - 1, 0)[..., None], -1)[..., 0]
        before = jnp.where(length == 0, 0, before)
        following = params[contexts.script[:, None], before, tokens, jnp.minimum(length + 1, self.long - 1)]
        here = jnp.arange(self.long) == length[..., None]
        return self._says(following), jnp.where(here, tokens[..., None], caches)

    def price(self, unit: str) -> Price:
        return Price(1.0, 1.0)

    def _says(self, token: jax.Array) -> Outputs:
        logits = jnp.where(jnp.arange(self.vocab_size) == token[..., None], 0.0, -jnp.inf)
        return Outputs(logits, jnp.zeros(token.shape), jnp.zeros(token.shape, bool))


def following(script: np.ndarray, text: Text) -> int:
    """The next token of a text by one script of a table."""
    before, last = ((0, 0, *text) if len(text) != 1 else (0, *text))[-2:]
    return int(script[before, last, min(len(text), script.shape[2] - 1)])


def write(script: np.ndarray, text: Text, forced: Text, until: tuple[int, ...]) -> tuple[Text, int]:
    """(the text after the forced tokens, one by one, and what follows up to one of `until`; tokens not forced)."""
    drawn, long = 0, script.shape[2]
    for token in forced:
        if len(text) == long:
            return text, drawn
        text = (*text, token)
    while len(text) < long:
        text, drawn = (*text, following(script, text)), drawn + 1
        if text[-1] in until:
            break
    return text, drawn
