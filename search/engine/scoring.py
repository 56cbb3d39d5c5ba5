"""Scoring: the log-probabilities of given tokens after samples that wait, read in packed chunks like prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from models.errors import ConfigError, require
from search.engine.engine import Engine
from search.engine.pages import OutOfPages, Page
from search.engine.prefill import Region, Segment, tile_room
from search.engine.sample import Sample
from search.engine.sampling import Sampling


@dataclass(eq=False)
class _Reading:
    """One continuation being read: `pages` hold the sample's own tokens, copies of what is not whole, and new ones."""

    sample: Sample
    tokens: tuple[int, ...]
    pages: list[Page]
    whole: int  # pages shared with the sample
    done: int = 0
    logprobs: list[float] = field(default_factory=list)


def score(
    engine: Engine, pairs: Sequence[tuple[Sample, Sequence[int]]], keep: bool = False, verifier: bool = False
) -> list[tuple[float, ...]]:
    """Log-probabilities, in nats, of each sample's continuation, token by token.

    The samples wait (they are fresh, or came back in `paused`). keep: the samples go on after these tokens; else they
    stay as they are. verifier: charge the tokens to the ledger as verifier tokens, not as prompt tokens. One sample may
    come several times unless `keep`.
    """
    readings = []
    for sample, tokens in pairs:
        room = engine.config.max_len - len(sample.prompt.tokens) - len(sample.tokens)
        require(len(tokens) > 0, "continuation", "is empty", "give at least one token")
        require(len(tokens) <= room, "continuation", f"{len(tokens)} tokens do not fit", f"give at most {room}")
        bad = [t for t in tokens if not 0 <= t < engine.model.vocab_size]
        require(not bad, "continuation", f"holds unknown tokens {bad[:5]}", f"use 0 to {engine.model.vocab_size - 1}")
        readings.append(_Reading(sample, tuple(tokens), [], sample.own // engine.config.page_size))
    engine.ensure_read([reading.sample.prompt for reading in readings])
    for reading in readings:
        engine.scheduler.adopt(reading.sample)
    unread = list(readings)
    while unread:
        batch = _batch(engine, unread)
        for reading, _ in batch:
            if reading.done == len(reading.tokens):
                unread.remove(reading)
        _read(engine, batch, verifier)
        for reading, _ in batch:
            if reading.done == len(reading.tokens):
                _finish(engine, reading, keep)
    return [tuple(reading.logprobs) for reading in readings]


def score_prompt(engine: Engine, problem: int, tokens: Sequence[int]) -> tuple[float | None, ...]:
    """Log-probabilities, in nats, of a prompt's own tokens, each after those before it; of the first there is none."""
    if len(tokens) < 2:
        return (None,)
    prompt = engine.prompt(problem, tokens[:1], 1)
    try:
        return (None, *score(engine, [(Sample(prompt, 0, 0, Sampling(), (), 1), tokens[1:])])[0])
    finally:
        engine.close(prompt)


def _batch(engine: Engine, unread: list[_Reading]) -> list[tuple[_Reading, Segment]]:
    """As much of the readings, in order, as one chunk holds; everything it needs pinned once per reading."""
    config = engine.config
    tokens, tiles = config.prefill_chunk, tile_room(config.max_len, config.prefill_chunk, config.page_size)
    batch: list[tuple[_Reading, Segment]] = []
    for reading in unread:
        if not tokens:
            break
        prompt, sample = reading.sample.prompt, reading.sample
        try:
            _claim(engine, reading)
        except OutOfPages:
            if batch:
                break
            fix = "raise engine.pages, or finish other samples first"
            raise ConfigError("engine.pages", f"{config.page_count} are too few to score a sample", fix) from None
        own = Region(prompt.prefix - sample.begin, engine.pool.places(reading.pages))
        regions = (Region(0, engine.pool.places(prompt.pages)), own) if prompt.wide else (own,)
        start = prompt.prefix + len(sample.tokens) + reading.done
        n = min(engine.layout.most(start, tokens), len(reading.tokens) - reading.done)
        inputs = (sample.newest, *reading.tokens)[reading.done : reading.done + n]
        segment = Segment(inputs, start, regions, reading.tokens[reading.done : reading.done + n])
        needed = len(segment.tiles(config.page_size))
        if batch and (needed > tiles or not n):
            engine.pool.unpin([*prompt.pages, *reading.pages])
            break
        reading.done += n
        batch.append((reading, segment))
        tokens, tiles = tokens - engine.layout.takes(start, n), tiles - needed
    return batch


def _claim(engine: Engine, reading: _Reading) -> None:
    """Pin what a reading needs, making its pages the first time; OutOfPages leaves nothing pinned."""
    pool, size, sample = engine.pool, engine.config.page_size, reading.sample
    pool.pin(sample.prompt.pages)
    try:
        if reading.pages:
            pool.pin(reading.pages)
            return
        pool.pin(sample.pages)
        try:
            total = -(-(sample.own + len(reading.tokens)) // size)
            new = pool.allocate(total - reading.whole)
        except OutOfPages:
            pool.unpin(sample.pages)
            raise
        if len(sample.pages) > reading.whole:  # a page that is not full yet belongs to the sample as it is
            engine.device.copy(*pool.places([sample.pages[reading.whole], new[0]]))
        pool.unpin(sample.pages[reading.whole :])
        reading.pages = sample.pages[: reading.whole] + new
        pool.hold(sample.pages[: reading.whole])
    except OutOfPages:
        pool.unpin(sample.prompt.pages)
        raise


def _read(engine: Engine, batch: list[tuple[_Reading, Segment]], verifier: bool) -> None:
    """Read one chunk and charge it."""
    before = engine.statistics.prefill_seconds
    logprobs = engine.read([segment for _, segment in batch], score=True).tolist()
    seconds = engine.statistics.prefill_seconds - before
    at, kind = 0, "verifier_tokens" if verifier else "prompt_tokens"
    for reading, segment in batch:
        n = len(segment.tokens)
        reading.logprobs += logprobs[at : at + n]
        flops = engine.prices.prefill(segment.start, segment.start + n, scored=n)
        share = seconds * n / len(logprobs)
        prompt = reading.sample.prompt
        moved = n * engine.prices.cache_bytes + engine.prices.state_bytes
        engine.ledger.charge(prompt.problem, flops=flops, bytes=moved, seconds=share, **{kind: n})
        for page in reading.pages[reading.whole :]:
            engine.pool.written(page)
        engine.pool.unpin([*prompt.pages, *reading.pages])
        at += n


def _finish(engine: Engine, reading: _Reading, keep: bool) -> None:
    """Give the pages back, or to the sample."""
    sample = reading.sample
    if not keep:
        engine.pool.release(reading.pages)
        return
    engine.pool.release(sample.pages)
    sample.pages = reading.pages
    sample.tokens += reading.tokens
    sample.logprobs += reading.logprobs
    sample.gaps += [float("inf")] * len(reading.tokens)
    sample.stored = sample.own
