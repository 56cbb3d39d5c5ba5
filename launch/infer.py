"""Draw samples for every prompt of a file, batched on one engine: one JSON line per sample.

    python -m launch.infer --checkpoint runs/x/trials/0123456789ab --prompts prompts.jsonl --out samples/x --samples 16

A prompt line is {"prompt": "text"} or {"tokens": [1, 2]}, with an optional "id". --out/samples.jsonl gets the lines,
--out/manifest.json the totals. Run the same command again after a crash and it goes on where it stopped; run it in a
second terminal and both work on the job. --workers 4, or --executor slurm or ray, lets workers do it; more may join at
any time. A line that cannot be used is reported at the end and stops nothing else.

--strategy beam:samples=16,width=4 --verifier likelihood makes one search of every prompt instead, and one line of what
it found: docs/inference.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli
from launch.executors import choice
from launch.executors.executor import Executor, Order

if TYPE_CHECKING:
    from launch.jobs import Job, JobConfig
    from launch.searching import Prepared
    from scaling.sweep.lease import Presence
    from search.engine.config import EngineConfig
    from search.engine.engine import Engine
    from search.policy import Policy

FLAGS = cli.new_flags(config=True, default_config="configs/infer.py")
cli.DEFINE_string("checkpoint", None, "a trial's directory, or a Hugging Face folder", flag_values=FLAGS, required=True)
cli.DEFINE_string("prompts", None, "prompts, .jsonl or .parquet", flag_values=FLAGS, required=True)
cli.DEFINE_string("out", None, "directory of the job: made, or continued", flag_values=FLAGS, required=True)
words = "search every prompt: a strategy as text, beam:samples=16,width=4, as JSON, or a .json or .py file"
cli.DEFINE_string("strategy", None, words, flag_values=FLAGS)
words = "what scores its candidates: likelihood, numeric:answer=number:####, reward:folder=DIR; as JSON, or a file"
cli.DEFINE_string("verifier", None, words, flag_values=FLAGS)
words = "how answers are read: whole, number, number:####, after:TEXT, boxed (default: the config's)"
cli.DEFINE_string("answer", None, words, flag_values=FLAGS)
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
SAVED = 75  # exit code after SIGTERM, with everything kept (EX_TEMPFAIL)


def kinds() -> tuple[type, ...]:
    from launch.jobs import JobConfig

    return (JobConfig,)


def main(
    config: JobConfig,
    checkpoint: str,
    prompts: str,
    out: str,
    strategy: str | None,
    verifier: str | None,
    answer: str | None,
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
    from launch.searching import named_parts, prepared
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
    given |= {"seed": seed, "engine.kv_cache": kv_cache, "answer": answer} | named_parts(strategy, verifier)
    config = override(config, {name: value for name, value in given.items() if value is not None})
    file = PromptFile(prompts)
    devices = jax.local_device_count() if chosen is None else chosen.devices(order)
    check_devices([config.mesh], devices)
    policy = load_policy(checkpoint, engine_mesh(config.mesh) if chosen is None else None)
    if devices is not None:
        rules_for(policy.model, config.mesh.fit(devices).sizes)
    config = fitted(config, policy)
    config.engine.check(policy.model)
    search = prepared(config, policy, alone=chosen is None)
    job = Job.open(Path(out), config, file, policy.digest if search is None else search.digest, checkpoint)
    stop = StopRequest()
    if not job.is_finished():
        if chosen is not None:
            del policy, search  # the workers have their own
            with contextlib.closing(chosen):
                oversee(job, chosen, order, stop)
        else:
            work(job, policy, stop, search=search)
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
        with JobDisplay(job.rows * job.samples) as display:
            while executor.running() and not stop():
                display.show(
                    sum(job.shards[i].rows for i in range(len(job.shards)) if job.is_done(i)) * job.samples
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
    from launch.searching import prepared
    from models.errors import require
    from search.engine.placement import engine_mesh
    from search.policy import load_policy

    job, checkpoint = Job.find(out)
    if job.is_finished():
        return 0
    policy = load_policy(checkpoint, engine_mesh(job.config.mesh))
    search = prepared(job.config, policy)
    digest = policy.digest if search is None else search.digest
    problem = f"is not the model that the job in {out} was started with"
    require(digest == job.identity["model"], checkpoint, problem, "restore it, or start a new job")
    try:
        work(job, policy, stop, name, search)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the log is on that disk, too
        return DISK_FULL
    return SAVED if stop() else 0


def work(job: Job, policy: Policy, stop: Any, name: str = "infer", search: Prepared | None = None) -> None:
    """Draw or search what no other process is working on, wait for theirs, and write the manifest."""
    from launch.searching import answer_prompts

    with job.presence(name) as presence:
        while not job.is_finished() and not stop():
            if not all(job.is_done(i) for i in range(len(job.shards))):
                if search is not None:
                    answer_prompts(job, search, stop, presence)
                    continue
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

    from launch.feed import Feed
    from launch.progress import JobDisplay

    config = dataclasses.replace(job.config.engine, ends=job.config.engine.ends or policy.ends)
    feed = Feed(job, policy, config, stop, presence)
    feed.check()
    engine = make_engine(job.config, config, policy)
    with JobDisplay(job.rows * job.samples) as display:
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


def conclude(job: Job) -> int:
    """Verify what was written and print its essence; 1 when prompts could not be used."""
    from launch.tally import told
    from models.errors import printable

    manifest = job.verify()
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(manifest["finish_reasons"].items()))
    what = "samples" if job.config.strategy is None else "searches"
    print(
        f"{manifest['samples']:,} {what} of {manifest['prompts']:,} prompts ({reasons}): {job.path / 'samples.jsonl'}\n"
        f"{manifest['prompt_tokens']:,} prompt tokens, {manifest['generated_tokens']:,} generated, "
        f"{manifest['flops']:.3g} FLOPs and {manifest['bytes']:.3g} bytes to decode"
    )
    for line in told(manifest.get("right", {})):
        print(printable(line))
    for shard in manifest.get("redrawn_shards", ()):
        print(printable(f"{job.shard_path(int(shard))} had changed and was drawn again"), file=sys.stderr)
    for message in job.bad_lines():
        print(printable(f"error: {message}"), file=sys.stderr)
    return 1 if manifest["bad_lines"] or manifest["finish_reasons"].get("failed") else 0


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__, kinds)
