"""Slots: which sample decodes where, and the arrays that one stage is given."""

from __future__ import annotations

import numpy as np

from models.cache import Groups
from models.config import ModelConfig
from search.engine import sampling, stop
from search.engine.config import EngineConfig
from search.engine.decode import LENGTH, RUNNING, Prefixes, Rows
from search.engine.pages import PagePool
from search.engine.sample import Prompt, Sample
from search.engine.sampling import Filters, Sampling, SamplingRows
from search.engine.sharing import all_lanes
from search.engine.text_stop import Machines, Spelling


class Slots:
    """`config.slots` places for samples, on the host."""

    def __init__(self, config: EngineConfig, model: ModelConfig, spelling: Spelling = ()):
        self.samples: list[Sample | None] = [None] * config.slots
        self._config, self._vocab_size = config, model.vocab_size
        self._widths = all_lanes(model, config)
        self.keep_history = False  # give `rows` all tokens even where no repetition penalty needs them
        self._filters: Filters | None = None
        self._bias_width = self._forced_width = 0
        self._settings: SamplingRows | None = None
        self.machines = Machines(spelling, model.vocab_size)
        self._stops = np.full((config.slots, config.stop_sequences, config.stop_length), stop.NEVER, np.int32)

    @property
    def free(self) -> list[int]:
        """Empty slots, lowest first."""
        return [i for i, sample in enumerate(self.samples) if sample is None]

    @property
    def taken(self) -> list[tuple[int, Sample]]:
        """(slot, sample) of every slot in use."""
        return [(i, sample) for i, sample in enumerate(self.samples) if sample is not None]

    def admit(self, settings: Sampling) -> None:
        """Widen the compiled program to what a request's sampling needs; a new need compiles once more."""
        needs = Filters.of([settings])
        self._filters = needs if self._filters is None else self._filters | needs
        self._bias_width = max(self._bias_width, len(settings.logit_bias))
        self._forced_width = max(self._forced_width, len(settings.forced))

    def put(self, slot: int, sample: Sample) -> None:
        """Let the sample decode here."""
        assert self.samples[slot] is None
        self.samples[slot] = sample
        self._settings = None
        config = self._config
        self._stops[slot] = stop.stack_stops([sample.stops], config.stop_sequences, config.stop_length)[0]
        sample.state = self.machines.state(sample.stop_texts, sample.tokens)
        sample.reason, sample.entered = RUNNING, len(sample.tokens)

    def take(self, slot: int) -> Sample:
        """Empty the slot."""
        sample = self.samples[slot]
        assert sample is not None
        self.samples[slot] = None
        return sample

    def rows(self) -> Rows:
        """The state of every slot; see `Rows`."""
        config = self._config
        n = config.slots
        token, start, length, begin, limit, least, state = (np.zeros(n, np.int32) for _ in range(7))
        reason = np.full(n, LENGTH, np.int32)
        stream = np.zeros((n, 3), np.uint32)
        window = np.full((n, config.stop_length), stop.EMPTY, np.int32)
        repetition = self.keep_history or (self._filters is not None and self._filters.repetition)
        history = np.full((n, config.max_len if repetition else 0), -1, np.int32)
        for i, sample in self.taken:
            token[i], start[i], length[i], begin[i] = (
                sample.newest,
                sample.prompt.prefix,
                len(sample.tokens),
                sample.begin,
            )
            limit[i], reason[i], state[i] = sample.limit, sample.reason, sample.state
            least[i] = sample.sampling.min_tokens
            stream[i] = sample.seed, sample.prompt.problem, sample.lineage
            last = sample.tokens[-config.stop_length :]
            window[i, config.stop_length - len(last) :] = last
            if repetition:
                seen = [*sample.prompt.tokens, *sample.tokens]
                history[i, : len(seen)] = seen
        moves = self.machines.table
        return Rows(
            token, start, length, begin, limit, least, reason, stream, self._stops.copy(), window, moves, state, history
        )

    def settings(self) -> SamplingRows:
        """How every slot samples; an empty one like some other."""
        if self._settings is None:
            default = next((sample.sampling for _, sample in self.taken), Sampling())
            given = [default if sample is None else sample.sampling for sample in self.samples]
            self._settings = sampling.stack_rows(
                given, self._vocab_size, self._filters, self._bias_width, self._forced_width
            )
        return self._settings

    def prefixes(self, pool: PagePool) -> tuple[Prefixes, list[tuple[Prompt, list[Sample]]]]:
        """The groups that read prefixes together: for the device, and as (prompt, samples) for the ledger."""
        by_prompt: dict[Prompt, list[tuple[int, Sample]]] = {}
        for i, sample in self.taken:
            if sample.prompt.wide and sample.reason == RUNNING:
                by_prompt.setdefault(sample.prompt, []).append((i, sample))
        found: dict[int, list[tuple[Prompt, list[int]]]] = {width: [] for width in self._widths}
        members = []
        for prompt, samples in by_prompt.items():
            for first in range(0, len(samples), prompt.lanes):
                part = samples[first : first + prompt.lanes]
                found[prompt.lanes].append((prompt, [i for i, _ in part]))
                members.append((prompt, [sample for _, sample in part]))
        return tuple(self._groups(groups, width, pool) for width, groups in found.items()), members

    def _groups(self, found: list[tuple[Prompt, list[int]]], lanes: int, pool: PagePool) -> Groups:
        config = self._config
        n = config.slots
        rows = np.full((n, lanes), n, np.int32)
        pages = np.zeros((n, -(-config.max_len // config.page_size)), np.int32)
        tiles, length = np.zeros(n, np.int32), np.zeros(n, np.int32)
        for i, (prompt, members) in enumerate(found):
            rows[i, : len(members)] = members
            places = pool.places(prompt.pages)
            pages[i, : len(places)] = places
            tiles[i], length[i] = len(places), prompt.prefix
        return Groups(rows, pages, tiles, length, np.int32(len(found)))
