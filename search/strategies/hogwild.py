"""Workers on one cache (Hogwild! Inference, Rodionov et al. 2025): each sees what all others write, as they do.

The cache is the prompt and one block per worker, with keys at positions local to their block. To a worker the text is
[prompt | the other workers' blocks in order | its own], so that its own thoughts always come last ("contiguous" in the
paper). Rotary scores depend on distances alone: instead of moving keys, the query is rotated once per block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from models import cache, counts
from models.cache import Layers, Store
from models.config import ModelConfig
from models.context import Lead
from models.errors import require
from models.mixers.attention import Attention
from models.past import Arrays, Past, Read, keys_and_values
from models.positions import rotary_angles, rotate
from models.rotary import Rotary
from models.span import Span
from models.transformer import Params, forward, logits
from search.decoder import Context, TransformerDecoder
from search.engine import sampling
from search.engine.config import Precision
from search.engine.decode import lineage_keys
from search.engine.precision import computed
from search.engine.sampling import Sampling
from search.ledger import Cost
from search.searcher import SearchProblem


class Worked(NamedTuple):
    """What every worker wrote, whether it wrote an end, and what all of it cost."""

    texts: tuple[tuple[int, ...], ...]
    complete: tuple[bool, ...]
    cost: Cost


class _Going(NamedTuple):
    """blocks `[workers, kv_heads, max_tokens, head_dim]` per layer; tokens `[workers, max_tokens]`; length, live
    `[workers]`; scores `[workers, vocab]`: what follows; contexts, steps, together: the counts behind the ledger."""

    blocks: Layers
    tokens: jax.Array
    length: jax.Array
    live: jax.Array
    scores: jax.Array
    contexts: jax.Array
    steps: jax.Array
    together: jax.Array


class Hogwild:
    """`workers` workers on one cache, a token each at a time, until all have written an end or max_tokens.

    A worker sees the tokens that the others append in the same step. Random numbers are those of a search: worker w
    of a problem draws as the sample w of best-of-N would. openings: tokens that each worker is made to write first,
    such as its name. One problem at a time; no scorer, and budgets are max_tokens per worker.
    """

    def __init__(
        self,
        model: ModelConfig,
        params: Params,
        prompt_len: int,
        max_tokens: int,
        workers: int,
        *,
        ends: Sequence[int] = (),
        openings: Sequence[Sequence[int]] = (),
        settings: Sampling | None = None,
        seed: int = 0,
        precision: Precision = "float32",
    ):
        c = model
        require(workers >= 1, "workers", f"is {workers}", "give 1 or more")
        fix = "use rotary positions without scaling or windows"
        mixers = [layer.mixer for layer in c.layers]
        rotated = all(isinstance(mixer, Attention) and _rotary(c, mixer) for mixer in mixers)
        require(rotated, "model.positions", "cannot be rotated per block", fix)
        windows = any(getattr(mixer, "window", None) is not None for mixer in mixers)
        require(not windows, "model.sliding_window", "is not told apart by blocks", fix)
        require(not openings or len(openings) == workers, "openings", f"are {len(openings)}", f"give {workers}")
        require(all(len(o) < max_tokens for o in openings), "openings", "leave no room", "raise max_tokens")
        self.decoder = TransformerDecoder(model, params, prompt_len, precision)
        self.config, self.workers, self.max_tokens, self.seed = self.decoder.config, workers, max_tokens, seed
        self._end = jnp.isin(jnp.arange(model.vocab_size), jnp.asarray(tuple(ends) or (-1,)))
        self._settings = sampling.stack_rows([settings or Sampling()] * workers, model.vocab_size)
        self._openings = np.full((workers, max([1, *map(len, openings)])), -1, np.int32)
        for worker, opening in enumerate(openings):
            self._openings[worker, : len(opening)] = opening
        self._program = jax.jit(self._run)

    def run(self, problem: SearchProblem) -> Worked:
        """All workers on one problem. Raises ConfigError for a prompt that does not fit."""
        prompt = self.decoder.encode(problem.prompt)
        done = jax.device_get(self._program(self.decoder.params, prompt, np.uint32(problem.number)))
        texts = tuple(tuple(int(t) for t in row[:n]) for row, n in zip(done.tokens, done.length))
        complete = tuple(bool(text) and bool(self._end[text[-1]]) for text in texts)
        length, written = int(prompt[-1]), int(done.length.sum())
        forced = sum(min(int((row >= 0).sum()), len(text)) for row, text in zip(self._openings, texts))
        flops, size = self.decoder.price("flops"), counts.kv_cache_bytes_per_token(self.config)
        keys = int(done.contexts) + length * (length + 1) // 2
        cost = Cost(
            prompt_tokens=length + forced,
            generated_tokens=written - forced,
            flops=round(flops.fixed * (written + length) + flops.per_context * keys),
            bytes=size * (int(done.together) + written),
            depth=int(done.steps),
        )
        return Worked(texts, complete, cost)

    def _run(self, params: Any, prompt: Any, problem: jax.Array) -> _Going:
        context = self.decoder.admit(params, self.decoder.contexts(1), jnp.int32(0), prompt)
        w, zero = self.workers, jnp.int32(0)
        streams = jnp.stack(
            [jnp.full(w, self.seed, jnp.uint32), jnp.full(w, problem), jnp.arange(w, dtype=jnp.uint32)], -1
        )
        going = _Going(
            blocks=cache.empty(self.config, w, self.max_tokens),
            tokens=jnp.full((w, self.max_tokens), -1, jnp.int32),
            length=jnp.zeros(w, jnp.int32),
            live=jnp.ones(w, bool),
            scores=jnp.broadcast_to(context.outputs.logits, (w, self.config.vocab_size)),
            contexts=zero,
            steps=zero,
            together=zero,
        )
        step = partial(self._step, params, context, lineage_keys(streams))
        return jax.lax.while_loop(lambda g: g.live.any(), step, going)

    def _step(self, params: Any, context: Context, keys: jax.Array, going: _Going) -> _Going:
        """One token of every live worker."""
        length, live = going.length, going.live
        drawn = sampling.draw(sampling.step_keys(keys, length), going.scores, self._settings).token
        opening = jnp.asarray(self._openings)
        at = jnp.minimum(length, opening.shape[1] - 1)[:, None]
        forced = jnp.where(length < opening.shape[1], jnp.take_along_axis(opening, at, 1)[:, 0], -1)
        token = jnp.where(forced >= 0, forced, drawn)
        here = (jnp.arange(self.max_tokens) == length[:, None]) & live[:, None]
        after = length + live
        scores, blocks = self._forward(params, context, going.blocks, jnp.where(live, token, 0), length, after)
        seen = context.length[0] + after.sum()
        return _Going(
            blocks=blocks,
            tokens=jnp.where(here, token[:, None], going.tokens),
            length=after,
            live=live & ~self._end[token] & (after < self.max_tokens),
            scores=scores,
            contexts=going.contexts + seen * live.sum(),
            steps=going.steps + 1,
            together=going.together + seen,
        )

    def _forward(
        self, params: Any, context: Context, blocks: Layers, tokens: jax.Array, length: jax.Array, after: jax.Array
    ) -> tuple[jax.Array, Layers]:
        """What follows one token of every worker; length, after `[workers]`: tokens in each block before and now."""
        c, w = self.config, self.workers
        weights = computed(c, params[0])
        # A worker that has ended writes nowhere.
        place = jnp.where(after > length, length, self.max_tokens)[:, None]
        others = (1 - jnp.eye(w, dtype=jnp.int32)) * after  # [worker, block]: tokens that come before its own block
        own = context.length[0] + others.sum(-1)  # where each worker's own block begins for it
        begins = context.length[0] + jnp.cumsum(others, axis=-1) - others
        begins = jnp.where(jnp.eye(w, dtype=bool), own[:, None], begins)
        shared = place, after, own, begins, context.length[0]
        pasts = [
            WorkerPast(length[:, None], prompt, kept, _turn(c, layer.mixer), *shared)
            for layer, prompt, kept in zip(c.layers, context.layers, blocks)
        ]
        output = forward(c, weights, tokens[:, None], length[:, None], pasts=pasts)
        written = tuple(past.blocks for past in cast(tuple[WorkerPast, ...], output.pasts))
        return logits(c, output.hidden, output.head)[:, 0], written


def _rotary(config: ModelConfig, mixer: Attention) -> Rotary | None:
    """How a layer rotates, if it does and without scaling."""
    rotary = mixer.resolved(config.stream).rotary
    return rotary if rotary is not None and rotary.share and rotary.scaling is None else None


def _turn(config: ModelConfig, mixer: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A layer's function that moves queries `[workers, 1, heads, head_dim]` further from a block's keys, each by its
    `distance` `[workers]`."""
    rotary = _rotary(config, mixer)
    assert rotary

    def turned(q: jax.Array, distance: jax.Array) -> jax.Array:
        angles = rotary_angles(distance[:, None], rotary.dims(q.shape[-1]), rotary.theta)
        return rotate(q, *angles, interleaved=rotary.interleaved)

    return turned


@dataclass(frozen=True)
class WorkerPast(Past):
    """One layer of all workers: the prompt, and a block for each, which every worker reads.

    prompt `[1, heads, prompt_len, ...]` of `filled` tokens, blocks `[workers, heads, max_tokens, ...]` of `after`
    tokens each; place `[workers, 1]`: where each writes; own, begins: positions, for each worker, of its own block and
    `[worker, block]` of all blocks.
    """

    positions: jax.Array
    prompt: Store
    blocks: Store
    turned: Callable[[jax.Array, jax.Array], jax.Array]
    place: jax.Array
    after: jax.Array
    own: jax.Array
    begins: jax.Array
    filled: jax.Array

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, WorkerPast]:  # fmt: skip
        """Over the prompt and every block, the query turned to where it stands from each."""
        workers = q.shape[0]
        blocks = cache.write(self.blocks, new, cache.write_block, self.place)

        def over(store: Store, filled: jax.Array, distance: jax.Array) -> cache.Partial:
            queries = cache.split_queries(self.turned(q, distance), read(new)[0].shape[2])
            wide = {name: jnp.broadcast_to(x, (workers, *x.shape)) for name, x in store.items()}
            length = cache.length_of(wide)
            visible = jnp.broadcast_to(jnp.arange(length) < filled, (workers, queries.shape[2], length))
            return cache.own_block(queries, wide, visible, span, read)

        part = over({name: x[0] for name, x in self.prompt.items()}, self.filled, self.own)
        for i in range(workers):
            one = {name: x[i] for name, x in blocks.items()}
            part = cache.merge(part, over(one, self.after[i], self.own - self.begins[:, i]))
        y = cache.join_queries(cache.finish(cache.with_lead(part, lead, span)), 1).astype(q.dtype)
        return y, dataclasses.replace(self, blocks=blocks)
