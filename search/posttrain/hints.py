"""Hints: traces that work things out become traces that ask a tool, where a hint to do so is put in.

So a few examples of tool use come from a policy's own way of thinking (CoRT, Li et al. 2025, arXiv:2506.09820, "hint
engineering"); rejection sampling and reinforcement go on from there.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from models.errors import require
from scaling.tasks.environment import Environment
from scaling.tasks.task import Problem


class Part(NamedTuple):
    """A piece of a completion; own: whether the policy wrote it, and not its environment."""

    text: str
    own: bool


class Worked(Protocol):
    """text[start:stop] works something out; `asked` is what would have a tool do it."""

    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def asked(self) -> str: ...


def with_calls(
    environment: Environment, problem: Problem, text: str, spans: Sequence[Worked]
) -> tuple[Part, ...] | None:
    """`text` with a call and its reply in the place of each of `spans`, which are in order and apart.

    The environment hears what it would have heard in an episode (search.posttrain.episodes). None where a reply is an
    error or not what the span came to (its end): then what follows would not follow from it.
    """
    apart = all(a.stop <= b.start for a, b in itertools.pairwise(spans))
    require(apart, "spans", "overlap, or are out of order", "give parts that are apart, in order")
    parts: list[Part] = []
    state, at = environment.reset(problem), 0
    for span in spans:
        written = text[at : span.start] + span.asked
        reply = environment.step(state, written)
        if reply.failed or reply.done or not text[at : span.stop].endswith(reply.shown):
            return None
        parts += [Part(written, True), Part(reply.shown, False)]
        state, at = reply.state, span.stop
    return (*parts, Part(text[at:], True))
