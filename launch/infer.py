"""Draw samples for every prompt of a file, batched on one engine: one JSON line per sample.

    python -m launch.infer --checkpoint runs/x/trials/0123456789ab --prompts prompts.jsonl --out samples/x --samples 16

A prompt line is {"prompt": "text"} or {"tokens": [1, 2]}, with an optional "id". --out/samples.jsonl gets the lines,
--out/manifest.json the totals. Run the same command again after a crash and it goes on where it stopped; run it in a
second terminal and both work on the job. --workers 4, or --executor slurm or ray, lets workers do it; more may join at
any time. A line that cannot be used is reported at the end and stops nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli
from launch.executors import choice
from launch.executors.executor import Executor, Order

if TYPE_CHECKING:
    from launch.jobs import Job, JobConfig, ShardWriter
    from launch.prompts import BadLine, Prompt
    from scaling.sweep.lease import Presence
    from search.engine.config import EngineConfig
    from search.engine.engine import Engine
    from search.engine.request import Completion, Request
    from search.policy import Policy

FLAGS = cli.new_flags(config=True, default_config="configs/infer.py")
cli.DEFINE_string("checkpoint", None, "a trial's directory, or a Hugging Face folder", flag_values=FLAGS, required=True)
cli.DEFINE_string("prompts", None, "prompts, .jsonl or .parquet", flag_values=FLAGS, required=True)
cli.DEFINE_string("out", None, "directory of the job: made, or continued", flag_values=FLAGS, required=True)
cli.DEFINE_integer("samples", None, "per prompt (default: the config's)", flag_values=FLAGS)
cli.DEFINE_integer("max_tokens", None, "per sample (default: the config's)", flag_values=FLAGS)
cli.DEFINE_float("temperature", None, "0 is greedy (default: the config's)", flag_values=FLAGS)
words = "keys and values in the compute dtype, or in int8 (default: the config's)"
cli.DEFINE_enum("kv_cache", None, ["compute", "int8"], words, flag_values=FLAGS)
cli.DEFINE_integer("seed", None, "of the random numbers (default: the config's)", flag_values=FLAGS)
words = "workers to start; 0: with the local executor this process does the work, on a cluster it is one worker"
cli.DEFINE_integer("workers", 0, words, flag_values=FLAGS)
cli.DEFINE_integer("threads", 1, "CPU threads of each worker", flag_values=FLAGS)
choice.define_flags(FLAGS)

POLL_S = 0.5
REPORT_S = 2.0  # between the reports of a worker on its progress
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
    kv_cache: str | None,
    seed: int | None,
    workers: int,
    threads: int,
    **flags: Any,
) -> int:
    import jax

    from launch.jobs import Job
    from launch.preflight import check_devices
    from launch.prompts import PromptFile
    from launch.stop import StopRequest
    from scaling.sweep.trial import override
    from search.engine.placement import engine_mesh, rules_for
    from search.policy import load_policy

    where = choice.options(flags)
    chosen = None
    if workers or where.executor != "local":
        chosen = choice.make(where)
        order = Order(Path(out), workers, threads, where.devices_per_worker, where.nodes_per_worker)
        chosen.check(order)
    given: dict[str, Any] = {"samples": samples, "max_tokens": max_tokens, "sampling.temperature": temperature}
    given |= {"seed": seed, "engine.kv_cache": kv_cache}
    config = override(config, {name: value for name, value in given.items() if value is not None})
    file = PromptFile(prompts)
    devices = jax.local_device_count() if chosen is None else chosen.devices(order)
    check_devices([config.mesh], devices)
    policy = load_policy(checkpoint, engine_mesh(config.mesh) if chosen is None else None)
    if devices is not None:
        rules_for(policy.model, config.mesh.fit(devices).sizes)
    config = fitted(config, policy)
    config.engine.check(policy.model)
    job = Job.open(Path(out), config, file, policy.digest, checkpoint)
    stop = StopRequest()
    if not job.is_finished():
        if chosen is not None:
            del policy  # the workers have their own
            with contextlib.closing(chosen):
                oversee(job, chosen, order, stop)
        else:
            work(job, policy, stop)
        if stop():
            return SAVED
    return conclude(job)


def fitted(config: JobConfig, policy: Policy) -> JobConfig:
    """The job with the engine's default context cut down to what the model has positions for."""
    from scaling.sweep.trial import override
    from search.engine.config import EngineConfig

    model, asked = policy.model, config.engine.max_len
    if model.positions == "learned" and model.max_seq_len < asked == EngineConfig().max_len:
        return override(config, {"engine.max_len": model.max_seq_len})
    return config


def oversee(job: Job, executor: Executor, order: Order, stop: Any) -> None:
    """Let workers do the job; they save when `stop` says so, or when this process fails."""
    from launch.progress import JobDisplay

    left = sum(not job.is_done(i) for i in range(len(job.shards)))
    executor.submit(order, left or 1)
    try:
        with JobDisplay(job.rows * job.config.samples) as display:
            while executor.running() and not stop():
                display.show(
                    sum(job.shards[i].rows for i in range(len(job.shards)) if job.is_done(i)) * job.config.samples
                )
                time.sleep(POLL_S)
    except BaseException:
        executor.cancel()
        raise
    if stop():
        executor.cancel()
    elif not job.is_finished():
        raise RuntimeError(f"the workers left the job unfinished: see {job.path / 'logs'}")


def help_with(out: Path, name: str, stop: Any) -> int:
    """Work on the job in `out` as one worker of several; the exit code."""
    from launch.distributed import DISK_FULL
    from launch.jobs import Job
    from models.errors import require
    from search.engine.placement import engine_mesh
    from search.policy import load_policy

    job, checkpoint = Job.find(out)
    if job.is_finished():
        return 0
    policy = load_policy(checkpoint, engine_mesh(job.config.mesh))
    problem = f"is not the model that the job in {out} was started with"
    require(policy.digest == job.identity["model"], checkpoint, problem, "restore it, or start a new job")
    try:
        work(job, policy, stop, name)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the log is on that disk, too
        return DISK_FULL
    return SAVED if stop() else 0


def work(job: Job, policy: Policy, stop: Any, name: str = "infer") -> None:
    """Draw every sample that no other process is drawing, wait for theirs, and write the manifest."""
    with job.presence(name) as presence:
        while not job.is_finished() and not stop():
            if not all(job.is_done(i) for i in range(len(job.shards))):
                draw(job, policy, stop, presence)  # again, after `finish` has set a damaged shard aside
            elif presence.claim("finish"):
                if not job.is_finished():
                    job.finish()
                presence.release("finish")
            else:
                time.sleep(POLL_S)


def draw(job: Job, policy: Policy, stop: Any, presence: Presence) -> None:
    """Draw samples until all are there."""
    import dataclasses

    from launch.progress import JobDisplay

    config = dataclasses.replace(job.config.engine, ends=job.config.engine.ends or policy.ends)
    feed = Feed(job, policy, config, stop, presence)
    feed.check()
    engine = make_engine(job.config, config, policy)
    with JobDisplay(job.rows * job.config.samples) as display:
        while not stop() and not all(job.is_done(i) for i in range(len(job.shards))):
            try:
                for completion in engine.generate(feed.requests(), feed.fail):
                    feed.write(completion, engine)
                    display.add(completion.generated_tokens)
                    if stop():
                        return
            finally:
                feed.close()
            time.sleep(POLL_S)  # other processes hold what is left; take over when one of them dies
    feed.report(last=True)


def make_engine(job: JobConfig, config: EngineConfig, policy: Policy) -> Engine:
    """The engine that a job asks for."""
    from models.quantize import quantize
    from search.engine.engine import Engine
    from search.engine.placement import engine_mesh
    from search.engine.speculative import Speculation, SpeculativeEngine

    params, mesh = quantize(policy.params, policy.model, job.quantize), engine_mesh(job.mesh)
    spelling = policy.spelling if job.stop else ()
    if job.speculate == "none":
        return Engine(policy.model, params, config, mesh, spelling)
    speculation = Speculation(drafter=job.speculate)
    return SpeculativeEngine(policy.model, params, config, speculation, mesh=mesh, spelling=spelling)


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

    def requests(self) -> Iterator[Request]:
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
            requests = list(self._read(index, writer))
            self._close_if_complete(index)
            yield from requests

    def _read(self, index: int, writer: ShardWriter) -> Iterator[Request]:
        """The requests of a shard, without the samples that are kept already."""
        from launch.prompts import BadLine

        for prompt in self.job.prompts.read(self.job.shards[index]):
            if isinstance(prompt, BadLine):
                writer.add_bad(prompt)
                continue
            if prompt.line in writer.bad:  # found earlier, when it was drawn or written
                continue
            try:
                request = self._request(prompt, writer)
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

    def _request(self, prompt: Prompt, writer: ShardWriter) -> Request:
        done = tuple(sorted(sample for line, sample in writer.done if line == prompt.line))
        request = self._make(prompt.line - 1, self._tokens(prompt), done)
        request.check(self.policy.model.vocab_size, self.engine_config)
        return request

    def _make(self, problem: int, tokens: tuple[int, ...], skip: tuple[int, ...]) -> Request:
        from search.engine.request import Request

        job = self.job.config
        return Request(problem, tokens, job.samples, job.max_tokens, job.sampling, (), job.seed, skip, job.stop)

    def _tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if prompt.tokens is not None:
            return prompt.tokens
        if prompt.messages is not None:
            return self.policy.chat(prompt.messages, **{**self.job.config.chat, **prompt.template})
        return tuple(int(token) for token in self.policy.tokenizer.encode(prompt.text or ""))

    def write(self, completion: Completion, engine: Engine) -> None:
        """Append one sample to its shard, and close it when it was the last; the engine is between two rounds."""
        from search.engine.scoring import score_prompt

        self.presence.check()
        self.drawn["samples"] += 1
        self.drawn["tokens"] += completion.generated_tokens
        self.drawn["flops"] += completion.flops
        self.report()
        if completion.problem not in self.prompts:  # it failed
            return
        index, prompt, tokens = self.prompts[completion.problem]
        writer, _ = self.open[index]
        try:
            line = self._line(prompt, tokens, completion)
            if self.job.config.prompt_logprobs and completion.sample == 0:
                own = score_prompt(engine, completion.problem, tokens)
                line["prompt_logprobs"] = [x if x is None else round(x, 6) for x in own]
            writer.add(line)
        except OSError:  # of the disk, not of the line
            raise
        except Exception as error:  # whatever a sample holds that cannot be decoded or written: it is that line's
            self.fail(completion.problem, error)
            return
        self._close_if_complete(index)

    def fail(self, problem: int, error: Exception) -> None:
        """A prompt whose samples cannot be drawn or written: it has an error in their place."""
        index, prompt, _ = self.prompts.pop(problem)
        writer, _ = self.open[index]
        writer.expected -= self.job.config.samples
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
        return {
            "line": prompt.line,
            **({"id": prompt.id} if prompt.id is not None else {}),
            **prompt.fields,
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


def fault(line: int, error: Exception) -> BadLine:
    """What an error says of the line that raised it."""
    from launch.prompts import BadLine
    from models.errors import ConfigError

    if isinstance(error, ConfigError):
        return BadLine(line, f"{error.field.rpartition('.')[2]} {error.problem}", error.fix)
    return BadLine(line, f"raised {type(error).__name__}: {error}", "change the line")


def conclude(job: Job) -> int:
    """Verify what was written and print its essence; 1 when prompts could not be used."""
    from models.errors import printable

    manifest = job.verify()
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(manifest["finish_reasons"].items()))
    print(
        f"{manifest['samples']:,} samples of {manifest['prompts']:,} prompts ({reasons}): "
        f"{job.path / 'samples.jsonl'}\n"
        f"{manifest['prompt_tokens']:,} prompt tokens, {manifest['generated_tokens']:,} generated, "
        f"{manifest['flops']:.3g} FLOPs and {manifest['bytes']:.3g} bytes to decode"
    )
    for shard in manifest.get("redrawn_shards", ()):
        print(printable(f"{job.shard_path(int(shard))} had changed and was drawn again"), file=sys.stderr)
    for message in job.bad_lines():
        print(printable(f"error: {message}"), file=sys.stderr)
    return 1 if manifest["bad_lines"] else 0


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__, kinds)
