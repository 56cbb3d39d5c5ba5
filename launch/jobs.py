"""Job: what an inference job keeps on disk, so that every sample is there exactly once whatever is killed.

    job.json           the resolved JobConfig, digests of model and prompts, the shards
    shards/<n>.jsonl   finished samples of one shard, in order; <n>.partial.jsonl while it is being worked on
    .leases/<n>.*      who works on shard n; another takes over when that process dies or falls silent
    samples.jsonl      all of them, one line per sample, in the order of the prompts; samples.parquet: the same
    cards/             what each worker took: devices, seconds, FLOPs, energy
    manifest.json      counts, cost, digests, versions; written last

A sample's tokens depend on its prompt, its problem number and the seed, not on which process drew it or when. So a
shard is resumed by skipping the samples that its partial file holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Literal, get_args

from launch.environment import available_cpus
from launch.prompts import BadLine, PromptFile, Shard
from launch.samples import SampleTable
from models.errors import ConfigError, require
from models.quantize import MODES, QuantizeMode
from models.serialize import from_json, to_json
from models.sharding import MeshConfig
from scaling.sweep.card import card
from scaling.sweep.directory import read_json
from scaling.sweep.lease import Presence
from scaling.sweep.results import write_atomically
from search.engine.config import EngineConfig
from search.engine.placement import check_slots
from search.engine.sampling import Sampling

LEDGER = ("prompt_tokens", "generated_tokens", "flops", "bytes")
Speculate = Literal["none", "table", "text", "table+text"]
VERSIONED = ("isoflop", "jax", "jaxlib", "flax", "numpy")


@dataclass(frozen=True)
class JobConfig:
    """An inference job: how many samples of every prompt, drawn how, by an engine of which sizes."""

    samples: int = 1  # per prompt
    max_tokens: int = 128  # per sample
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()  # texts that end a sample
    chat: dict[str, bool | int | float | str] = field(default_factory=dict)  # variables of the chat template
    prompt_logprobs: bool = False  # also of the prompt's own tokens, with its first sample
    seed: int = 0
    quantize: QuantizeMode = "float32"  # how weights are kept; see models.quantize
    speculate: Speculate = "none"  # guess tokens ahead; they come out as without guesses, in fewer passes
    engine: EngineConfig = field(default_factory=EngineConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)  # of a worker's devices: data splits slots, tensor the model
    shard_size: int = 256  # prompts that one process claims at a time

    def __post_init__(self) -> None:
        for name in ("samples", "max_tokens", "shard_size"):
            value = getattr(self, name)
            require(value >= 1, name, f"is {value}", "give a positive integer")
        require(0 <= self.seed < 2**32, "seed", f"is {self.seed}", "give 0 to 2^32 - 1")
        for name, allowed in (("quantize", MODES), ("speculate", get_args(Speculate))):
            value = getattr(self, name)
            require(value in allowed, name, f"is {value!r}", f"use one of {', '.join(allowed)}")
        require(all(self.stop), "stop", "holds an empty text", "remove it")
        check_slots(self.mesh.sizes, self.engine.slots)


class Job:
    """One output directory; `open` makes it or checks that it is this job's."""

    def __init__(self, path: Path, config: JobConfig, prompts: PromptFile, shards: list[Shard], identity: dict):
        self.path, self.config, self.prompts, self.shards, self.identity = path, config, prompts, shards, identity

    @classmethod
    def open(cls, path: Path, config: JobConfig, prompts: PromptFile, model: str, checkpoint: str = "") -> Job:
        """The job in directory `path`; model: digest of the parameters; checkpoint: where workers find them.

        Raises:
          ConfigError: the directory belongs to another job, or to something else; no prompts.
        """
        identity = {"config": to_json(config), "model": model, "prompts": prompts.digest()}
        written = path / "job.json"
        if written.exists():
            record = read_json(written)
            record["config"] = to_json(from_json(JobConfig, record["config"]))  # what is newer than it has its default
            _check_same(path, record, identity)
            shards = [Shard(*shard) for shard in record["shards"]]
            return cls(path, config, prompts, shards, identity)
        strangers = sorted(p.name for p in path.iterdir() if not p.name.startswith(".")) if path.is_dir() else []
        problem = f"is not empty ({', '.join(strangers[:3])}) and holds no job"
        require(not strangers, str(path), problem, "choose a new --out")
        shards = prompts.shards(config.shard_size)
        place = os.path.abspath(checkpoint) if os.path.exists(checkpoint) else checkpoint  # or a name on a hub
        where: dict[str, Any] = {"checkpoint": place, "file": str(prompts.path.resolve())}
        where["shards"] = [dataclasses.astuple(shard) for shard in shards]
        write_atomically(written, json.dumps(identity | where, indent=1))
        return cls(path, config, prompts, shards, identity)

    @classmethod
    def find(cls, path: Path) -> tuple[Job, str]:
        """(the job that was opened in `path`, where its checkpoint is), for a worker that joins it.

        Raises:
          ConfigError: the directory holds no job, or the prompts changed since.
        """
        written = path / "job.json"
        require(written.exists(), str(path), "holds no job: job.json is missing", "check --workdir")
        record = read_json(written)
        prompts = PromptFile(record["file"])
        fix = "restore the file, or start a new job"
        require(prompts.digest() == record["prompts"], str(prompts.path), "changed since the job began", fix)
        identity = {name: record[name] for name in ("config", "model", "prompts")}
        config, shards = from_json(JobConfig, record["config"]), [Shard(*shard) for shard in record["shards"]]
        return cls(path, config, prompts, shards, identity), record["checkpoint"]

    @property
    def rows(self) -> int:
        """Lines of the prompt file, blank ones included."""
        return sum(shard.rows for shard in self.shards)

    def shard_path(self, index: int, suffix: str = ".jsonl") -> Path:
        """Where a shard's lines are kept."""
        return self.path / "shards" / f"{index:06d}{suffix}"

    def is_finished(self) -> bool:
        """Whether the job's last file is written."""
        return (self.path / "manifest.json").exists()

    def is_done(self, index: int) -> bool:
        """Whether all samples of a shard are kept."""
        return self.shard_path(index).exists() or self.is_finished()

    def presence(self, name: str) -> Presence:
        """This process as one of those that work on the job: a context manager."""
        return Presence(self.path / ".leases", name)

    def write_progress(self, worker: str, state: dict[str, Any], last: bool = False) -> None:
        """What a worker has drawn since it began; its `last` report is kept as its card."""
        write_atomically(self.path / "progress" / f"{worker}.json", json.dumps(state))
        if last and state["samples"]:
            import jax

            device = jax.devices()[0].device_kind
            made = card(
                self.identity["config"], device=device, devices=jax.device_count(), threads=_threads(),
                wall_s=state["seconds"], flops=state["flops"], tokens=state["tokens"],
            )  # fmt: skip
            names = ("model", "prompts")
            made |= {name: self.identity[name] for name in names} | {"worker": worker, "samples": state["samples"]}
            write_atomically(self.path / "cards" / f"{worker}-{os.getpid()}.json", json.dumps(made, indent=1))

    def finish(self) -> dict[str, Any]:
        """Join the shards into samples.jsonl and samples.parquet, line by line, and write the manifest; returns it.

        A line cut short or changed behind our back is found here: every sample must be there once.
        """
        total, counts = hashlib.sha256(), dict.fromkeys(("samples", "prompts", "bad_lines", *LEDGER), 0)
        reasons: dict[str, int] = {}
        partial = self.path / ".samples.partial"
        with open(partial, "wb") as out, SampleTable(self.path / "samples.parquet") as table:
            for index in range(len(self.shards)):
                for line in read_lines(self.shard_path(index)):
                    _count(line, counts, reasons)
                    text = (json.dumps(line, ensure_ascii=False) + "\n").encode()
                    total.update(text)
                    out.write(text)
                    table.add(line)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, self.path / "samples.jsonl")
        manifest = (
            self.identity
            | counts
            | {
                "finish_reasons": reasons,
                "sha256": total.hexdigest(),
                "seed": self.config.seed,
                "versions": {name: metadata.version(name) for name in VERSIONED},
            }
        )
        write_atomically(self.path / "manifest.json", json.dumps(manifest, indent=1))
        for index in range(len(self.shards)):
            self.shard_path(index).unlink(missing_ok=True)
        return manifest

    def verify(self) -> dict[str, Any]:
        """The manifest of a finished job, after checking samples.jsonl against it; ConfigError when they differ."""
        manifest = read_json(self.path / "manifest.json")
        samples = self.path / "samples.jsonl"
        found = "nothing"
        if samples.exists():
            with open(samples, "rb") as f:
                found = hashlib.file_digest(f, "sha256").hexdigest()
        fix = "restore it, or delete the directory and run the job again"
        require(found == manifest["sha256"], str(samples), "is not what the job wrote", fix)
        return manifest

    def bad_lines(self) -> Iterator[str]:
        """One message for every prompt that could not be used, in order."""
        for line in read_lines(self.path / "samples.jsonl"):
            if "error" in line:
                yield f"{self.prompts.path}:{line['line']}: {line['error']}"


class ShardWriter:
    """The samples of one shard on their way to disk: appended as they come, put in order at the end."""

    def __init__(self, job: Job, index: int):
        self.job, self.index = job, index
        self.partial = job.shard_path(index, ".partial.jsonl")
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        kept = list(read_lines(self.partial)) if self.partial.exists() else []
        self.bad = {line["line"] for line in kept if "error" in line}
        good = (line for line in kept if line["line"] not in self.bad)  # not of a prompt that failed half-way
        self.done = {(line["line"], line["sample"]) for line in good}
        _keep_whole_lines(self.partial)
        self.file: IO[str] = open(self.partial, "a", encoding="utf-8")
        self.expected = 0  # samples of this shard

    def add(self, line: dict[str, Any]) -> None:
        """Append one sample."""
        self._append(line)
        self.done.add((line["line"], line["sample"]))

    def add_bad(self, bad: BadLine) -> None:
        """Keep what is wrong with a prompt, once; samples of it that are there no longer count."""
        if bad.line not in self.bad:
            self._append({"line": bad.line, "error": bad.message})
            self.bad.add(bad.line)
            self.done = {key for key in self.done if key[0] != bad.line}

    def _append(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.file.flush()

    @property
    def complete(self) -> bool:
        """Whether every expected sample is there."""
        return len(self.done) == self.expected

    def close(self) -> None:
        """Put a complete shard in order and make it final; leave an incomplete one to be resumed."""
        self.file.close()
        if not self.complete:
            return
        kept = (line for line in read_lines(self.partial) if "error" in line or line["line"] not in self.bad)
        lines = sorted(kept, key=lambda line: (line["line"], line.get("sample", -1)))
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomically(self.job.shard_path(self.index), text)
        self.partial.unlink()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file of samples; a last line that a crash cut short is passed over.

    Raises:
      ConfigError: a line in the middle is damaged.
    """
    with open(path, encoding="utf-8", errors="replace") as f:
        for number, line in enumerate(f, 1):
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except ValueError:
                fix = "delete this file and run the job again: only its samples are drawn anew"
                raise ConfigError(f"{path}:{number}", "is damaged", fix) from None


def _keep_whole_lines(path: Path) -> None:
    """Cut what a crash left behind the last newline, so that the next line starts on its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _count(line: dict[str, Any], counts: dict[str, int], reasons: dict[str, int]) -> None:
    if "error" in line:
        counts["bad_lines"] += 1
        return
    first = line["sample"] == 0
    counts["samples"] += 1
    counts["prompts"] += first
    reasons[line["finish_reason"]] = reasons.get(line["finish_reason"], 0) + 1
    for name in LEDGER:
        counts[name] += line["ledger"][name] if first or name != "prompt_tokens" else 0


def _check_same(path: Path, record: dict[str, Any], identity: dict[str, Any]) -> None:
    """ConfigError naming what a directory's job was started with and what is given now."""
    changed = [name for name in ("model", "prompts") if record[name] != identity[name]]
    if digest_of(record["config"]) != digest_of(identity["config"]):
        before, now = _flat(record["config"]), _flat(identity["config"])
        names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        changed += [f"{name} was {before.get(name)}, is {now.get(name)}" for name in names]
    problem = f"belongs to another job (changed: {'; '.join(changed[:3])})"
    require(not changed, str(path), problem, "choose a new --out, or give what it was started with")


def _threads() -> int:
    """CPU threads that this process computes with."""
    return int(os.environ.get("NPROC") or len(available_cpus()))


def digest_of(config: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{path}.{name}".lstrip(".")).items()}
