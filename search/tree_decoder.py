"""TreeDecoder: a policy that is a table, so that everything about it can be enumerated. Searches are tested with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from search.decoder import Outputs, Price


class TreeContext(NamedTuple):
    """Which tree each problem walks, `[problems]` int32, prompts' length (0), and what follows the root."""

    tree: jax.Array
    length: jax.Array
    outputs: Outputs


class TreeDecoder:
    """Walks in trees: a token is the number of a child, and a leaf ends the walk.

    child `[trees, nodes, actions]` int32 (-1: none), node 0 the root; log_prob the same shape, float32; value
    `[trees, nodes]` float32: what the value head says. A problem's prompt is the number of its tree. One token costs
    one FLOP and one byte per key.
    """

    def __init__(self, child: np.ndarray, log_prob: np.ndarray, value: np.ndarray):
        self.vocab_size = int(child.shape[-1])
        scores = np.where(child >= 0, log_prob, -np.inf).astype(np.float32)
        self.params: Any = (jnp.asarray(child, jnp.int32), jnp.asarray(scores), jnp.asarray(value, jnp.float32))

    def contexts(self, problems: int) -> TreeContext:
        """All at the root of tree 0."""
        zeros = jnp.zeros(problems, jnp.int32)
        outputs = Outputs(jnp.zeros((problems, self.vocab_size)), jnp.zeros(problems), zeros > 0)
        return TreeContext(zeros, zeros, outputs)

    def encode(self, prompt: Any) -> tuple[np.int32, np.int32]:
        """(tree, 0)."""
        return np.int32(prompt), np.int32(0)

    def admit(self, params: Any, contexts: TreeContext, slot: jax.Array, prompt: Any) -> TreeContext:
        """Stand at the root of a tree."""
        after = self._outputs(params, prompt[0], jnp.int32(0))
        outputs = jax.tree.map(lambda all, one: all.at[slot].set(one), contexts.outputs, after)
        return TreeContext(contexts.tree.at[slot].set(prompt[0]), contexts.length, outputs)

    def start(self, contexts: TreeContext) -> Outputs:
        """What follows the roots."""
        return contexts.outputs

    def caches(self, problems: int, particles: int, length: int) -> jax.Array:
        """The node after every token, `[problems, particles, length]` int32."""
        return jnp.zeros((problems, particles, length), jnp.int32)

    def position_axes(self, caches: jax.Array) -> int:
        """The last."""
        return caches.ndim - 1

    def step(
        self, params: Any, contexts: TreeContext, caches: jax.Array, tokens: jax.Array, length: jax.Array
    ) -> tuple[Outputs, jax.Array]:
        """Go to a child."""
        before = jnp.take_along_axis(caches, jnp.maximum(length - 1, 0)[..., None], -1)[..., 0]
        before = jnp.where(length == 0, 0, before)
        tree = jnp.broadcast_to(contexts.tree[:, None], tokens.shape)
        node = jnp.maximum(params[0][tree, before, tokens], 0)
        here = (jnp.arange(caches.shape[-1]) == length[..., None]) & (tokens >= 0)[..., None]
        return self._outputs(params, tree, node), jnp.where(here, node[..., None], caches)

    def price(self, unit: str) -> Price:
        """One per token and one per key."""
        return Price(1.0, 1.0)

    def _outputs(self, params: Any, tree: jax.Array, node: jax.Array) -> Outputs:
        child, log_prob, value = params
        return Outputs(log_prob[tree, node], value[tree, node], (child[tree, node] < 0).all(-1))
