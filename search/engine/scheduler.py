"""Scheduler: which prompts are read next, and whose samples get the free slots."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from search.engine.config import EngineConfig
from search.engine.pages import OutOfPages, Page, PagePool
from search.engine.prefill import Layout, Region, Segment, tile_room
from search.engine.sample import Prompt, Sample

Planned = list[tuple[Prompt, Segment]]
GROUP = 16  # samples of one prompt that are thought to start together


class Scheduler:
    """Prompts on their way: from `sources`, taken lazily, over `queue` (to be read) to `ready` (samples can start).

    Free slots go round over the ready prompts, one group of samples at a time, so that a prompt with many samples
    keeps nobody waiting for longer than one group of each other prompt.
    """

    def __init__(self, config: EngineConfig, pool: PagePool, layout: Layout):
        self.sources: list[Iterator[Prompt]] = []
        self.queue: deque[Prompt] = deque()
        self.ready: deque[Prompt] = deque()
        self._config, self._pool, self._layout = config, pool, layout
        self._tile_room = tile_room(config.max_len, config.prefill_chunk, config.page_size)
        self._group = min(config.share_rows, config.slots, GROUP)

    @property
    def waiting(self) -> bool:
        """Whether samples wait for a slot, or may: a source that is not exhausted counts."""
        return bool(self.sources or self.queue or any(prompt.waiting for prompt in self.ready))

    @property
    def unread(self) -> bool:
        """Whether prompts are still to be read."""
        return bool(self.sources or self.queue)

    @property
    def ahead(self) -> bool:
        """Whether enough prompts are ready for every slot to serve a group of another one."""
        return len(self.ready) > self._config.slots // self._group

    def add(self, prompt: Prompt) -> None:
        """Its samples want to run."""
        if not prompt.ready or not prompt.found:
            if prompt not in self.queue:
                self.queue.append(prompt)
        elif prompt not in self.ready:
            self.ready.append(prompt)

    def remove(self, prompt: Prompt) -> None:
        """None of its samples waits any more."""
        for places in (self.queue, self.ready):
            if prompt in places:
                places.remove(prompt)

    def plan_chunk(self) -> Planned:
        """Parts of prompts that together make one prefill chunk, full unless there is nothing more to read.

        Their pages are pinned; the caller unpins them. A prompt that needs no reading becomes ready at once.
        """
        planned: Planned = []
        tokens, tiles = self._config.prefill_chunk, self._tile_room
        while tokens:
            prompt = self._next_unread(len(planned))
            if prompt is None or not self._claim(prompt):
                break
            if prompt.ready:
                self.queue.remove(prompt)
                self.ready.append(prompt)
                self._pool.unpin(prompt.pages)
                continue
            stop = min(prompt.prefix, prompt.filled + self._layout.most(prompt.filled, tokens))
            region = Region(0, self._pool.places(prompt.pages))
            segment = Segment(prompt.tokens[prompt.filled : stop], prompt.filled, (region,))
            needed = len(segment.tiles(self._config.page_size))
            if needed > tiles:
                self._pool.unpin(prompt.pages)
                break
            planned.append((prompt, segment))
            tokens, tiles = tokens - self._layout.takes(prompt.filled, len(segment.tokens)), tiles - needed
        return planned

    def read(self, planned: Planned) -> None:
        """The chunk was computed."""
        for prompt, segment in planned:
            prompt.filled += len(segment.tokens)
            for page in prompt.pages[segment.start // self._config.page_size :]:
                self._pool.written(page)
            self._pool.unpin(prompt.pages)
            if prompt.ready:
                self.queue.remove(prompt)
                self.ready.append(prompt)
                if self._config.reuse_prefixes:
                    self._pool.publish(prompt.pages, prompt.tokens[:-1])

    def next_samples(self, free: int) -> list[Sample]:
        """Up to `free` samples for free slots, their prompt's and their own pages pinned."""
        chosen: list[Sample] = []
        refused = 0
        while len(chosen) < free and self.ready and refused < len(self.ready):
            prompt = self.ready.popleft()
            if not prompt.waiting:
                continue
            before = len(chosen)
            for _ in range(min(max(prompt.lanes, 1), free - before, prompt.waiting)):
                sample = self._start(prompt)
                if sample is None:
                    break
                chosen.append(sample)
            refused = 0 if len(chosen) > before else refused + 1
            if prompt.waiting:
                self.ready.append(prompt)
        return chosen

    def _start(self, prompt: Prompt) -> Sample | None:
        """The prompt's next sample with everything it needs on the device, or None while there is no room."""
        if not self.enter(prompt):
            return None
        sample = prompt.next_sample()
        self.adopt(sample)
        try:
            self._pool.pin(sample.pages)
        except OutOfPages:
            prompt.parked.appendleft(sample)
            prompt.waiting += 1
            self.leave(prompt)
            return None
        return sample

    def enter(self, prompt: Prompt) -> bool:
        """One more sample of the prompt runs; while one does, a shared prefix stays on the device. False: no room."""
        if prompt.wide and prompt.running == 0:
            try:
                self._pool.pin(prompt.pages)
            except OutOfPages:
                return False
        prompt.running += 1
        return True

    def leave(self, prompt: Prompt) -> None:
        """One sample of the prompt fewer runs."""
        prompt.running -= 1
        if prompt.wide and prompt.running == 0:
            self._pool.unpin(prompt.pages)

    def adopt(self, sample: Sample) -> None:
        """A fresh sample that keeps its prompt in its own cache begins with the prompt's pages."""
        if not sample.prompt.wide and not sample.stored:
            sample.pages, sample.stored = list(sample.prompt.pages), sample.prompt.prefix
            self._pool.hold(sample.pages)

    def _next_unread(self, skip: int) -> Prompt | None:
        """The prompt after the first `skip` ones of the queue, taken from a source when the queue is too short."""
        while len(self.queue) <= skip and self.sources:
            prompt = next(self.sources[0], None)
            if prompt is None:
                self.sources.pop(0)
            else:
                self.queue.append(prompt)
        return self.queue[skip] if skip < len(self.queue) else None

    def _claim(self, prompt: Prompt) -> bool:
        """Pin the prompt's pages, found or new; False, and nothing held, when there is no room now."""
        size = self._config.page_size
        if prompt.found:
            return self._pin(prompt.pages)
        known: list[Page] = self._pool.find(prompt.tokens[:-1]) if self._config.reuse_prefixes else []
        if not self._pin(known):
            self._pool.release(known)
            return False
        try:
            new = self._pool.allocate(-(-prompt.prefix // size) - len(known))
        except OutOfPages:
            self._pool.unpin(known)
            self._pool.release(known)
            return False
        prompt.pages, prompt.filled, prompt.found = known + new, len(known) * size, True
        return True

    def _pin(self, pages: list[Page]) -> bool:
        try:
            self._pool.pin(pages)
        except OutOfPages:
            return False
        return True
