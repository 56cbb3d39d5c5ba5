"""What an inference job keeps: every sample once, whatever was cut short; another job's directory is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.jobs import Job, JobConfig, ShardWriter, read_lines
from launch.prompts import BadLine, PromptFile
from models.errors import ConfigError
from scaling import kept
from search.engine.config import EngineConfig

LEDGER = {"prompt_tokens": 2, "generated_tokens": 3, "flops": 5, "bytes": 7, "depth": 3}


def sample(line: int, number: int) -> dict:
    return {"line": line, "sample": number, "text": "é\n", "finish_reason": "length", "ledger": LEDGER}


def job(folder: Path, rows: int = 4, **changes: object) -> Job:
    prompts = folder / "p.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"p{i}"}) + "\n" for i in range(rows)))
    return Job.open(folder / "out", JobConfig(shard_size=2, samples=2, **changes), PromptFile(prompts), "model")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 1)), unique=True), st.integers(0, 400))
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


def drawn(folder: Path, text: str = "é") -> Job:
    """A job of two shards of two prompts, all drawn."""
    this = job(folder)
    for index in range(2):
        writer = ShardWriter(this, index)
        writer.expected = 4
        for line in (2 * index + 1, 2 * index + 2):
            for number in (0, 1):
                writer.add(sample(line, number) | {"text": text, "tokens": [line, number]})
        writer.close()
    return this


CHANGES = {
    "dropped": lambda lines: lines[1:],
    "the last dropped": lambda lines: lines[:-2] + lines[-1:],
    "cut in the middle": lambda lines: [lines[0], lines[1][:-9]],
    "doubled": lambda lines: lines[:1] + lines,
    "reordered": lambda lines: [lines[1], lines[0], *lines[2:]],
    "foreign": lambda lines: [lines[0].replace(b'"line": 1', b'"line": 9'), *lines[1:]],
    "a token changed": lambda lines: [lines[0].replace(b'"tokens": [1, 0]', b'"tokens": [7, 0]'), *lines[1:]],
    "empty": lambda lines: [],
    "null": lambda lines: [b"null\n"],
    "a list": lambda lines: [b"[]\n", *lines],
    "deep nesting": lambda lines: [b"[" * 100_000 + b"\n", *lines],
    "no UTF-8": lambda lines: [b"\xff\n", *lines],
    "a number beyond 64 bits": lambda lines: [lines[0].replace(b'"line": 1', b'"line": %d' % 2**65), *lines[1:]],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_finished_shard_that_changed_is_set_aside_and_drawn_again(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    this = drawn(tmp_path)
    path = this.shard_path(0)
    path.write_bytes(b"".join(CHANGES[name](path.read_bytes().splitlines(keepends=True))))
    assert this.finish() is None and not this.is_finished()
    assert not this.is_done(0) and this.is_done(1) and this.shard_path(0, ".damaged.jsonl").exists()
    assert [r.getMessage() for r in caplog.records if "prompts 1 to 2 are drawn again" in r.getMessage()]
    drawn(tmp_path)
    manifest = this.finish()
    assert manifest is not None and manifest["samples"] == 8 and this.verify()["samples"] == 8
    assert manifest["redrawn_shards"] == ["000000"]


def test_another_shard_or_another_jobs_in_place_of_one_is_drawn_again(tmp_path: Path) -> None:
    this = drawn(tmp_path)
    this.shard_path(1).write_bytes(this.shard_path(0).read_bytes())
    assert this.finish() is None and not this.is_done(1)
    (tmp_path / "b").mkdir()
    prompts = PromptFile(tmp_path / "p.jsonl")
    other = Job.open(tmp_path / "b" / "out", JobConfig(shard_size=2, samples=2, seed=1), prompts, "model")
    writer = ShardWriter(other, 1)
    writer.expected = 4
    for line in (3, 4):
        for number in (0, 1):
            writer.add(sample(line, number))
    writer.close()
    this.shard_path(1).write_bytes(other.shard_path(1).read_bytes())
    assert this.finish() is None and not this.is_done(1)


def test_a_shard_without_its_last_line_counts_when_it_holds_what_its_prompts_ask_for(tmp_path: Path) -> None:
    this = drawn(tmp_path)
    for index in range(2):
        path = this.shard_path(index)
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    manifest = this.finish()
    assert manifest is not None and manifest["samples"] == 8


@pytest.mark.parametrize("name", ["dropped", "doubled", "foreign", "a token changed", "null", "no UTF-8"])
def test_a_line_that_changed_before_its_shard_was_done_is_drawn_again(tmp_path: Path, name: str) -> None:
    this = job(tmp_path)
    writer = ShardWriter(this, 0)
    writer.expected = 4
    for number in (0, 1):
        writer.add(sample(1, number) | {"tokens": [1, number]})
    writer.close()
    lines = writer.partial.read_bytes().splitlines(keepends=True)
    writer.partial.write_bytes(b"".join(CHANGES[name](lines)))
    again = ShardWriter(this, 0)
    whole = {"dropped": {(1, 1)}, "foreign": {(1, 1)}, "a token changed": {(1, 1)}, "null": set()}
    assert again.done == whole.get(name, {(1, 0), (1, 1)})
    again.expected = 4
    for place in ((1, 0), (1, 1), (2, 0), (2, 1)):
        if place not in again.done:
            again.add(sample(*place) | {"tokens": list(place)})
    again.close()
    found = [line["tokens"] for line in read_lines(this.shard_path(0))]
    assert found == [[1, 0], [1, 1], [2, 0], [2, 1]]


def test_a_prompt_that_fails_half_way_has_its_error_and_no_samples(tmp_path: Path) -> None:
    this = job(tmp_path)
    writer = ShardWriter(this, 0)
    writer.expected = 4
    for place in ((1, 0), (2, 0), (2, 1)):
        writer.add(sample(*place) | {"check": "a column", "shard": 3})
    writer.add_bad(BadLine(1, "raised KeyError", "change the line"))
    writer.expected -= 2
    assert writer.complete and ShardWriter(this, 0).done == {(2, 0), (2, 1)}
    writer.close()
    found = list(read_lines(this.shard_path(0)))
    assert [(line["line"], line.get("sample")) for line in found] == [(1, None), (2, 0), (2, 1)]
    assert all(line["check"] == "a column" and line["shard"] == 3 for line in found[1:])
    assert this._is_whole(0)


@pytest.mark.parametrize("shards", [[], [[1, 0, 2]], [[1, 0, 2], [3, 34, 1]]])
def test_a_job_whose_shards_do_not_cover_its_prompts_is_refused(tmp_path: Path, shards: list[list[int]]) -> None:
    written = drawn(tmp_path).path / "job.json"
    written.write_text(json.dumps(json.loads(written.read_text()) | {"shards": shards}))
    for use in (lambda: job(tmp_path), lambda: Job.find(tmp_path / "out")):
        with pytest.raises(ConfigError, match=r"job\.json: is damaged \(its \d shards are not the 2 of the prompts"):
            use()


@pytest.mark.parametrize("content", ["{}", "[]", "null", "1", "[" * 100_000, '{"config": 1}'])
def test_a_job_or_manifest_of_another_structure_is_refused(tmp_path: Path, content: str) -> None:
    this = drawn(tmp_path)
    this.finish()
    (this.path / "manifest.json").write_text(content)
    with pytest.raises(ConfigError, match=r"manifest\.json: is damaged"):
        this.verify()
    (this.path / "job.json").write_text(content)
    for use in (lambda: job(tmp_path), lambda: Job.find(tmp_path / "out")):
        with pytest.raises(ConfigError, match=r"job\.json: is damaged"):
            use()


def test_a_manifest_that_changed_or_is_another_jobs_is_refused(tmp_path: Path) -> None:
    this = drawn(tmp_path)
    this.finish()
    path = this.path / "manifest.json"
    whole = path.read_text()
    path.write_text(whole.replace('"samples": 8', '"samples": 7'))
    with pytest.raises(ConfigError, match="changed after it was written"):
        this.verify()
    path.write_text(whole)
    this.identity["model"] = "another"
    with pytest.raises(ConfigError, match="is another job's"):
        this.verify()


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_missing_or_damaged_table_of_samples_is_made_again(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    this = drawn(tmp_path)
    this.finish()
    table = this.path / "samples.parquet"
    whole = table.read_bytes()
    damage(table)
    assert this.verify()["samples"] == 8 and table.read_bytes() == whole


def test_text_that_is_no_unicode_is_kept(tmp_path: Path) -> None:
    this = drawn(tmp_path, "\ud800")
    manifest = this.finish()
    assert manifest is not None and manifest["samples"] == 8
    assert {line["text"] for line in read_lines(this.path / "samples.jsonl")} == {"\ud800"}


def test_of_two_jobs_started_on_one_new_directory_one_is_refused_with_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = kept.create

    def after_the_other(path: Path, content: str) -> bool:  # both have seen an empty directory by now
        monkeypatch.setattr(kept, "create", write)
        drawn_by_other = job(tmp_path, seed=1)
        ShardWriter(drawn_by_other, 0).close()
        return write(path, content)

    monkeypatch.setattr(kept, "create", after_the_other)
    with pytest.raises(ConfigError, match=r"belongs to another job \(changed: seed was 1, is 0\)"):
        job(tmp_path)
    assert job(tmp_path, seed=1).config.seed == 1


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
