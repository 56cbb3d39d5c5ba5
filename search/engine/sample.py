"""Sample and Prompt: one generation in progress, and the prompt that several of them share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from models.errors import ConfigError
from search.engine.pages import Page
from search.engine.sampling import Sampling


@dataclass(eq=False)
class Prompt:
    """A prompt whose cache is stored once, and its samples.

    All tokens but the last are the prefix, kept in `pages`; the last one is every sample's first input. filled: tokens
    of the prefix that are computed. lanes: how many samples read the prefix in one product; 0: each has a copy in its
    own cache.
    fresh: samples that have not begun; parked: samples that wait to go on; running: in slots now; done: ended, for
    whoever asked for them. fault: why its samples cannot go on.
    """

    problem: int
    tokens: tuple[int, ...]
    lanes: int
    pages: list[Page] = field(default_factory=list)
    filled: int = 0
    found: bool = False  # whether its head was looked up among known pages
    charged: bool = False  # whether the ledger has its reused tokens
    fresh: Iterator[Sample] = iter(())
    waiting: int = 0  # samples in `fresh` and `parked`
    parked: deque[Sample] = field(default_factory=deque)
    running: int = 0
    done: list[Sample] = field(default_factory=list)
    fault: ConfigError | None = None

    @property
    def prefix(self) -> int:
        """Tokens of the prefix."""
        return len(self.tokens) - 1

    @property
    def wide(self) -> bool:
        """Whether samples read the prefix together."""
        return self.lanes > 0

    @property
    def ready(self) -> bool:
        """Whether samples can start: the prefix is computed."""
        return self.filled == self.prefix

    def next_sample(self) -> Sample:
        """A parked sample, else a fresh one."""
        self.waiting -= 1
        return self.parked.popleft() if self.parked else next(self.fresh)


@dataclass(eq=False)
class Sample:
    """One generation.

    lineage: with the problem and the seed, its random stream. tokens: generated so far, logprobs and gaps of each. All
    tokens before the newest are in its cache, from the prompt's last one on or, unless the prompt is wide, from its
    first: in a slot while it runs, else in `pages`, of which the first `stored` tokens are up to date. limit: number of
    tokens at which it ends.
    stops, stop_texts: what ends it, and where it stands among the texts (`text_stop.Machines`).
    """

    prompt: Prompt
    lineage: int
    seed: int
    sampling: Sampling
    stops: tuple[tuple[int, ...], ...]
    limit: int
    stop_texts: tuple[str, ...] = ()
    state: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    reason: int = 0
    entered: int = 0  # tokens when it entered its slot
    pages: list[Page] = field(default_factory=list)
    stored: int = 0
    flops: int = 0
    bytes: float = 0.0

    @property
    def begin(self) -> int:
        """Tokens of the prompt in its own cache, but for the last one."""
        return 0 if self.prompt.wide else self.prompt.prefix

    @property
    def own(self) -> int:
        """Tokens in its own cache while it waits."""
        return self.begin + len(self.tokens)

    @property
    def newest(self) -> int:
        """The token that the next step reads."""
        return self.tokens[-1] if self.tokens else self.prompt.tokens[-1]

    def extend(self, tokens: list[int], logprobs: list[float], gaps: list[float]) -> None:
        """Append what was drawn."""
        self.tokens += tokens
        self.logprobs += logprobs
        self.gaps += gaps
