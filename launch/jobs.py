"""Job: what an inference job keeps on disk, so that every sample is there exactly once whatever is killed.

    job.json           the resolved JobConfig, digests of model and prompts, the shards
    shards/<n>.jsonl   finished samples of one shard, in order, and a last line with their number and digest;
                       <n>.partial.jsonl while it is being worked on; <n>.damaged.jsonl what was not as it was written
    .leases/<n>.*      who works on shard n; another takes over when that process dies or falls silent
    samples.jsonl      all of them, one line per sample, in the order of the prompts; samples.parquet: the same
    cards/             what each worker took: devices, seconds, FLOPs, energy
    manifest.json      counts, cost, digests, versions; written last

A sample's tokens depend on its prompt, its problem number and the seed, not on which process drew it or when. So a
shard is resumed by skipping the samples that its partial file holds. What is kept is checked before it counts, and what
was changed, cut, doubled or copied from elsewhere is drawn again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from launch.environment import available_cpus
from launch.prompts import SEARCHED, TAKEN, BadLine, PromptFile, Shard
from launch.samples import SAMPLES, SEARCHES, SampleTable
from launch.tally import Tally
from models.errors import LARGEST_SIZE, ConfigError, require
from models.quantize import MODES, QuantizeMode
from models.serialize import added, from_json, to_json
from models.sharding import MeshConfig
from scaling import kept
from scaling.kept import write_atomically
from scaling.sweep.card import card
from scaling.sweep.lease import Presence
from scaling.typed import at_most, typed
from search.config import SearchSizes
from search.engine.config import EngineConfig
from search.engine.placement import check_slots
from search.engine.sampling import Sampling
from search.ledger import NAMES
from search.strategies.answers import reader
from search.strategies.catalogue import AnyStrategy
from search.verifiers.catalogue import AnyVerifier

LEDGER = ("prompt_tokens", "generated_tokens", "flops", "bytes")
COSTS = tuple(name for name in NAMES if name != "seconds")  # of a search: what does not depend on the machine
Speculate = Literal["none", "table", "text", "table+text"]
CHECK = "__check__"  # field of a line in a partial file: its digest; no column of a prompt is called so
VERSIONED = ("isoflop", "jax", "jaxlib", "flax", "numpy")
_JOB: kept.Shape = {"config": dict, "model": str, "prompts": str, "checkpoint": str, "file": str, "shards": [[int]]}
_SAMPLE: kept.Shape = {
    "line": int, "sample": int, "text": str, "tokens?": [int], "logprobs?": [float], "finish_reason": str,
    "ledger": dict.fromkeys(LEDGER, float),
}  # fmt: skip
_LINE: kept.Shape = (_SAMPLE, {"line": int, "error": str})
_LAST: kept.Shape = {"shard": int, "lines": int, "job": str, "sha256": str}
_MANIFEST: kept.Shape = {
    "config": dict, "model": str, "prompts": int, "bad_lines": int, "samples": int, "finish_reasons": {str: int},
    "sha256": str, "parquet_sha256?": str,
} | dict.fromkeys(LEDGER, float)  # fmt: skip


@dataclass(frozen=True)
class JobConfig:
    """An inference job: how many samples of every prompt, drawn how, by an engine of which sizes."""

    samples: int = 1  # per prompt
    max_tokens: int = 128  # per sample
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()  # texts that end a sample
    chat: dict[str, bool | int | float | str] = added({})  # variables of the chat template
    prompt_logprobs: bool = added(False)  # also of the prompt's own tokens, with its first sample
    seed: int = 0
    quantize: QuantizeMode = "float32"  # how weights are kept; see models.quantize
    speculate: Speculate = "none"  # guess tokens ahead; they come out as without guesses, in fewer passes
    engine: EngineConfig = field(default_factory=EngineConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)  # of a worker's devices: data splits slots, tensor the model
    shard_size: int = 256  # prompts that one process claims at a time
    strategy: AnyStrategy | None = added(None)  # a search for every prompt, which gives one answer; None: samples
    verifier: AnyVerifier | None = added(None)  # what scores its candidates
    answer: str = added("whole")  # how answers are read: whole, number, number:####, after:TEXT, boxed
    search: SearchSizes = added(SearchSizes())  # of a strategy

    def __post_init__(self) -> None:
        typed(self)
        sizes = ("samples", "max_tokens", "shard_size")
        for name in sizes:
            value = getattr(self, name)
            require(value >= 1, name, f"is {value}", "give a positive integer")
        at_most(self, "", **dict.fromkeys(sizes, LARGEST_SIZE))
        require(0 <= self.seed < 2**32, "seed", f"is {self.seed}", "give 0 to 2^32 - 1")
        for name, allowed in (("quantize", MODES), ("speculate", get_args(Speculate))):
            value = getattr(self, name)
            require(value in allowed, name, f"is {value!r}", f"use one of {', '.join(allowed)}")
        require(all(self.stop), "stop", "holds an empty text", "remove it")
        check_slots(self.mesh.sizes, self.engine.slots)
        reader(self.answer)
        if self.strategy is None:
            require(self.verifier is None, "verifier", "scores nothing without a strategy", "name one, or leave it out")
        else:
            self._check_search()

    def _check_search(self) -> None:
        """Refuse what samples have and searches have not."""
        fix, only = "leave it out", "is of samples, and this job searches"
        require(self.samples == 1, "samples", f"{only}: the strategy says how many it takes", fix)
        require(self.speculate == "none", "speculate", only, fix)
        require(not self.prompt_logprobs, "prompt_logprobs", only, fix)
        shared = self.mesh.sizes["data"] == 1 or self.mesh.sizes["tensor"] == 1
        require(shared, "mesh", "splits prompts and the model at once", "use mesh.data or mesh.tensor for a search")


class Job:
    """One output directory; `open` makes it or checks that it is this job's."""

    def __init__(self, path: Path, config: JobConfig, prompts: PromptFile, shards: list[Shard], identity: dict):
        self.path, self.config, self.prompts, self.shards, self.identity = path, config, prompts, shards, identity
        self.samples = config.samples  # lines of one prompt; a search has one
        self.ledger: tuple[str, ...] = LEDGER
        self.schema = SAMPLES
        if config.strategy is not None:
            prompts.taken, self.ledger, self.schema = (*TAKEN, *SEARCHED), COSTS, SEARCHES

    @classmethod
    def open(cls, path: Path, config: JobConfig, prompts: PromptFile, model: str, checkpoint: str = "") -> Job:
        """The job in directory `path`; model: digest of the parameters; checkpoint: where workers find them.

        Raises:
          ConfigError: the directory belongs to another job, or to something else; no prompts.
        """
        identity = {"config": to_json(config), "model": model, "prompts": prompts.digest()}
        written, shards = path / "job.json", prompts.shards(config.shard_size)
        if not written.exists():
            strangers = sorted(p.name for p in path.iterdir() if not p.name.startswith(".")) if path.is_dir() else []
            if "job.json" not in strangers:  # which another process may just have written
                problem = f"is not empty ({', '.join(strangers[:3])}) and holds no job"
                require(not strangers, str(path), problem, "choose a new --out")
            place = os.path.abspath(checkpoint) if os.path.exists(checkpoint) else checkpoint  # or a name on a hub
            where: dict[str, Any] = {"checkpoint": place, "file": str(prompts.path.resolve())}
            where["shards"] = [dataclasses.astuple(shard) for shard in shards]
            kept.create(written, json.dumps(identity | where, indent=1))
        _check_same(path, _record(written)[0], identity)  # of several that start at once, one wrote it
        job = cls(path, config, prompts, shards, identity)
        job._check_shards()
        return job

    @classmethod
    def find(cls, path: Path) -> tuple[Job, str]:
        """(the job that was opened in `path`, where its checkpoint is), for a worker that joins it.

        Raises:
          ConfigError: the directory holds no job, or the prompts changed since.
        """
        written = path / "job.json"
        require(written.exists(), str(path), "holds no job: job.json is missing", "check --workdir")
        record, config = _record(written)
        prompts = PromptFile(record["file"])
        fix = "restore the file, or start a new job"
        require(prompts.digest() == record["prompts"], str(prompts.path), "changed since the job began", fix)
        identity = {name: record[name] for name in ("config", "model", "prompts")}
        job = cls(path, config, prompts, prompts.shards(config.shard_size), identity)
        job._check_shards()
        return job, record["checkpoint"]

    def _check_shards(self) -> None:
        """ConfigError unless job.json divides the prompts as the job does: else some would have no samples."""
        written = self.path / "job.json"
        found, made = _record(written)[0]["shards"], [list(dataclasses.astuple(shard)) for shard in self.shards]
        problem = f"is damaged (its {len(found)} shards are not the {len(made)} of the prompts)"
        require(found == made, str(written), problem, "restore it, or delete the directory and run the job again")

    @property
    def digest(self) -> str:
        """Of what the job is, by which its lines are told from another's."""
        return kept.digest(self.identity)

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
        write_atomically(self.path / "progress" / f"{worker}.json", json.dumps(state), durable=False)
        if last and state["samples"]:
            import jax

            device = jax.devices()[0].device_kind
            made = card(
                self.identity["config"], device=device, devices=jax.device_count(), threads=_threads(),
                wall_s=state["seconds"], flops=state["flops"], tokens=state["tokens"], seeds=(self.config.seed,),
                artifacts={name: self.identity[name] for name in ("model", "prompts")},
            )  # fmt: skip
            names = ("model", "prompts")
            made |= {name: self.identity[name] for name in names} | {"worker": worker, "samples": state["samples"]}
            write_atomically(self.path / "cards" / f"{worker}-{os.getpid()}.json", json.dumps(made, indent=1))

    def finish(self) -> dict[str, Any] | None:
        """Join the shards into samples.jsonl and samples.parquet, line by line, and write the manifest; returns it.

        None when a shard is not what was written there: it is set aside and has to be drawn again.
        """
        total, counts = hashlib.sha256(), dict.fromkeys(("samples", "prompts", "bad_lines", *self.ledger), 0)
        reasons: dict[str, int] = {}
        tally = Tally()
        digests, partial = [], self.path / ".samples.partial"
        whole = [self._is_whole(index) for index in range(len(self.shards))]
        if not all(whole):
            return None
        with open(partial, "wb") as out, self._table() as table:
            for index in range(len(self.shards)):
                digest = hashlib.sha256()
                for line in read_lines(self.shard_path(index)):
                    _count(line, counts, reasons, self.ledger)
                    tally.add(line)
                    text = _text(line)
                    digest.update(text)
                    total.update(text)
                    out.write(text)
                    table.add(line)
                digests.append(digest.hexdigest())
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, self.path / "samples.jsonl")
        manifest = self.identity | {"prompts_sha256": self.identity["prompts"]} | counts
        manifest |= {
            "finish_reasons": reasons,
            "sha256": total.hexdigest(),
            "parquet_sha256": kept.file_digest(self.path / "samples.parquet").hex(),
            "shards": digests,
            "redrawn_shards": sorted(path.name.partition(".")[0] for path in self.path.glob("shards/*.damaged.jsonl")),
            "seed": self.config.seed,
            **({"right": tally.right} if tally.right else {}),
            "versions": {name: metadata.version(name) for name in VERSIONED},
        }
        write_atomically(self.path / "manifest.json", json.dumps(kept.sealed(manifest), indent=1))
        for index in range(len(self.shards)):
            self.shard_path(index).unlink(missing_ok=True)
        return manifest

    def _table(self) -> SampleTable:
        return SampleTable(self.path / "samples.parquet", self.schema)

    def _is_whole(self, index: int) -> bool:
        """Whether a finished shard is what was written there; one that is not is set aside, and said to be."""
        path, shard = self.shard_path(index), self.shards[index]
        try:
            problem = self._fault(index, kept.read_bytes(path).splitlines(keepends=True))
        except FileNotFoundError:
            return False
        except ConfigError as error:
            problem = error.problem
        if problem:
            prompts = f"prompts {shard.first} to {shard.first + shard.rows - 1} are drawn again"
            logging.warning("%s %s: %s", path, problem, prompts)
            os.replace(path, self.shard_path(index, ".damaged.jsonl"))
        return not problem

    def _fault(self, index: int, lines: list[bytes]) -> str:
        """What is wrong with the lines of a shard, in words, or ""; ConfigError for one that is no line of samples."""
        found = [kept.parsed(text, (*_LINE, _LAST), self.shard_path(index)) for text in lines]
        if found and "line" not in found[-1]:
            last, digest = found[-1], hashlib.sha256(b"".join(lines[:-1])).hexdigest()
            if (last["job"], last["shard"]) != (self.digest, index):
                return "is another shard or another job's"
            return (
                "" if (last["lines"], last["sha256"]) == (len(lines) - 1, digest) else "is not what was written there"
            )
        # Cut off after its last sample, or written by an earlier version: it has to be what the prompts ask for.
        places = [_place(line) if "line" in line else (0, 0) for line in found]
        expected: list[tuple[int, int]] = []
        for prompt in self.prompts.read(self.shards[index]):
            bad = isinstance(prompt, BadLine) or (prompt.line, -1) in places
            expected += [(prompt.line, sample) for sample in ([-1] if bad else range(self.samples))]
        return "" if places == expected else f"has not the {len(expected)} lines of its prompts"

    def verify(self) -> dict[str, Any]:
        """The manifest of a finished job, after comparing what the job wrote with it.

        samples.parquet is made again from samples.jsonl where it is missing or changed. Raises ConfigError when the
        manifest or samples.jsonl is not what was written.
        """
        path, samples, table = (self.path / name for name in ("manifest.json", "samples.jsonl", "samples.parquet"))
        fix = "restore it, or delete the directory and run the job again"
        manifest = kept.opened(kept.read(path, _MANIFEST), path)
        same = all(manifest[name] == self.identity[name] for name in ("model", "config"))
        require(same, str(path), "is another job's", fix)
        whole = samples.is_file() and kept.file_digest(samples).hex() == manifest["sha256"]
        require(whole, str(samples), "is not what the job wrote", fix)
        if not table.is_file() or kept.file_digest(table).hex() != manifest.get("parquet_sha256"):
            logging.warning("%s is not what the job wrote: it is made again from samples.jsonl", table)
            with self._table() as rows:
                for line in read_lines(samples):
                    rows.add(line)
            manifest["parquet_sha256"] = kept.file_digest(table).hex()
            write_atomically(path, json.dumps(kept.sealed(manifest), indent=1))
        return manifest

    def bad_lines(self) -> Iterator[str]:
        """One message for every prompt that could not be used, or not be scored, in order."""
        for line in read_lines(self.path / "samples.jsonl"):
            if "error" in line:
                yield f"{self.prompts.path}:{line['line']}: {line['error']}"
            elif self.config.strategy is not None and "failed" in line:
                yield f"{self.prompts.path}:{line['line']}: {line['failed']}"


class ShardWriter:
    """The samples of one shard on their way to disk: appended as they come, put in order at the end.

    Each line carries a digest of itself and of its job and shard; what does not match is dropped, and drawn again.
    """

    def __init__(self, job: Job, index: int):
        self.job, self.index = job, index
        self.partial = job.shard_path(index, ".partial.jsonl")
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        self._key = f"{job.digest} {index} ".encode()
        lines = self._whole_lines()
        self.bad = {line for line, sample in lines if sample < 0}
        # (prompt, sample); not those of a prompt that failed half-way
        self.done = {place for place in lines if place[1] >= 0 and place[0] not in self.bad}
        self.file = open(self.partial, "ab")
        self.expected = 0  # samples of this shard

    def _whole_lines(self) -> dict[tuple[int, int], bytes]:
        """(prompt, sample) -> its line without the digest, of what the partial file holds; the rest is cut away."""
        found: dict[tuple[int, int], bytes] = {}
        if not self.partial.exists():
            return found
        *lines, rest = kept.read_bytes(self.partial).split(b"\n")  # the rest is what a crash cut short
        good = []
        for number, text in enumerate(lines, 1):
            try:
                line = kept.parsed(text, ({CHECK: str} | _SAMPLE, {CHECK: str} | _LINE[1]), self.partial)
                problem = "" if line.pop(CHECK) == self._check(line) else "is not what was written there"
            except ConfigError as error:
                problem = error.problem
            if not problem and _place(line) not in found:
                found[_place(line)] = _text(line)
                good.append(text + b"\n")
            else:
                again = f"{problem or 'is there twice'}: what it held is drawn again if nothing else holds it"
                logging.warning("%s:%d %s", self.partial, number, again)
        if len(good) < len(lines) or rest:
            write_atomically(self.partial, b"".join(good))
        return found

    def add(self, line: dict[str, Any]) -> None:
        """Append one sample."""
        self._append(line)
        self.done.add(_place(line))

    def add_bad(self, bad: BadLine) -> None:
        """Keep what is wrong with a prompt, once; samples of it that are there no longer count."""
        if bad.line not in self.bad:
            self._append({"line": bad.line, "error": bad.message})
            self.bad.add(bad.line)
            self.done = {place for place in self.done if place[0] != bad.line}

    def _append(self, line: dict[str, Any]) -> None:
        self.file.write(_text(line | {CHECK: self._check(line)}))
        self.file.flush()

    def _check(self, line: dict[str, Any]) -> str:
        return hashlib.sha256(self._key + _text(line)).hexdigest()[:16]

    @property
    def complete(self) -> bool:
        """Whether every expected sample is there."""
        return len(self.done) == self.expected

    def close(self) -> None:
        """Put a complete shard in order and make it final; leave any other to be resumed."""
        self.file.close()
        if not self.complete:
            return
        found = self._whole_lines()
        if not self.done <= found.keys():
            return  # it changed while it was written
        lines = [found[place] for place in sorted(found) if place[0] not in self.bad or place[1] < 0]
        last = {
            "shard": self.index,
            "lines": len(lines),
            "job": self.job.digest,
            "sha256": hashlib.sha256(b"".join(lines)).hexdigest(),
        }
        write_atomically(self.job.shard_path(self.index), b"".join([*lines, _text(last)]))
        self.partial.unlink()


def _place(line: dict[str, Any]) -> tuple[int, int]:
    """(prompt, sample) of a line, -1 for what is wrong with a prompt."""
    return line["line"], line.get("sample", -1)


def _text(line: dict[str, Any]) -> bytes:
    """A line of JSON; text that is no Unicode (half of a surrogate pair) is escaped."""
    try:
        return (json.dumps(line, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(line) + "\n").encode()



def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The samples and bad prompts in a file of them, in order; ConfigError for a line that is neither."""
    fix = "delete this file and run the job again: only its samples are drawn anew"
    with kept.opened_file(path, fix) as f:
        for number, text in enumerate(f, 1):
            line = kept.parsed(text, (*_LINE, _LAST), f"{path}:{number}", fix)
            if "line" in line:
                yield line


def _record(written: Path) -> tuple[dict[str, Any], JobConfig]:
    """job.json and the config in it, in which what is newer than the file has its default."""
    record = kept.read(written, _JOB)
    try:
        config = from_json(JobConfig, record["config"])
    except ConfigError as error:
        raise ConfigError(str(written), f"is damaged (config: {error.field} {error.problem})", kept.RESTORE) from None
    return record | {"config": to_json(config)}, config


def _count(line: dict[str, Any], counts: dict[str, int], reasons: dict[str, int], ledger: Sequence[str]) -> None:
    if "error" in line:
        counts["bad_lines"] += 1
        return
    first = line["sample"] == 0
    counts["samples"] += 1
    counts["prompts"] += first
    reasons[line["finish_reason"]] = reasons.get(line["finish_reason"], 0) + 1
    for name in ledger:
        counts[name] += line["ledger"][name] if first or name != "prompt_tokens" else 0


def _check_same(path: Path, record: dict[str, Any], identity: dict[str, Any]) -> None:
    """ConfigError naming what a directory's job was started with and what is given now."""
    changed = [name for name in ("model", "prompts") if record[name] != identity[name]]
    if record["config"] != identity["config"]:
        before, now = _flat(record["config"]), _flat(identity["config"])
        names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        changed += [f"{name} was {before.get(name)}, is {now.get(name)}" for name in names]
    problem = f"belongs to another job (changed: {'; '.join(changed[:3])})"
    require(not changed, str(path), problem, "choose a new --out, or give what it was started with")


def _threads() -> int:
    """CPU threads that this process computes with."""
    return int(os.environ.get("NPROC") or len(available_cpus()))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{path}.{name}".lstrip(".")).items()}
