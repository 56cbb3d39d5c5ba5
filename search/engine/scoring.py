"""Scoring: the log-probabilities of a prompt's own tokens, read in chunks like those of any prompt."""

from __future__ import annotations

from collections.abc import Sequence

from models.errors import ConfigError
from search.engine.engine import Engine
from search.engine.pages import OutOfPages
from search.engine.prefill import Region, Segment


def score_prompt(engine: Engine, problem: int, tokens: Sequence[int]) -> tuple[float | None, ...]:
    """Log-probabilities, in nats, of a prompt's own tokens, each after those before it; of the first there is none.

    Raises ConfigError where the samples that run leave too few pages.
    """
    inputs, found = tuple(tokens[:-1]), list[float | None]([None])
    try:
        pages = engine.pool.allocate(-(-len(inputs) // engine.config.page_size))
    except OutOfPages:
        told = f"{engine.config.page_count} are too few to score a prompt"
        raise ConfigError("engine.pages", told, "raise engine.pages") from None
    region = Region(0, engine.pool.places(pages))
    while len(found) <= len(inputs):
        start, before = len(found) - 1, engine.statistics.prefill_seconds
        n = min(engine.layout.most(start, engine.config.prefill_chunk), len(inputs) - start)
        segment = Segment(inputs[start : start + n], start, (region,), tokens[start + 1 : start + 1 + n])
        found += engine.read([segment], score=True).tolist()
        engine.ledger.charge(
            problem, prompt_tokens=n, flops=engine.prices.prefill(start, start + n, scored=n),
            bytes=n * engine.prices.cache_bytes + engine.prices.state_bytes,
            seconds=engine.statistics.prefill_seconds - before,
        )  # fmt: skip
    engine.pool.unpin(pages)
    engine.pool.release(pages)
    return tuple(found)
