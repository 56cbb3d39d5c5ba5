"""Draw samples for every prompt of a file, batched on one engine: one JSON line per sample.

    python -m launch.infer --checkpoint runs/x/trials/0123456789ab --prompts prompts.jsonl --out samples/x --samples 16

A prompt line is {"prompt": "text"} or {"tokens": [1, 2]}, with an optional "id". --out/samples.jsonl gets the lines,
--out/manifest.json the totals. Run the same command again after a crash and it goes on where it stopped; run it in a
second terminal and both work on the job. A line that cannot be used is reported at the end and stops nothing else.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli

if TYPE_CHECKING:
    from launch.jobs import Job, JobConfig, ShardWriter
    from launch.prompts import Prompt
    from search.engine.request import Completion, Request
    from search.policy import Policy

FLAGS = cli.new_flags(config=True, default_config="configs/infer.py")
cli.DEFINE_string("checkpoint", None, "a trial's directory, or a Hugging Face folder", flag_values=FLAGS, required=True)
cli.DEFINE_string("prompts", None, "prompts, .jsonl or .parquet", flag_values=FLAGS, required=True)
cli.DEFINE_string("out", None, "directory of the job: made, or continued", flag_values=FLAGS, required=True)
cli.DEFINE_integer("samples", None, "per prompt (default: the config's)", flag_values=FLAGS)
cli.DEFINE_integer("max_tokens", None, "per sample (default: the config's)", flag_values=FLAGS)
cli.DEFINE_float("temperature", None, "0 is greedy (default: the config's)", flag_values=FLAGS)
cli.DEFINE_integer("seed", None, "of the random numbers (default: the config's)", flag_values=FLAGS)
cli.DEFINE_enum("executor", "local", ["local"], "where the job runs", flag_values=FLAGS)

POLL_S = 0.5
SAVED = 75  # exit code after SIGTERM, with everything kept (EX_TEMPFAIL)


def kinds() -> tuple[type, ...]:
    from launch.jobs import JobConfig

    return (JobConfig,)


def main(
    config: JobConfig,
    checkpoint: str,
    prompts: str,
    out: str,
    samples: int | None,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    executor: str,
) -> int:
    from launch.jobs import Job
    from launch.prompts import PromptFile
    from launch.worker import StopRequest
    from scaling.sweep.trial import override
    from search.policy import load_policy

    given = {"samples": samples, "max_tokens": max_tokens, "sampling.temperature": temperature, "seed": seed}
    config = override(config, {name: value for name, value in given.items() if value is not None})
    file = PromptFile(prompts)
    policy = load_policy(checkpoint)
    job = Job.open(Path(out), config, file, policy.digest)
    stop = StopRequest()
    if not job.is_finished():
        work(job, policy, stop)
        if stop():
            return SAVED
    return conclude(job)


def work(job: Job, policy: Policy, stop: Any) -> None:
    """Draw every sample that no other process is drawing, wait for theirs, and write the manifest."""
    import dataclasses

    from launch.progress import JobDisplay
    from search.engine.engine import Engine

    config = dataclasses.replace(job.config.engine, ends=job.config.engine.ends or policy.ends)
    feed = Feed(job, policy, config, stop)
    feed.check()
    engine = Engine(policy.model, policy.params, config)
    with JobDisplay(job.rows * job.config.samples) as display:
        while not stop() and not all(job.is_done(i) for i in range(len(job.shards))):
            try:
                for completion in engine.generate(feed.requests()):
                    feed.write(completion)
                    display.add(completion.generated_tokens)
                    if stop():
                        return
            finally:
                feed.close()
            time.sleep(POLL_S)  # other processes hold what is left; take over when one of them dies
    with job.claim("finish") as mine:
        while not mine and not job.is_finished():
            time.sleep(POLL_S)
        if mine and not job.is_finished() and not stop():
            job.finish()


class Feed:
    """Turns the shards that this process holds into requests, and completions into lines of their shards."""

    def __init__(self, job: Job, policy: Policy, engine_config: Any, stop: Any):
        self.job, self.policy, self.engine_config, self.stop = job, policy, engine_config, stop
        self.stops = tuple(tuple(int(t) for t in policy.tokenizer.encode(text)) for text in job.config.stop)
        self.open: dict[int, tuple[ShardWriter, contextlib.ExitStack]] = {}  # shard -> its writer, and what to close
        self.prompts: dict[int, tuple[int, Prompt]] = {}  # problem -> its shard and prompt, while samples are out

    def check(self) -> None:
        """ConfigError for what would be wrong with every prompt: the settings of the job itself."""
        from models.errors import ConfigError

        try:
            self._make(0, (self.policy.ends or (0,))[:1], ()).check(self.policy.model.vocab_size, self.engine_config)
        except ConfigError as error:
            raise ConfigError(error.field.removeprefix("request 0."), error.problem, error.fix) from None

    def requests(self) -> Iterator[Request]:
        """Requests of one free shard after the other, until none is left."""
        from launch.jobs import ShardWriter

        for index in range(len(self.job.shards)):
            if self.stop():
                return
            if self.job.is_done(index) or index in self.open:
                continue
            held = contextlib.ExitStack()
            if not held.enter_context(self.job.claim(f"{index:06d}")) or self.job.is_done(index):
                held.close()
                continue
            writer = ShardWriter(self.job, index)
            held.callback(writer.close)
            self.open[index] = (writer, held)
            requests = list(self._read(index, writer))
            self._close_if_complete(index)
            yield from requests

    def _read(self, index: int, writer: ShardWriter) -> Iterator[Request]:
        """The requests of a shard, without the samples that are kept already."""
        from launch.prompts import BadLine
        from models.errors import ConfigError

        for prompt in self.job.prompts.read(self.job.shards[index]):
            if isinstance(prompt, BadLine):
                writer.add_bad(prompt)
                continue
            try:
                request = self._request(prompt, writer)
            except ConfigError as error:
                field = error.field.rpartition(".")[2]
                writer.add_bad(BadLine(prompt.line, f"{field} {error.problem}", error.fix))
                continue
            writer.expected += request.samples
            if len(request.skip) < request.samples:
                self.prompts[request.problem] = (index, prompt)
                yield request

    def _request(self, prompt: Prompt, writer: ShardWriter) -> Request:
        done = tuple(sorted(sample for line, sample in writer.done if line == prompt.line))
        request = self._make(prompt.line - 1, self._tokens(prompt), done)
        request.check(self.policy.model.vocab_size, self.engine_config)
        return request

    def _make(self, problem: int, tokens: tuple[int, ...], skip: tuple[int, ...]) -> Request:
        from search.engine.request import Request

        job = self.job.config
        return Request(problem, tokens, job.samples, job.max_tokens, job.sampling, self.stops, job.seed, skip)

    def _tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if prompt.tokens is not None:
            return prompt.tokens
        if prompt.messages is not None:
            return self.policy.chat(prompt.messages)
        return tuple(int(token) for token in self.policy.tokenizer.encode(prompt.text or ""))

    def write(self, completion: Completion) -> None:
        """Append one sample to its shard; close the shard when it was the last."""
        index, prompt = self.prompts[completion.problem]
        writer, _ = self.open[index]
        writer.add(self._line(prompt, completion))
        self._close_if_complete(index)

    def _line(self, prompt: Prompt, completion: Completion) -> dict[str, Any]:
        tokens = completion.tokens
        kept = tokens[:-1] if completion.finish_reason == "eos" else tokens
        text = self.policy.tokenizer.decode(kept)
        if completion.finish_reason == "stop":
            text = text[
                : min((at for stop in self.job.config.stop if (at := text.rfind(stop)) >= 0), default=len(text))
            ]
        return {
            "line": prompt.line,
            **({"id": prompt.id} if prompt.id is not None else {}),
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


def conclude(job: Job) -> int:
    """Verify what was written and print its essence; 1 when prompts could not be used."""
    import sys

    manifest = job.verify()
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(manifest["finish_reasons"].items()))
    print(
        f"{manifest['samples']:,} samples of {manifest['prompts']:,} prompts ({reasons}): "
        f"{job.path / 'samples.jsonl'}\n"
        f"{manifest['prompt_tokens']:,} prompt tokens, {manifest['generated_tokens']:,} generated, "
        f"{manifest['flops']:.3g} FLOPs and {manifest['bytes']:.3g} bytes to decode"
    )
    for message in job.bad_lines():
        print(f"error: {message}", file=sys.stderr)
    return 1 if manifest["bad_lines"] else 0


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__, kinds)
