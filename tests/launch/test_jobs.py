"""What an inference job keeps: every sample once, whatever was cut short; another job's directory is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.jobs import Job, JobConfig, ShardWriter, read_lines
from launch.prompts import BadLine, PromptFile
from models.errors import ConfigError
from search.engine.config import EngineConfig

LEDGER = {"prompt_tokens": 2, "generated_tokens": 3, "flops": 5, "bytes": 7, "depth": 3}


def sample(line: int, number: int) -> dict:
    return {"line": line, "sample": number, "text": "é\n", "finish_reason": "length", "ledger": LEDGER}


def job(folder: Path, rows: int = 4, **changes: object) -> Job:
    prompts = folder / "p.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"p{i}"}) + "\n" for i in range(rows)))
    return Job.open(folder / "out", JobConfig(shard_size=2, samples=2, **changes), PromptFile(prompts), "model")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1)), unique=True), st.integers(0, 400))
def test_a_shard_cut_anywhere_keeps_whole_samples_and_finishes(
    tmp_path_factory: pytest.TempPathFactory, order: list[tuple[int, int]], cut: int
) -> None:
    this = job(tmp_path_factory.mktemp("job"))
    first = ShardWriter(this, 0)
    first.expected = 10
    for key in order:
        first.add(sample(*key))
    first.close()
    content = first.partial.read_bytes()
    first.partial.write_bytes(content[: len(content) - min(cut, len(content))])
    again = ShardWriter(this, 0)
    assert again.done <= set(order)
    again.expected = len(order)
    for key in order:
        if key not in again.done:
            again.add(sample(*key))
    again.close()
    assert [(x["line"], x["sample"]) for x in read_lines(this.shard_path(0))] == sorted(order)


def test_a_job_goes_on_in_a_version_with_more_settings(tmp_path: Path) -> None:
    written = job(tmp_path).path / "job.json"
    record = json.loads(written.read_text())
    del record["config"]["mesh"], record["config"]["engine"]["kv_cache"]
    written.write_text(json.dumps(record))
    assert job(tmp_path).config == JobConfig(shard_size=2, samples=2)
    with pytest.raises(ConfigError, match="engine.kv_cache was compute, is int8"):
        job(tmp_path, engine=EngineConfig(kv_cache="int8"))


def test_a_prompt_that_fails_half_way_has_an_error_and_no_samples_however_often_it_is_read(tmp_path: Path) -> None:
    this = job(tmp_path)
    for again in (False, True):
        writer = ShardWriter(this, 0)
        assert writer.bad == ({1} if again else set())
        assert writer.done == ({(2, 0)} if again else set())
        writer.expected = 2 if again else 4
        if not again:
            writer.add(sample(1, 0))
            writer.add(sample(2, 0))
            writer.add_bad(BadLine(1, "\x1b[31m\ud800", "leave it out"))
            writer.file.close()  # killed here
    writer.add(sample(2, 1))
    assert writer.complete
    writer.close()
    lines = list(read_lines(this.shard_path(0)))
    assert [(line["line"], line.get("sample")) for line in lines] == [(1, None), (2, 0), (2, 1)]
    assert lines[0]["error"] == "\\x1b[31m\\ud800: leave it out"


def finished(folder: Path) -> Job:
    this = job(folder)
    for index in range(2):
        writer = ShardWriter(this, index)
        writer.expected = 2
        writer.add_bad(BadLine(2 * index + 1, "is not JSON", "write JSON"))
        writer.add_bad(BadLine(2 * index + 1, "is not JSON", "write JSON"))
        for number in (1, 0):
            writer.add(sample(2 * index + 2, number))
        writer.close()
    this.finish()
    return this


def test_the_manifest_counts_what_is_there(tmp_path: Path) -> None:
    this = finished(tmp_path)
    manifest = this.verify()
    assert {k: manifest[k] for k in ("samples", "prompts", "bad_lines", "generated_tokens", "prompt_tokens")} == {
        "samples": 4, "prompts": 2, "bad_lines": 2, "generated_tokens": 12, "prompt_tokens": 4,
    }  # fmt: skip
    assert [message.rpartition(":")[0].rpartition("p.jsonl:")[2] for message in this.bad_lines()] == [
        "1: is not JSON", "3: is not JSON",
    ]  # fmt: skip
    assert not list((this.path / "shards").iterdir())


def test_samples_that_changed_are_noticed(tmp_path: Path) -> None:
    this = finished(tmp_path)
    path = this.path / "samples.jsonl"
    path.write_text(path.read_text().replace("length", "lengthy", 1))
    with pytest.raises(ConfigError, match="is not what the job wrote"):
        this.verify()


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    this = job(tmp_path)
    this.shard_path(0).parent.mkdir(parents=True)
    this.shard_path(0).write_text('{"line": 1\n{}\n')
    with pytest.raises(ConfigError, match="000000.jsonl:1: is damaged"):
        this.finish()


def test_a_directory_of_another_job_is_refused(tmp_path: Path) -> None:
    job(tmp_path)
    with pytest.raises(ConfigError, match="max_tokens was 128, is 7"):
        job(tmp_path, max_tokens=7)
    with pytest.raises(ConfigError, match="prompts"):
        job(tmp_path, rows=5)
    (tmp_path / "theses").mkdir()
    (tmp_path / "theses" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="thesis.tex"):
        Job.open(tmp_path / "theses", JobConfig(), PromptFile(tmp_path / "p.jsonl"), "model")


def test_a_shard_is_claimed_once(tmp_path: Path) -> None:
    this = job(tmp_path)
    with this.presence("a") as a, this.presence("b") as b:
        assert (a.claim("0"), b.claim("0"), b.claim("1")) == (True, False, True)
