"""Workers on one cache (Hogwild! Inference, Rodionov et al. 2025): each sees what all others write, as they do.

The cache is the prompt and one block per worker, with keys at positions local to their block. To a worker the text is
[prompt | the other workers' blocks in order | its own], so that its own thoughts always come last ("contiguous" in the
paper). Rotary scores depend on distances alone: instead of moving keys, the query is rotated once per block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import cache
from models.cache import Layers, Store
from models.config import ModelConfig
from models.context import Lead
from models.errors import require
from models.mixers.attention import Attention
from models.past import Arrays, Read, keys_and_values
from models.positions import rotary_angles, rotate
from models.rotary import Rotary
from models.span import Span
from search.config import SearchConfig
from search.decoder import Context, Decoder, ParticlePast, TransformerDecoder
from search.strategies.best_of_n import best_of_n
from search.strategies.setting import Setting, StrategyConfig, answer_of, needs
from search.strategies.strategy import Choice, Strategy, View
from search.strategies.survey import Tags
from search.strategies.votes import by_vote


def hogwild(workers: int, openings: Sequence[Sequence[int]] = ()) -> Strategy:
    """`workers` workers of a `WorkersDecoder`, a token each at a time, until all have written an end or are full.

    A worker sees the tokens that the others append in the same step; worker w of a problem draws as the sample w of
    best-of-N would. openings: tokens that each worker is made to write first, such as its name.
    """
    require(workers >= 1, "workers", f"is {workers}", "give 1 or more")
    require(not openings or len(openings) == workers, "openings", f"are {len(openings)}", f"give {workers}")
    forced = np.full((workers, max(map(len, openings), default=0)), -1, np.int32)
    for worker, opening in enumerate(openings):
        forced[worker, : len(opening)] = opening
    apart = best_of_n(workers, scored=False)

    def select(key: jax.Array, state: Any, view: View) -> tuple[Choice, Any]:
        choice, state = apart.select(key, state, view)
        return choice._replace(forced=jnp.asarray(forced)), state

    return dataclasses.replace(apart, name="hogwild", select=select, forced=forced.shape[1], together=True)


class WorkersDecoder(TransformerDecoder):
    """A transformer whose particles of a problem are workers on one cache; arguments as those of its base."""

    def __init__(self, model: ModelConfig, *given: Any, **named: Any):
        rotated = all(isinstance(layer.mixer, Attention) and _rotary(model, layer.mixer) for layer in model.layers)
        fix = "use rotary positions without scaling or windows"
        require(rotated, "model.positions", "cannot be rotated per block", fix)
        windows = cache.windowed(model)
        require(not windows, "model.sliding_window", "is not told apart by blocks", fix)
        super().__init__(model, *given, **named)

    def _pasts(
        self, contexts: Context, layers: Layers, states: Layers, tokens: jax.Array, length: jax.Array
    ) -> list[ParticlePast]:
        """Positions are those within a worker's own block."""
        pasts = super()._pasts(contexts, layers, states, tokens, length)
        workers, after = tokens.shape[1], length + (tokens >= 0)
        mine = jnp.eye(workers, dtype=bool)
        others = jnp.where(mine, 0, after[:, None])  # [problem, worker, block]: tokens that come before its own block
        own = contexts.length[:, None] + others.sum(-1)  # where each worker's own block begins for it
        begins = contexts.length[:, None, None] + jnp.cumsum(others, axis=-1) - others
        placed = after, own, jnp.where(mine, own[..., None], begins)
        positions = length.reshape(-1, 1)
        return [
            WorkerPast(**vars(past) | {"positions": positions}, turned=_turn(self.config, layer.mixer), placed=placed)
            for layer, past in zip(self.config.layers, pasts)
        ]


def _rotary(config: ModelConfig, mixer: Attention) -> Rotary | None:
    """How a layer rotates, if it does and without scaling."""
    rotary = mixer.resolved(config.stream).rotary
    return rotary if rotary is not None and rotary.share and rotary.scaling is None else None


def _turn(config: ModelConfig, mixer: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A layer's function that moves queries `[rows, 1, heads, head_dim]` further from a block's keys, each by its
    `distance` `[rows]`."""
    rotary = _rotary(config, mixer)
    assert rotary

    def turned(q: jax.Array, distance: jax.Array) -> jax.Array:
        angles = rotary_angles(distance[:, None], rotary.dims(q.shape[-1]), rotary.theta)
        return rotate(q, *angles, interleaved=rotary.interleaved)

    return turned


@dataclass(frozen=True)
class WorkerPast(ParticlePast):
    """One layer of particles that read one another's blocks.

    placed: tokens in every block, `[problems, workers]`, and positions, for each worker, of its own block, of that
    shape too, and of all blocks `[problems, worker, block]`.
    """

    turned: Callable[[jax.Array, jax.Array], jax.Array] = lambda q, distance: q
    placed: tuple[Any, ...] = ()

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, WorkerPast]:  # fmt: skip
        """Over the prompt and every block, the query turned to where it stands from each."""
        problems, workers = self.shape
        after, own, begins = self.placed
        blocks = cache.write(self.blocks[0], new, cache.write_block, self.at)

        def wide(x: jax.Array) -> jax.Array:
            """What all workers of a problem read, for each of them."""
            return jnp.broadcast_to(x[:, None], (problems, workers, *x.shape[1:])).reshape(-1, *x.shape[1:])

        def over(store: Store, filled: jax.Array, distance: jax.Array) -> cache.Partial:
            """store `[problems, ...]` of `filled` `[problems]` tokens, `distance` `[problems, workers]` off."""
            queries = cache.split_queries(self.turned(q, distance.reshape(-1)), read(new)[0].shape[2])
            store = jax.tree.map(wide, store)
            length = cache.length_of(store)
            visible = wide(jnp.arange(length) < filled[:, None])[:, None]
            visible = jnp.broadcast_to(visible, (q.shape[0], queries.shape[2], length))
            return cache.own_block(queries, store, visible, span, read)

        part = over(self.prompt, self.prompt_length, own)
        for i in range(workers):
            one = jax.tree.map(lambda x, i=i: x.reshape(*self.shape, *x.shape[1:])[:, i], blocks)
            part = cache.merge(part, over(one, after[:, i], own - begins[..., i]))
        y = cache.join_queries(cache.finish(cache.with_lead(part, lead, span)), 1).astype(q.dtype)
        return y, dataclasses.replace(self, blocks=(blocks,))


@dataclass(frozen=True)
class HogwildWorkers(StrategyConfig):
    """Workers on one cache, each of which sees what all others write, as they do; no verifier looks."""

    workers: int
    openings: tuple[str, ...] = ()  # texts that the workers are made to write first, one each, such as their names
    answer: str | None = None  # how an answer is read, such as number:####; None: as the search says

    name = "hogwild"
    tags = Tags("hybrid", ("stimulation",), "threads", ("accuracy", "efficiency"))

    def make(self, setting: Setting | None) -> Strategy:
        """The vote of the workers; see `hogwild`."""
        at = needs(setting, self.name)
        openings = [at.tokens(text, f"{self.name}.openings") for text in self.openings]
        most = at.search.max_tokens
        require(all(len(o) < most for o in openings), f"{self.name}.openings", "leave no room", "raise max_tokens")
        return by_vote(hogwild(self.workers, openings), answer_of(self.answer, setting))

    def sized(self, search: SearchConfig) -> SearchConfig:
        """What a worker writes is one step."""
        return dataclasses.replace(search, delimiters=(), tokens_per_step=None)

    def decoder(self, setting: Setting) -> Decoder:
        """The policy, whose particles read one another."""
        return setting.decoder(kind=WorkersDecoder)
