"""Workers on one cache (Hogwild! Inference, Rodionov et al. 2025): each sees what all others write, as they do.

The cache is the prompt and one block per worker, with keys at positions local to their block. To a worker the text is
[prompt | the other workers' blocks in order | its own], so that its own thoughts always come last ("contiguous" in the
paper). Rotary scores depend on distances alone: instead of moving keys, the query is rotated once per block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models import cache, counts
from models.attention import attention_scale
from models.cache import Layers, Limits
from models.config import ModelConfig
from models.errors import require
from models.positions import rotary_angles, rotate
from models.transformer import Params, hidden_and_head, logits
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
        require(c.positions == "rope" and c.rope_scaling is None, "model.positions", "cannot be rotated per block", fix)
        require(c.sliding_window is None, "model.sliding_window", "is not told apart by blocks", fix)
        require(not openings or len(openings) == workers, "openings", f"are {len(openings)}", f"give {workers}")
        require(all(len(o) < max_tokens for o in openings), "openings", "leave no room", "raise max_tokens")
        self.decoder = TransformerDecoder(model, params, prompt_len, precision)
        self.config, self.workers, self.max_tokens, self.seed = self.decoder.config, workers, max_tokens, seed
        self._end = jnp.isin(jnp.arange(model.vocab_size), jnp.asarray(tuple(ends) or (-1,)))
        self._settings = sampling.stack_rows([settings or Sampling()] * workers, model.vocab_size)
        self._openings = np.full((workers, max([1, *map(len, openings)])), -1, np.int32)
        for worker, opening in enumerate(openings):
            self._openings[worker, : len(opening)] = opening
        self._limits = Limits(attention_scale(self.config))
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
        held = [blocks]
        # A worker that has ended writes nowhere.
        place = jnp.where(after > length, length, self.max_tokens)[:, None]
        others = (1 - jnp.eye(w, dtype=jnp.int32)) * after  # [worker, block]: tokens that come before its own block
        own = context.length[0] + others.sum(-1)  # where each worker's own block begins for it
        begins = context.length[0] + jnp.cumsum(others, axis=-1) - others
        begins = jnp.where(jnp.eye(w, dtype=bool), own[:, None], begins)
        assert c.head_dim
        dim = int(c.head_dim * c.partial_rotary_factor)

        def turned(q: jax.Array, distance: jax.Array) -> jax.Array:
            """Queries `[workers, 1, heads, head_dim]` that stand `distance` `[workers]` further from a block's keys."""
            return rotate(q, *rotary_angles(distance[:, None], dim, c.rope_theta))

        def attend(layer: int, q: jax.Array, k: jax.Array, v: jax.Array, **limits: Any) -> jax.Array:
            keys = cache.write_block(held[0].k[layer], k, place)
            values = cache.write_block(held[0].v[layer], v, place)
            held[0] = held[0].replace(layer, keys, values)
            limit = self._limits._replace(**limits)

            def over(block_k: jax.Array, block_v: jax.Array, filled: jax.Array, distance: jax.Array) -> cache.Partial:
                queries = cache.split_queries(turned(q, distance), k.shape[2])
                visible = jnp.broadcast_to(
                    jnp.arange(block_k.shape[1]) < filled, (w, queries.shape[2], block_k.shape[1])
                )
                wide = [jnp.broadcast_to(x, (w, *x.shape)) for x in (block_k, block_v)]
                return cache.own_block(queries, wide[0], wide[1], visible, limit)

            layers = context.layers
            part = over(layers.k[layer][0], layers.v[layer][0], context.length[0], own)
            for block in range(w):
                part = cache.merge(part, over(keys[block], values[block], after[block], own - begins[:, block]))
            return cache.join_queries(cache.finish(part), 1).astype(q.dtype)

        attends = [partial(attend, layer) for layer in range(c.n_layers)]
        hidden, table = hidden_and_head(c, weights, tokens[:, None], length[:, None], None, attends)
        return logits(c, hidden, table)[:, 0], held[0]
