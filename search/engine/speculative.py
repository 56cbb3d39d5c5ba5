"""Speculative decoding: a cheap drafter guesses a tree of tokens, the model reads all of it in one pass.

`SpeculativeEngine` is the engine with another decoding stage. Rows of a batch keep different numbers of guesses: every
shape is static and masks say what counts. What comes out is distributed exactly as without guesses (see
search.engine.verify); how many passes that takes is in `SpeculativeEngine.speculated`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from models import cache
from models.cache import Blocks, Ints, Layers, Pool
from models.config import ModelConfig
from models.errors import require
from models.transformer import Params
from search.engine import drafters, sampling, stop
from search.engine.config import EngineConfig
from search.engine.decode import RUNNING, Drawn, Prefixes, Rows, lineage_keys, settled, without_moves
from search.engine.drafters import Guess, Node, Table, Tree
from search.engine.engine import Engine
from search.engine.margin import gap_to_flip
from search.engine.precision import computed, running_config, stored_params
from search.engine.sample import Prompt, Sample
from search.engine.sampling import SamplingRows
from search.engine.text_stop import Spelling
from search.engine.tree_pass import chain_path, commit, forward_tree
from search.engine.verify import Verdict, verify_rejection, verify_seeded
from search.ledger import Prices

CATCH_UP = 32  # tokens that the draft model reads at once


@dataclass(frozen=True)
class Speculation:
    """How to guess.

    drafter: "table": n-grams of the sibling samples; "text": what followed the same words earlier in the sample and
        its prompt; "table+text": the text where the table has nothing; "model": a smaller model.
    rule: "seeded": the tokens are those of plain decoding; "rejection": accepts more, and the tokens depend on what
        was guessed, though their distribution does not.
    nodes: tokens that the model reads per row and pass, the last drawn one among them.
    """

    drafter: Literal["table", "text", "table+text", "model"] = "table+text"
    rule: Literal["seeded", "rejection"] = "seeded"
    shape: Literal["tree", "chain"] = "tree"
    nodes: int = 8
    candidates: int = 8  # tokens that a guess may name for one place
    context: int = 4  # longest n-gram
    table_size: int = 2**14  # n-grams that the table holds

    def __post_init__(self) -> None:
        for name in ("candidates", "context", "table_size"):
            value = getattr(self, name)
            require(value >= 1, f"speculation.{name}", f"is {value}", "give a positive integer")
        require(self.nodes >= 2, "speculation.nodes", f"is {self.nodes}", "give 2 or more: the last token and a guess")
        choices = {
            "drafter": ("table", "text", "table+text", "model"),
            "rule": ("seeded", "rejection"),
            "shape": ("tree", "chain"),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            require(value in allowed, f"speculation.{name}", f"is {value!r}", f"use one of {', '.join(allowed)}")


class DraftModel(NamedTuple):
    """A model with the target's vocabulary that guesses, and its parameters."""

    config: ModelConfig
    params: Params


class Memory(NamedTuple):
    """What drafters keep between stages.

    table: of n-grams. blocks: the draft model's cache (empty without one), of which `read` `[slots]` int32 tokens
    count, for the samples `stream` `[slots, 3]` uint32.
    """

    table: Table
    blocks: Blocks
    read: jax.Array
    stream: jax.Array


class Tally(NamedTuple):
    """Per slot `[slots]` int32: passes in which it ran, guesses made, guesses that stood, tokens it kept."""

    calls: Ints
    drafted: Ints
    accepted: Ints
    tokens: Ints


@dataclass
class Speculated:
    """What speculation did so far.

    calls: passes of the target over the batch. row_calls: passes in which a row took part, summed over rows; tokens:
    what they yielded; drafted, accepted: guesses, and those that stood.
    """

    calls: int = 0
    row_calls: int = 0
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def acceptance(self) -> float:
        """Share of the guesses that stood."""
        return self.accepted / max(self.drafted, 1)


class SpeculativeEngine(Engine):
    """The engine, decoding with guesses; `draft` is needed for drafter "model" alone."""

    def __init__(
        self,
        model: ModelConfig,
        params: Params,
        config: EngineConfig,
        speculation: Speculation,
        draft: DraftModel | None = None,
        mesh: Mesh | None = None,
        spelling: Spelling = (),
    ):
        needed = speculation.drafter == "model"
        require(needed == (draft is not None), "speculation.drafter", f"is {speculation.drafter!r}",
                "give a draft model" if needed else "set it to 'model', or give no draft model")  # fmt: skip
        refuse_states(model, "speculation")
        super().__init__(model, params, config, mesh, spelling)
        if draft is not None:
            config.check(draft.config)
            draft = DraftModel(
                running_config(draft.config, config.precision),
                stored_params(running_config(draft.config, config.precision), draft.params),
            )
            require(draft.config.vocab_size == model.vocab_size, "speculation.draft",
                    f"has {draft.config.vocab_size} tokens, the model {model.vocab_size}",
                    "use a draft model with the same tokenizer")  # fmt: skip
            refuse_states(draft.config, "speculation.draft")
            windows = cache.windowed(draft.config)
            require(not windows, "speculation.draft", "has sliding windows", "use a draft model without them")
        problem = "is drawn, and speculation records the model's own"
        require(config.recorded == "model", "engine.recorded", problem, "use 'model', or no speculation")
        self.speculation, self.speculated = speculation, Speculated()
        self.slots.keep_history = True
        self._draft_params = None if draft is None else draft.params
        self._draft_prices = None if draft is None else Prices(draft.config, config.max_len)
        self._memory = empty_memory(speculation, config, model.vocab_size, draft)
        self._tally = Tally(*(np.zeros(config.slots, np.int32) for _ in Tally._fields))
        self._run = make_stage(self.model, config, speculation, None if draft is None else draft.config, self._compiled)
        self.device.use_stage(self._stage)

    def _compiled(self) -> None:
        self.device.compilations += 1

    def _stage(
        self, params: Params, pool: Pool, blocks: Blocks, states: Layers, rows: Rows, settings: SamplingRows,
        prefixes: Prefixes, most: Any, enough: Any,
    ) -> tuple[Blocks, Layers, Rows, Drawn, jax.Array]:  # fmt: skip
        blocks, self._memory, rows, drawn, calls, tally = self._run(
            params, self._draft_params, pool.pages, blocks, self._memory, rows, settings, prefixes, most, enough
        )
        self._tally = jax.device_get(tally)
        total = self.speculated
        total.calls += int(calls)
        total.row_calls += int(self._tally.calls.sum())
        total.tokens += int(self._tally.tokens.sum())
        total.drafted += int(self._tally.drafted.sum())
        total.accepted += int(self._tally.accepted.sum())
        return blocks, states, rows, drawn, calls

    def _charge(self, new: dict[Sample, int], groups: list[tuple[Prompt, list[Sample]]], seconds: float) -> None:
        """The engine's charges, and the FLOPs of guesses that the model read in vain and of the draft model."""
        super()._charge(new, groups, seconds)
        for slot, sample in self.slots.taken:
            if sample not in new:
                continue
            prompt, n = sample.prompt, new[sample]
            context = min(prompt.prefix + len(sample.tokens) + 1, self.config.max_len)
            read = int(self._tally.calls[slot]) * self.speculation.nodes
            flops = max(read - n, 0) * self.prices.decode(context, 1)
            if self._draft_prices is not None:
                flops += (read + n) * self._draft_prices.decode(context, 1)
            sample.flops += flops
            self.ledger.charge(prompt.problem, flops=flops)


def refuse_states(model: ModelConfig, field: str) -> None:
    """ConfigError for a layer that keeps a state: it cannot be taken back to before a guess that did not stand."""
    for i, layer in enumerate(model.layers):
        name = type(layer.mixer).__name__
        problem = f"layer {i} ({name}) keeps a state, which cannot go back behind a guess"
        require(not layer.mixer.block, field, problem, "decode without speculation, or use a model without such layers")


def empty_memory(speculation: Speculation, config: EngineConfig, vocab_size: int, draft: DraftModel | None) -> Memory:
    """What drafters know at first: nothing."""
    size = speculation.table_size if "table" in speculation.drafter else 1
    blocks = () if draft is None else (cache.empty(draft.config, config.slots, config.max_len + CATCH_UP),)
    nobody = jnp.zeros((config.slots, 3), jnp.uint32)
    table = drafters.empty_table(size, min(speculation.candidates, vocab_size))
    return Memory(table, blocks, jnp.zeros(config.slots, jnp.int32), nobody)


def make_stage(
    config: ModelConfig,
    engine: EngineConfig,
    speculation: Speculation,
    draft: ModelConfig | None,
    count: Callable[[], None],
) -> Callable[..., tuple[Blocks, Memory, Rows, Drawn, jax.Array, Tally]]:
    """The compiled stage: (params, draft params, pages, blocks, memory, rows, settings, prefixes, most, enough) ->
    (blocks, memory, rows, drawn, passes, tally).

    A row stops after `most` tokens, and all do when `enough` rows or fewer are running. Blocks and memory are donated.
    """
    gaps = engine.precision == "layercast"

    def stage(
        params: Params, draft_params: Params | None, pages: Layers, blocks: Blocks, memory: Memory, rows: Rows,
        settings: SamplingRows, prefixes: Prefixes, most: jax.Array, enough: jax.Array,
    ) -> tuple[Blocks, Memory, Rows, Drawn, jax.Array, Tally]:  # fmt: skip
        count()
        params = computed(config, params)
        draft_params = computed(draft, draft_params) if draft and draft_params else None
        rows = jax.tree.map(jnp.asarray, rows)
        keys, before = lineage_keys(rows.stream), rows.length
        slots, width = rows.token.shape[0], engine.stage_tokens
        same = (memory.stream == rows.stream).all(-1) & (memory.read <= rows.start + rows.length)
        memory = memory._replace(read=jnp.where(same, memory.read, 0), stream=rows.stream)
        drawn = Drawn(
            jnp.full((slots, width), -1, jnp.int32), jnp.zeros((slots, width)), jnp.full((slots, width), jnp.inf)
        )
        tally = Tally(*(jnp.zeros(slots, jnp.int32) for _ in Tally._fields))

        def live_of(rows: Rows) -> jax.Array:
            return (rows.reason == RUNNING) & (rows.length - before < most)

        def going(carry: tuple) -> jax.Array:
            rows = carry[3]
            return live_of(rows).any() & ((rows.reason == RUNNING).sum() > enough)

        def one_pass(carry: tuple) -> tuple:
            i, blocks, memory, rows, drawn, tally = carry
            live = live_of(rows)
            tree, memory, guessed = _guess(speculation, draft, draft_params, memory, rows, settings, keys, live)
            scores, nodes = forward_tree(
                config, params, blocks, tree.token, rows.origin, rows.own, tree.depth, tree.path,
                pages=pages, prefixes=prefixes,
            )  # fmt: skip
            judged = _judge(speculation, tree, scores, rows, settings, keys, gaps, engine.ends)
            verdict, target, logprobs, gap = judged
            blocks = commit(blocks, nodes, verdict.path, verdict.accepted + 1, rows.own)
            if "table" in speculation.drafter:
                memory = memory._replace(table=_learn(speculation, memory.table, tree, verdict, target, rows, live))
            old = rows
            rows, drawn = _emit(engine, tree, verdict, rows, drawn, logprobs, gap, before, most, live)
            if guessed is not None:  # the draft model has read what it guessed
                position = old.start + old.length
                known = commit(memory.blocks, guessed, verdict.path, verdict.accepted + 1, position)
                memory = memory._replace(blocks=known, read=jnp.where(live, rows.start + rows.length, memory.read))
            return i + 1, blocks, memory, rows, drawn, _counted(tally, tree, verdict, rows.length - old.length, live)

        i, blocks, memory, rows, drawn, tally = jax.lax.while_loop(
            going, one_pass, (jnp.int32(0), blocks, memory, rows, drawn, tally)
        )
        return blocks, memory, without_moves(rows), drawn, i, tally

    return jax.jit(stage, donate_argnums=(3, 4))


# -- one pass -------------------------------------------------------------------------------------------------------


def _guess(
    speculation: Speculation, draft: ModelConfig | None, draft_params: Params | None, memory: Memory, rows: Rows,
    settings: SamplingRows, keys: jax.Array, live: jax.Array,
) -> tuple[Tree, Memory, Layers | None]:  # fmt: skip
    """The tree of this pass, its root each row's last token, and the draft model's keys and values of its nodes."""
    position = rows.start + rows.length  # of the root
    window = stop.last_tokens(rows.history, position + 1, speculation.context)
    drafting = None
    if speculation.rule == "rejection":
        drafting = sampling.step_keys(sampling.step_keys(keys, rows.length), jnp.full_like(rows.length, 1))
    branch, nodes = speculation.shape == "tree", None
    if draft is None or draft_params is None:
        stream = rows.stream[:, :2]

        def expand(state: None, node: Node) -> tuple[None, Guess]:
            known = drafters.look_up(memory.table, stream, node.window)
            if speculation.drafter == "table":
                return state, known
            found = drafters.find(rows.history, position + 1, node.window)
            return state, drafters.either(known, found) if speculation.drafter == "table+text" else found

        tree, _ = drafters.grow(expand, None, rows.token, window, speculation.nodes, branch=branch, keys=drafting)
    else:
        memory = _catch_up(draft, draft_params, memory, rows.history, jnp.where(live, position, 0))
        ask = _model_expand(speculation, draft, draft_params, memory, position, rows, settings, keys)
        nodes = cache.empty(draft, len(position), speculation.nodes)
        tree, nodes = drafters.grow(ask, nodes, rows.token, window, speculation.nodes, branch=branch, keys=drafting)
    return tree._replace(parent=jnp.where(live[:, None], tree.parent, -1)), memory, nodes


def _model_expand(
    speculation: Speculation, draft: ModelConfig, params: Params, memory: Memory, position: jax.Array, rows: Rows,
    settings: SamplingRows, keys: jax.Array,
) -> drafters.Expand:  # fmt: skip
    """The draft model as a drafter; its state is the keys and values of the tree's nodes."""
    plain = dataclasses.replace(settings, filters=dataclasses.replace(settings.filters, repetition=False))

    def expand(nodes: Layers, node: Node) -> tuple[Layers, Guess]:
        scores, nodes = forward_tree(
            draft, params, memory.blocks, node.token[:, None], jnp.zeros_like(position), position,
            node.depth[:, None], node.path[:, None], nodes=nodes, place=node.place,
        )  # fmt: skip
        probability = sampling.distribution(scores[:, 0], plain)
        first = None
        if speculation.rule == "seeded":  # what the target would draw here if it thought as the draft model does
            first = sampling.draw(sampling.step_keys(keys, rows.length + node.depth), scores[:, 0], plain).token
        return nodes, drafters.most_probable(probability, max(speculation.candidates, 256), first)

    return expand


def _catch_up(draft: ModelConfig, params: Params, memory: Memory, history: jax.Array, position: jax.Array) -> Memory:
    """The draft model's cache with all tokens before `position` `[slots]` in it."""
    slots = len(position)
    depth, path = chain_path(slots, CATCH_UP)
    each = jnp.broadcast_to(jnp.arange(CATCH_UP), (slots, CATCH_UP))

    def behind(memory: Memory) -> jax.Array:
        return (memory.read < position).any()

    def read(memory: Memory) -> Memory:
        at = jnp.minimum(memory.read[:, None] + each, history.shape[1] - 1)
        tokens = jnp.maximum(jnp.take_along_axis(history, at, axis=1), 0)
        _, nodes = forward_tree(
            draft, params, memory.blocks, tokens, jnp.zeros(slots, jnp.int32), memory.read, depth, path
        )
        count = jnp.clip(position - memory.read, 0, CATCH_UP)
        blocks = commit(memory.blocks, nodes, each, count, memory.read)
        return memory._replace(blocks=blocks, read=memory.read + count)

    return jax.lax.while_loop(behind, read, memory)


def _judge(
    speculation: Speculation, tree: Tree, scores: jax.Array, rows: Rows, settings: SamplingRows, keys: jax.Array,
    gaps: bool, ends: tuple[int, ...],
) -> tuple[Verdict, jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """(the verdict, the target's filtered distribution at every node, log-probabilities and gaps of what it emits)."""
    slots, nodes, vocab = scores.shape
    each = settings.take(jnp.repeat(jnp.arange(slots), nodes))
    flat = scores.reshape(-1, vocab)
    history = None
    if settings.filters.repetition:
        below_root = tree.path & (jnp.arange(nodes) > 0)
        above = jnp.where(below_root, tree.token[:, None, :], -1)
        seen = jnp.broadcast_to(rows.history[:, None], (slots, nodes, rows.history.shape[1]))
        history = jnp.concatenate([seen, above], axis=-1).reshape(slots * nodes, -1)
    step = rows.length[:, None] + tree.depth
    each = sampling.bar(each, ends, step.reshape(-1) < jnp.repeat(rows.least, nodes))
    forced = sampling.forced_at(each, step.reshape(-1))
    target = jnp.zeros((slots, nodes, 0))
    if "table" in speculation.drafter or speculation.rule == "rejection":
        target = sampling.distribution(flat, each, history=history)
        target = jnp.where(forced[:, None] < 0, target, jax.nn.one_hot(forced, vocab)).reshape(slots, nodes, vocab)
    gap = jnp.full((slots, nodes), jnp.inf)
    if speculation.rule == "rejection":
        second = sampling.step_keys(sampling.step_keys(keys, rows.length), jnp.full_like(rows.length, 2))
        verdict = verify_rejection(second, target, tree)
    else:
        own = jax.vmap(sampling.step_keys, (None, 1), 1)(keys, step).reshape(-1, 2)
        drawn = sampling.draw(own, flat, each, history=history, forced=forced)
        verdict = verify_seeded(drawn.token.reshape(slots, nodes), tree)
        if gaps:
            unseen = jnp.zeros((slots * nodes, 0), jnp.int32)
            gap = gap_to_flip(own, flat, each, unseen if history is None else history, forced, drawn.token)
            gap = jnp.take_along_axis(gap.reshape(slots, nodes), verdict.path, axis=1)
    emitted = jnp.maximum(verdict.emitted(tree), 0)
    after = jnp.take_along_axis(scores, verdict.path[..., None], axis=1)
    chosen = jnp.take_along_axis(after, emitted[..., None], axis=-1)[..., 0]
    return verdict, target, chosen - jax.nn.logsumexp(after, axis=-1), gap


def _learn(
    speculation: Speculation, table: Table, tree: Tree, verdict: Verdict, target: jax.Array, rows: Rows, live: jax.Array
) -> Table:
    """The table with what the target said after every token of the path."""
    slots, nodes = tree.token.shape
    window = stop.last_tokens(rows.history, rows.start + rows.length + 1, speculation.context)
    emitted, windows = verdict.emitted(tree), [window]
    for i in range(nodes - 1):
        windows.append(stop.push(windows[-1], emitted[:, i]))
    use = live[:, None] & (jnp.arange(nodes) <= verdict.accepted[:, None])
    said = jnp.take_along_axis(target, verdict.path[..., None], axis=1)
    stream = jnp.repeat(rows.stream[:, :2], nodes, axis=0)
    flat = jnp.stack(windows, 1).reshape(slots * nodes, -1)
    return drafters.learn(table, stream, flat, said.reshape(slots * nodes, -1), use.reshape(-1))


def _counted(tally: Tally, tree: Tree, verdict: Verdict, kept: jax.Array, live: jax.Array) -> Tally:
    """The tally after a pass of the `live` rows that kept so many tokens, `[slots]`."""
    return Tally(
        tally.calls + live, tally.drafted + jnp.where(live, tree.drafted, 0),
        tally.accepted + jnp.where(live, jnp.minimum(verdict.accepted, kept), 0), tally.tokens + kept,
    )  # fmt: skip


def _emit(
    engine: EngineConfig, tree: Tree, verdict: Verdict, rows: Rows, drawn: Drawn, logprobs: jax.Array, gap: jax.Array,
    before: jax.Array, most: jax.Array, live: jax.Array,
) -> tuple[Rows, Drawn]:  # fmt: skip
    """Rows and what was drawn after the tokens of this pass, one by one: a row may end at any of them."""
    emitted = verdict.emitted(tree)
    each = jnp.arange(len(live))

    def body(i: jax.Array, carry: tuple[Rows, Drawn]) -> tuple[Rows, Drawn]:
        rows, drawn = carry
        done = rows.length - before
        going = live & (rows.reason == RUNNING) & (i <= verdict.accepted) & (done < most)
        place = jnp.where(going, done, drawn.tokens.shape[1])
        new = (emitted[:, i], logprobs[:, i], gap[:, i])
        drawn = Drawn(*(d.at[each, place].set(x, mode="drop") for d, x in zip(drawn, new)))
        return settled(rows, emitted[:, i], going, engine.ends), drawn

    return jax.lax.fori_loop(0, emitted.shape[1], body, (rows, drawn))
