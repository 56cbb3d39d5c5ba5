"""Particles: the partial generations of one problem, and the steps of a search over them.

A search extends particles to a delimiter, a cap or their end, scores them, and forks and drops them; a strategy says
which. Every particle has a lineage number of its own: a clone draws from a new stream, a survivor goes on with its
own, so what a search draws depends neither on slots nor on when it was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from models.errors import require
from search.engine.engine import Engine
from search.engine.request import REASONS, Request
from search.engine.sample import Sample
from search.engine.sampling import Sampling
from search.engine.scoring import score

Reason = Literal["delimiter", "cap", "eos", "stop", "length"]


@dataclass(frozen=True)
class Step:
    """What one extension of one particle gave: its new tokens, their log-probabilities, and why it paused.

    "delimiter" and "cap" can go on; "eos", "stop" and "length" (the particle's own limit) are its end.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: Reason


@dataclass(frozen=True)
class Particle:
    """One partial generation: all its tokens after the prompt, and how it ended, or None while it can go on."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    lineage: int
    ended: Literal["eos", "stop", "length"] | None


class Particles:
    """`count` partial generations of one problem, in an order that the search sees (`ancestors` are indices into it).

    request: its `samples` is how many start; its `max_tokens` is each particle's own limit.
    """

    def __init__(self, engine: Engine, request: Request):
        engine.check(request)
        least, problem = request.sampling.min_tokens, "would pass over delimiters"
        require(least == 0, f"request {request.problem}.sampling.min_tokens", problem, "set it to 0")
        self.engine, self.request = engine, request
        self._prompt = engine.prompt(request.problem, request.prompt, request.samples)
        self._prompt.kept = True
        self._limit = min(request.max_tokens, engine.config.max_len - len(request.prompt))
        self._samples = [self._fresh(i) for i in range(request.samples)]
        self._ended: dict[Sample, Literal["eos", "stop", "length"]] = {}
        self._lineages = request.samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, i: int) -> Particle:
        sample = self._samples[i]
        return Particle(tuple(sample.tokens), tuple(sample.logprobs), sample.lineage, self._ended.get(sample))

    @property
    def alive(self) -> list[int]:
        """Indices of the particles that can go on."""
        return [i for i, sample in enumerate(self._samples) if sample not in self._ended]

    def extend(
        self,
        delimiters: Sequence[Sequence[int] | str] = (),
        cap: int | None = None,
        which: Sequence[int] | None = None,
        sampling: Sampling | None = None,
    ) -> dict[int, Step]:
        """Let particles `which` (None: all that can) go on until each has just written a delimiter, `cap` tokens, or
        has ended; by index. A delimiter is a sequence of tokens, or a text, however tokens cut it. `sampling` replaces
        the request's for this extension."""
        return extend([self], delimiters, cap, [which], sampling)[0]

    def fork(self, ancestors: Sequence[int]) -> None:
        """Replace the particles by clones of `ancestors`, which may repeat and be fewer or more.

        The first clone of a particle is the particle itself. A clone shares its past's pages; what nobody continues is
        dropped, and its tokens are charged as discarded.
        """
        old, taken, new = self._samples, set(), []
        for ancestor in ancestors:
            require(0 <= ancestor < len(old), "ancestors", f"{ancestor} is no particle", f"use 0 to {len(old) - 1}")
        for ancestor in ancestors:
            sample = old[ancestor]
            if sample in taken:
                clone = sample.fork(self._lineages)
                self._lineages += 1
                self.engine.pool.hold(clone.pages)
                if sample in self._ended:
                    self._ended[clone] = self._ended[sample]
                sample = clone
            taken.add(sample)
            new.append(sample)
        self._samples = new
        self._discard([sample for sample in old if sample not in taken])

    def drop(self, which: Sequence[int]) -> None:
        """Remove these particles; the others move up."""
        gone = set(which)
        self.fork([i for i in range(len(self)) if i not in gone])

    def score(
        self, continuations: Sequence[tuple[int, Sequence[int]]], verifier: bool = True
    ) -> list[tuple[float, ...]]:
        """Log-probabilities of the tokens of each (particle, continuation), as if the particle wrote them; it does not.

        verifier: charge them to the ledger as verifier tokens.
        """
        return score(self.engine, [(self._samples[i], tokens) for i, tokens in continuations], verifier=verifier)

    def append(self, continuations: Sequence[tuple[int, Sequence[int]]]) -> list[tuple[float, ...]]:
        """Make each particle go on with these tokens, whatever the model says; their log-probabilities."""
        return score(self.engine, [(self._samples[i], tokens) for i, tokens in continuations], keep=True)

    def close(self) -> None:
        """Free everything; the tokens of the particles that are left count as kept."""
        for sample in self._samples:
            self.engine.pool.release(sample.pages)
        self._samples = []
        self.engine.close(self._prompt)

    def _fresh(self, lineage: int) -> Sample:
        request = self.request
        return Sample(
            self._prompt, lineage, request.seed, request.sampling, request.stop, self._limit, request.stop_texts
        )

    def _discard(self, samples: list[Sample]) -> None:
        for sample in samples:
            self.engine.pool.release(sample.pages)
            self._ended.pop(sample, None)
            self.engine.ledger.charge(self.request.problem, discarded_tokens=sample.drop())

    def _submit(
        self,
        delimiters: Sequence[Sequence[int] | str],
        cap: int | None,
        which: Sequence[int],
        sampling: Sampling | None,
    ) -> dict[int, int]:
        """Hand particles to the engine; their lengths now, by index."""
        require(cap is None or cap >= 1, "cap", f"is {cap}", "give a positive number of tokens, or None")
        texts = tuple(delimiter for delimiter in delimiters if isinstance(delimiter, str))
        sequences = [tuple(delimiter) for delimiter in delimiters if not isinstance(delimiter, str)]
        self.engine.check_texts(texts, "delimiters")
        before = {}
        for i in which:
            sample = self._samples[i]
            if sample in self._ended:
                continue
            before[i] = len(sample.tokens)
            sample.stops = (*self.request.stop, *sequences)
            sample.stop_texts = (*self.request.stop_texts, *texts)
            sample.limit = self._limit if cap is None else min(self._limit, before[i] + cap)
            sample.sampling = sampling or self.request.sampling
        self.engine.submit([self._samples[i] for i in before])
        return before

    def _steps(self, before: dict[int, int]) -> dict[int, Step]:
        """What the extension gave, once all of its particles are back."""
        steps = {}
        for i, length in before.items():
            sample = self._samples[i]
            reason: Reason = REASONS[sample.reason]
            if reason == "stop" and not self._stopped(sample):
                reason = "delimiter"
            if reason == "length" and len(sample.tokens) < self._limit:
                reason = "cap"
            if len(sample.tokens) == self._limit and reason == "delimiter":
                reason = "length"
            if reason == "eos" or reason == "stop" or reason == "length":
                self._ended[sample] = reason
            steps[i] = Step(tuple(sample.tokens[length:]), tuple(sample.logprobs[length:]), reason)
        self.engine.ledger.charge(self.request.problem, depth=max((len(s.tokens) for s in steps.values()), default=0))
        return steps

    def _stopped(self, sample: Sample) -> bool:
        """Whether it wrote one of the request's own stops."""
        if self.engine.slots.machines.completed(self.request.stop_texts, sample.tokens):
            return True
        return any(tuple(sample.tokens[-len(stop) :]) == tuple(stop) for stop in self.request.stop)


def extend(
    populations: Sequence[Particles],
    delimiters: Sequence[Sequence[int] | str] = (),
    cap: int | None = None,
    which: Sequence[Sequence[int] | None] | None = None,
    sampling: Sampling | None = None,
) -> list[dict[int, Step]]:
    """`Particles.extend` for the particles of several problems side by side in the slots of their one engine."""
    if not populations:
        return []
    engine = populations[0].engine
    chosen = [None] * len(populations) if which is None else which
    before = [
        p._submit(delimiters, cap, p.alive if indices is None else indices, sampling)
        for p, indices in zip(populations, chosen, strict=True)
    ]
    left = sum(len(lengths) for lengths in before)
    while left:
        engine.advance()
        for p in populations:
            left -= len(p._prompt.paused)
            p._prompt.paused.clear()
    return [p._steps(lengths) for p, lengths in zip(populations, before, strict=True)]
