"""Engine: many samples of many prompts at once, each the same as if it ran alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from models import counts
from models.config import ModelConfig
from models.errors import ConfigError, require
from models.transformer import Params
from search.engine.config import EngineConfig
from search.engine.decode import INVALID, RUNNING, Drawn, Rows
from search.engine.device import Device
from search.engine.pages import OutOfPages, PagePool
from search.engine.prefill import Layout, Segment, pack, tile_room
from search.engine.request import REASONS, Completion, Request
from search.engine.sample import Prompt, Sample
from search.engine.sampling import Sampling
from search.engine.scheduler import Scheduler
from search.engine.sharing import lanes
from search.engine.slots import Slots
from search.engine.text_stop import Spelling
from search.ledger import Ledger, Prices


@dataclass
class Statistics:
    """What an engine did, in tokens, steps and seconds since it was made.

    read_tokens, padding: of prefill chunks, used and not. slot_steps, busy_steps: slots times decode steps, and those
    in which a sample ran; the same while others waited. weight_bytes: parameters read, once per chunk and step.
    """

    chunks: int = 0
    read_tokens: int = 0
    padding: int = 0
    stages: int = 0
    steps: int = 0
    slot_steps: int = 0
    busy_steps: int = 0
    slot_steps_waiting: int = 0
    busy_steps_waiting: int = 0
    preempted: int = 0
    near_ties: int = 0
    weight_bytes: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def padding_share(self) -> float:
        """Share of the prefill positions that held no token."""
        return self.padding / max(self.padding + self.read_tokens, 1)

    @property
    def busy_share(self) -> float:
        """Share of the slots that were busy while samples waited; 1 when none ever did."""
        return self.busy_steps_waiting / self.slot_steps_waiting if self.slot_steps_waiting else 1.0


class Engine:
    """A slot-based generation engine with static shapes.

    model, params: as models.transformer.init makes them, stacked or not, numpy or device arrays. mesh: split slots
    over its `data` axis, weights and key-value heads over `tensor`. spelling: bytes of every token, for stops given as
    text (`Policy.spelling`). `ledger` is what every problem cost;
    `compilations` counts programs.
    """

    def __init__(
        self,
        model: ModelConfig,
        params: Params,
        config: EngineConfig,
        mesh: Mesh | None = None,
        spelling: Spelling = (),
    ):
        config.check(model)
        self.config = config
        self.device = Device(model, params, config, mesh)
        self.model = self.device.model
        self.pool = PagePool(config.page_count, config.page_size, self.device.read, self.device.write)
        self.slots = Slots(config, self.model, spelling)
        self._spelled = len(spelling) > 0
        self.layout = Layout.of(self.model, config.prefill_chunk, config.page_size)
        self.scheduler = Scheduler(config, self.pool, self.layout)
        self.ledger = Ledger()
        self.statistics = Statistics()
        self.prices = Prices(self.model, config.max_len, config.quantized_cache)
        self._tile_room = tile_room(config.max_len, config.prefill_chunk, config.page_size)
        self._weight_bytes = counts.param_bytes(self.model)

    @property
    def compilations(self) -> int:
        """Programs compiled so far; constant once every stage length and sampling filter was seen."""
        return self.device.compilations

    def check(self, request: Request) -> None:
        """Raise ConfigError when this engine cannot serve the request."""
        request.check(self.model.vocab_size, self.config)
        self.check_texts(request.stop_texts, f"request {request.problem}.stop_texts")

    def check_texts(self, texts: Sequence[str], field: str) -> None:
        """Raise ConfigError when this engine cannot look for texts."""
        problem, fix = "asks for texts, but the engine does not know them", "give Engine(spelling=policy.spelling)"
        require(self._spelled or not texts, field, problem, fix)
        require(all(texts), field, "holds an empty text", "remove it")

    def warm_up(self, samplings: Sequence[Sampling] = (), max_tokens: int | None = None) -> None:
        """Compile now what requests with these samplings and up to `max_tokens` new tokens (None: max_len) can need."""
        for settings in samplings:
            self.slots.admit(settings)
        prefixes, _ = self.slots.prefixes(self.pool)
        self.read([])
        self.device.warm_up(
            self.slots.rows(),
            self.slots.settings(),
            prefixes,
            min(max_tokens or self.config.max_len, self.config.max_len),
        )
        self.statistics = Statistics()

    def generate(
        self, requests: Iterable[Request], failed: Callable[[int, ConfigError], None] | None = None
    ) -> Iterator[Completion]:
        """Every sample of every request, as it ends; requests are taken from the iterable as room appears.

        failed(problem, error) is told of a request that `check` refuses, when it is taken, and of one whose model
        leaves no token to draw; all others go on. Without it the error is raised, and nothing does.
        """
        mine: list[Prompt] = []

        def tell(problem: int, error: ConfigError) -> None:
            if failed is None:
                raise error
            failed(problem, error)

        def prompts() -> Iterator[Prompt]:
            for request in requests:
                try:
                    prompt = self._prompt(request)
                except ConfigError as error:
                    tell(request.problem, error)
                    continue
                mine.append(prompt)
                yield prompt

        source = prompts()
        self.scheduler.sources.append(source)
        try:
            while mine or source in self.scheduler.sources:
                self.advance()
                for prompt in list(mine):
                    if prompt.fault is not None:
                        self.close(prompt)
                        mine.remove(prompt)
                        tell(prompt.problem, prompt.fault)
                        continue
                    while prompt.done:
                        yield self._completion(prompt.done.pop())
                    if not prompt.waiting and not prompt.running:
                        self.close(prompt)
                        mine.remove(prompt)
        finally:
            if source in self.scheduler.sources:
                self.scheduler.sources.remove(source)
            for prompt in mine:
                self.close(prompt)

    def prompt(self, problem: int, tokens: Sequence[int], samples: int) -> Prompt:
        """A prompt whose samples the caller makes, runs and closes; `samples` decides whether they read it together."""
        return Prompt(problem, tuple(tokens), lanes(samples, self.model, self.config))

    def close(self, prompt: Prompt) -> None:
        """Forget a prompt: whatever of it waits or runs is gone, and its pages are free."""
        self.scheduler.remove(prompt)
        for slot, sample in self.slots.taken:
            if sample.prompt is prompt:
                self._leave(slot)
        prompt.waiting = 0
        for sample in prompt.parked:
            self.pool.release(sample.pages)
        prompt.parked.clear()
        self.pool.release(prompt.pages)
        prompt.pages = []

    def advance(self) -> None:
        """One round: fill the free slots, reading prompts until there is somebody for each, and decode one stage."""
        if self.slots.free:
            self._admit()
            while self.scheduler.unread and (self.slots.free or not self.scheduler.ahead):
                if not self._read_chunk():
                    break
                self._admit()
        if self.slots.taken:
            self._decode()

    def read(self, segments: Sequence[Segment], score: bool = False) -> np.ndarray:
        """Read one chunk of segments whose pages are pinned; log-probabilities `[tokens]` of targets if asked for."""
        began = time.perf_counter()
        config = self.config
        chunk = pack(segments, self.layout, self._tile_room, config.page_count)
        logprobs = np.asarray(self.device.prefill(chunk, score))
        used = sum(len(segment.tokens) for segment in segments)
        s = self.statistics
        s.chunks, s.read_tokens, s.padding = s.chunks + 1, s.read_tokens + used, s.padding + config.prefill_chunk - used
        s.weight_bytes += self._weight_bytes
        s.prefill_seconds += time.perf_counter() - began
        return logprobs[chunk.index]

    def store(self, sample: Sample, slot: int) -> None:
        """Copy what a slot holds of a sample into pages of its own; OutOfPages leaves everything as it was."""
        size = self.config.page_size
        whole = sample.stored // size
        blocks = range(whole, -(-sample.own // size))
        new = self.pool.allocate(len(blocks))
        places = self.pool.places(new)
        self.device.store([(slot, block, page) for block, page in zip(blocks, places)])
        self.device.store_states([(slot, place) for place in places[-1:]])
        self.pool.unpin(new)
        self.pool.release(sample.pages[whole:])
        sample.pages[whole:] = new
        sample.stored = sample.own
        self._charge_move(sample, len(blocks) * size)

    def _prompt(self, request: Request) -> Prompt:
        self.check(request)
        self.slots.admit(request.sampling)
        prompt = self.prompt(request.problem, request.prompt, request.samples)
        wanted = [i for i in range(request.samples) if i not in set(request.skip)]
        prompt.waiting = len(wanted)
        limit = min(request.max_tokens, self.config.max_len - len(request.prompt))
        prompt.fresh = (
            Sample(prompt, i, request.seed, request.sampling, request.stop, limit, request.stop_texts) for i in wanted
        )
        return prompt

    def _completion(self, sample: Sample) -> Completion:
        prompt = sample.prompt
        ties: tuple[int, ...] = ()
        if self.config.precision == "layercast":
            ties = tuple(i for i, gap in enumerate(sample.gaps) if gap < self.config.near_tie)
        self.statistics.near_ties += len(ties)
        return Completion(
            prompt.problem, sample.lineage, tuple(sample.tokens), tuple(sample.logprobs), REASONS[sample.reason],
            len(prompt.tokens), ties, sample.flops, round(sample.bytes),
        )  # fmt: skip

    def _admit(self) -> None:
        """Give free slots to waiting samples, and bring what they hold in pages back into their slot."""
        free = self.slots.free
        entering = list(zip(free, self.scheduler.next_samples(len(free))))
        for slot, sample in entering:
            self.slots.put(slot, sample)
        self.device.load_states([(slot, self._state_place(sample)) for slot, sample in entering])
        back = [(slot, sample) for slot, sample in entering if sample.pages]
        for _, sample in entering:
            if self.device.keeps_states and not sample.pages and sample.prompt.prefix:
                self._charge_move(sample, 0)  # the state after the prompt
        if back:
            self._fit()
            self.device.load(
                [(slot, i, place) for slot, s in back for i, place in enumerate(self.pool.places(s.pages))]
            )
            for _, sample in back:
                self.pool.unpin(sample.pages)
                self._charge_move(sample, sample.stored)

    def _state_place(self, sample: Sample) -> int | None:
        """Where the page lies with the state that a sample goes on from; None at the beginning of a sequence."""
        own = sample.own
        pages, tokens = (sample.pages, own) if own else (sample.prompt.pages, sample.prompt.prefix)
        return self.pool.places([pages[(tokens - 1) // self.config.page_size]])[0] if tokens else None

    def _fit(self) -> None:
        ahead = self.config.stage_tokens
        needed = [s.own + max(min(s.limit - len(s.tokens), ahead), 0) for _, s in self.slots.taken]
        self.device.fit(max([*needed, 1]))

    def _read_chunk(self) -> bool:
        """Read what the scheduler planned; False when there is nothing to read or no room for it."""
        ready = len(self.scheduler.ready)
        planned = self.scheduler.plan_chunk()
        if not planned:
            return len(self.scheduler.ready) > ready
        before = self.statistics.prefill_seconds
        self.read([segment for _, segment in planned])
        seconds = self.statistics.prefill_seconds - before
        total = sum(len(segment.tokens) for _, segment in planned)
        for prompt, segment in planned:
            start, n = segment.start, len(segment.tokens)
            if start == prompt.filled and start and not prompt.charged:
                self.ledger.charge(prompt.problem, reused_tokens=start)
            prompt.charged = True
            self.ledger.charge(
                prompt.problem, prompt_tokens=n, flops=self.prices.prefill(start, start + n),
                bytes=n * self.prices.cache_bytes + self.prices.state_bytes, seconds=seconds * n / total,
            )  # fmt: skip
        self.scheduler.read(planned)
        return True

    def _decode(self) -> None:
        began = time.perf_counter()
        config, s = self.config, self.statistics
        running = self.slots.taken
        waiting = self.scheduler.waiting
        enough = max(len(running) - max(1, config.slots // 16), 0) if waiting else 0
        self._fit()
        prefixes, groups = self.slots.prefixes(self.pool)
        rows, drawn, steps = self.device.stage(
            self.slots.rows(), self.slots.settings(), prefixes, config.stage_tokens, enough
        )
        new = {sample: int(rows.length[i]) - len(sample.tokens) for i, sample in running}
        seconds = time.perf_counter() - began
        self._charge(new, [(prompt, [m for m in members if m in new]) for prompt, members in groups], seconds)
        s.stages, s.steps, s.slot_steps = s.stages + 1, s.steps + steps, s.slot_steps + steps * config.slots
        s.busy_steps += sum(new.values())
        if waiting:
            s.slot_steps_waiting += steps * config.slots
            s.busy_steps_waiting += sum(new.values())
        s.weight_bytes += steps * self._weight_bytes
        s.decode_seconds += seconds
        for slot, sample in running:
            self._collect(slot, sample, rows, drawn, new[sample])

    def _collect(self, slot: int, sample: Sample, rows: Rows, drawn: Drawn, n: int) -> None:
        """Take over what a slot drew, and let its sample leave if it is done or its time is up."""
        sample.extend(drawn.tokens[slot, :n].tolist(), drawn.logprobs[slot, :n].tolist(), drawn.gaps[slot, :n].tolist())
        sample.reason, sample.state = int(rows.reason[slot]), int(rows.state[slot])
        prompt = sample.prompt
        if sample.reason == INVALID:
            fault = ConfigError(
                f"request {prompt.problem}.sampling",
                f"leaves no token to draw after {len(sample.tokens) - 1}",
                "allow more tokens, or look for infinities in the parameters",
            )
            prompt.fault = fault
        if sample.reason == RUNNING:
            if self._overdue(sample):
                self._park(slot)
            return
        self.scheduler.leave(prompt)
        self.ledger.reach(prompt.problem, len(sample.tokens))
        self._leave(slot)
        if prompt.fault is None:
            prompt.done.append(sample)

    def _overdue(self, sample: Sample) -> bool:
        quantum = self.config.quantum
        used = len(sample.tokens) - sample.entered
        return quantum is not None and used >= quantum and any(p.waiting for p in self.scheduler.ready)

    def _park(self, slot: int) -> None:
        """Move a sample out of its slot into pages, or leave it where it is while there is no room for them."""
        sample = self.slots.samples[slot]
        assert sample is not None
        prompt = sample.prompt
        self.scheduler.leave(prompt)  # its own pages may take the place of its prompt's
        try:
            self.store(sample, slot)
        except OutOfPages:
            self.scheduler.enter(prompt)
            return
        self.slots.take(slot)
        self.statistics.preempted += 1
        prompt.parked.append(sample)
        prompt.waiting += 1
        self.scheduler.add(prompt)

    def _leave(self, slot: int) -> None:
        sample = self.slots.take(slot)
        self.pool.release(sample.pages)
        sample.pages = []
        if sample.reason == RUNNING:
            self.scheduler.leave(sample.prompt)

    def _charge(self, new: dict[Sample, int], groups: list[tuple[Prompt, list[Sample]]], seconds: float) -> None:
        """Charge a stage to the ledger: `new` tokens of each sample, prefixes once per step and group."""
        total = sum(new.values())
        for sample, n in new.items():
            prompt = sample.prompt
            flops = self.prices.decode(prompt.prefix + len(sample.tokens) + 1, n)
            moved = self.prices.suffix_bytes(sample.own, n)
            sample.flops, sample.bytes = sample.flops + flops, sample.bytes + moved
            self.ledger.charge(
                prompt.problem, generated_tokens=n, flops=flops, bytes=moved, seconds=seconds * n / max(total, 1)
            )
        for prompt, members in groups:
            steps = max((new[sample] for sample in members), default=0)
            read = steps * prompt.prefix * self.prices.cache_bytes
            self.ledger.charge(prompt.problem, bytes=read)
            for sample in members:
                sample.bytes += read / len(members)

    def _charge_move(self, sample: Sample, tokens: int) -> None:
        moved = tokens * self.prices.cache_bytes + self.prices.state_bytes
        self.ledger.charge(sample.prompt.problem, bytes=moved)
