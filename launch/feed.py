"""Feed: turns the shards of an inference job that a process holds into requests, and what comes of them into lines."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launch.jobs import Job, JobConfig, ShardWriter
    from launch.prompts import BadLine, Prompt
    from scaling.sweep.lease import Presence
    from search.engine.engine import Engine
    from search.engine.request import Completion, Request
    from search.policy import Policy

REPORT_S = 2.0  # between the reports of a worker on its progress


class Feed:
    """Turns the shards that this process holds into requests, and completions into lines of their shards."""

    def __init__(self, job: Job, policy: Policy, engine_config: Any, stop: Any, presence: Presence):
        self.job, self.policy, self.engine_config, self.stop = job, policy, engine_config, stop
        self.presence = presence
        self.begin = self.reported = time.monotonic()
        self.drawn = {"samples": 0, "tokens": 0, "flops": 0.0}
        self.warned = False
        self.open: dict[int, tuple[ShardWriter, contextlib.ExitStack]] = {}  # shard -> its writer, and what to close
        # problem -> its shard, prompt and the prompt's tokens, while samples are out
        self.prompts: dict[int, tuple[int, Prompt, tuple[int, ...]]] = {}

    def check(self) -> None:
        """ConfigError for what would be wrong with every prompt: the settings of the job itself."""
        from models.errors import ConfigError
        from search.engine.text_stop import machine

        size, job = self.policy.model.vocab_size, self.job.config
        try:
            self._make(0, (self.policy.ends or (0,))[:1], ()).check(size, self.engine_config)
            for text in job.stop:
                made = machine([text], self.policy.spelling, size)
                made.check([text], "stop", self.engine_config.ends, job.sampling.allowed, job.max_tokens)
        except ConfigError as error:
            raise ConfigError(error.field.removeprefix("request 0."), error.problem, error.fix) from None

    def requests(self) -> Iterator[Any]:
        """Requests of one free shard after the other, until none is left."""
        from launch.jobs import ShardWriter

        for index in range(len(self.job.shards)):
            if self.stop():
                return
            if self.job.is_done(index) or index in self.open:
                continue
            name = f"{index:06d}"
            if not self.presence.claim(name):
                continue
            held = contextlib.ExitStack()
            held.callback(self.presence.release, name)
            if self.job.is_done(index):
                held.close()
                continue
            writer = ShardWriter(self.job, index)
            held.callback(writer.close)
            self.open[index] = (writer, held)
            requests = self.ordered(list(self._read(index, writer)))
            self._close_if_complete(index)
            yield from requests

    def ordered(self, requests: list[Any]) -> list[Any]:
        """The requests of one shard in the order in which they are asked."""
        return requests

    def _read(self, index: int, writer: ShardWriter) -> Iterator[Any]:
        """The requests of a shard, without the samples that are kept already."""
        from launch.prompts import BadLine

        for prompt in self.job.prompts.read(self.job.shards[index]):
            if isinstance(prompt, BadLine):
                writer.add_bad(prompt)
                continue
            if prompt.line in writer.bad:  # found earlier, when it was drawn or written
                continue
            try:
                request = self.request(prompt, writer)
            except Exception as error:  # a line may make a tokenizer or a template raise anything: it is that line's
                writer.add_bad(fault(prompt.line, error))
                continue
            writer.expected += request.samples
            self._warn(prompt, len(request.prompt) + request.max_tokens)
            if len(request.skip) < request.samples:
                self.prompts[request.problem] = (index, prompt, request.prompt)
                yield request

    def _warn(self, prompt: Prompt, tokens: int) -> None:
        """Say once that a prompt and its samples may be longer than anything that the model has learned to read."""
        context = self.policy.context
        reached = min(tokens, self.engine_config.max_len)
        if context is not None and reached > context and not self.warned:
            self.warned = True
            words = f"with its samples may have {reached:,} tokens, and the model was made for {context:,}"
            print(f"warning: {self.job.prompts.path}:{prompt.line}: {words}", file=sys.stderr)

    def request(self, prompt: Prompt, writer: ShardWriter) -> Any:
        """What is asked for a prompt, without what is kept already; ConfigError for what cannot be."""
        done = tuple(sorted(sample for line, sample in writer.done if line == prompt.line))
        request = self._make(prompt.line - 1, self.tokens(prompt), done)
        request.check(self.policy.model.vocab_size, self.engine_config)
        return request

    def _make(self, problem: int, tokens: tuple[int, ...], skip: tuple[int, ...]) -> Request:
        from search.engine.request import Request

        job = self.job.config
        return Request(problem, tokens, job.samples, job.max_tokens, job.sampling, (), job.seed, skip, job.stop)

    def tokens(self, prompt: Prompt) -> tuple[int, ...]:
        """A prompt as tokens; whatever its tokenizer or template may raise."""
        return prompt_tokens(self.policy, self.job.config, prompt)

    def write(self, completion: Completion, engine: Engine) -> None:
        """Append one sample to its shard, and close it when it was the last; the engine is between two rounds."""
        from search.engine.scoring import score_prompt

        def line(prompt: Prompt, read: tuple[int, ...]) -> dict[str, Any]:
            line = self._line(prompt, read, completion)
            if self.job.config.prompt_logprobs and completion.sample == 0:
                own = score_prompt(engine, completion.problem, read)
                line["prompt_logprobs"] = [x if x is None else round(x, 6) for x in own]
            return line

        self.keep(completion.problem, completion.generated_tokens, completion.flops, line)

    def keep(
        self, problem: int, tokens: int, flops: float, line: Callable[[Prompt, tuple[int, ...]], dict[str, Any]]
    ) -> None:
        """Append what was generated for a problem, as `line` says it of its prompt and the prompt's tokens."""
        self.presence.check()
        self.drawn["samples"] += 1
        self.drawn["tokens"] += tokens
        self.drawn["flops"] += flops
        self.report()
        if problem not in self.prompts:  # it failed
            return
        index, prompt, read = self.prompts[problem]
        writer, _ = self.open[index]
        try:
            writer.add(line(prompt, read))
        except OSError:  # of the disk, not of the line
            raise
        except Exception as error:  # whatever a sample holds that cannot be decoded or written: it is that line's
            self.fail(problem, error)
            return
        self._close_if_complete(index)

    def fail(self, problem: int, error: Exception) -> None:
        """A prompt whose samples cannot be drawn or written: it has an error in their place."""
        index, prompt, _ = self.prompts.pop(problem)
        writer, _ = self.open[index]
        writer.expected -= self.job.samples
        writer.add_bad(fault(prompt.line, error))
        self._close_if_complete(index)

    def report(self, last: bool = False) -> None:
        """Say what this process has drawn, every REPORT_S seconds; the `last` time with the job's card."""
        now = time.monotonic()
        if now - self.reported < REPORT_S and not last:
            return
        self.reported = now
        state = self.drawn | {"seconds": now - self.begin, "time": time.time()}
        self.job.write_progress(self.presence.name, state, last)

    def _line(self, prompt: Prompt, read: tuple[int, ...], completion: Completion) -> dict[str, Any]:
        from search.engine.text_stop import cut

        tokens = completion.tokens
        text = self.policy.text(read, tokens[:-1] if completion.finish_reason == "eos" else tokens)
        if completion.finish_reason == "stop":
            early = self.job.config.sampling.min_tokens  # stops in these are text
            text = cut(text, self.job.config.stop, len(self.policy.text(read, tokens[:-1])) if early else 0)
        return own_fields(prompt) | {
            "sample": completion.sample,
            "text": text,
            "tokens": list(tokens),
            "logprobs": [round(x, 6) for x in completion.logprobs],
            "finish_reason": completion.finish_reason,
            **({"near_ties": list(completion.near_ties)} if completion.near_ties else {}),
            "ledger": {
                "prompt_tokens": completion.prompt_tokens,
                "generated_tokens": completion.generated_tokens,
                "flops": completion.flops,
                "bytes": completion.bytes,
                "depth": completion.generated_tokens,
            },
        }

    def _close_if_complete(self, index: int) -> None:
        writer, held = self.open[index]
        if writer.complete:
            held.close()
            del self.open[index]
            self.prompts = {problem: held for problem, held in self.prompts.items() if held[0] != index}

    def close(self) -> None:
        """Release every shard; what is written stays for the next process."""
        for _, held in self.open.values():
            held.close()
        self.open, self.prompts = {}, {}


def prompt_tokens(policy: Policy, job: JobConfig, prompt: Prompt) -> tuple[int, ...]:
    """The tokens of a prompt, whichever of its three forms a row has."""
    if prompt.tokens is not None:
        return prompt.tokens
    if prompt.messages is not None:
        return policy.chat(prompt.messages, **{**job.chat, **prompt.template})
    return tuple(int(token) for token in policy.tokenizer.encode(prompt.text or ""))


def own_fields(prompt: Prompt) -> dict[str, Any]:
    """What a line has of its prompt: its place, its id and its row's own columns."""
    return {"line": prompt.line} | ({"id": prompt.id} if prompt.id is not None else {}) | prompt.fields


def fault(line: int, error: Exception) -> BadLine:
    """What an error says of the line that raised it."""
    from launch.prompts import BadLine
    from models.errors import ConfigError

    if isinstance(error, ConfigError):
        return BadLine(line, f"{error.field.rpartition('.')[2]} {error.problem}", error.fix)
    return BadLine(line, f"raised {type(error).__name__}: {error}", "change the line")
