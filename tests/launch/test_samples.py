"""The samples of a job as Parquet: every line once, as in samples.jsonl, in flat memory however many there are."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from launch.jobs import Job, JobConfig
from launch.prompts import PromptFile

LEDGER = {"prompt_tokens": 2, "generated_tokens": 3, "flops": 5.0, "bytes": 7.0, "depth": 3}


def job(folder: Path, rows: int, shard: int = 500) -> Job:
    """A job whose shards are all drawn."""
    folder.mkdir()
    prompts = folder / "p.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"p{i}"}) + "\n" for i in range(rows)))
    made = Job.open(folder / "out", JobConfig(shard_size=shard), PromptFile(prompts), "model", str(folder))
    made.shard_path(0).parent.mkdir()
    for index, part in enumerate(made.shards):
        lines = [line(number) for number in range(part.first, part.first + part.rows)]
        made.shard_path(index).write_text("".join(json.dumps(one) + "\n" for one in lines))
    return made


def line(number: int) -> dict:
    if number % 7 == 3:
        return {"line": number, "error": "is not JSON: write JSON"}
    text = "é" * (number % 5)
    made = {"line": number, "sample": 0, "text": text, "tokens": [1, 2, 300], "logprobs": [-0.5, -1.25, 0.0],
            "finish_reason": "length", "ledger": LEDGER}  # fmt: skip
    return made | ({"id": str(number), "near_ties": [2]} if number % 2 else {})


def test_the_table_holds_what_the_lines_hold(tmp_path: Path) -> None:
    this = job(tmp_path / "job", 20, shard=6)
    manifest = this.finish()
    rows = pq.read_table(this.path / "samples.parquet").to_pylist()
    lines = [json.loads(text) for text in (this.path / "samples.jsonl").read_text().splitlines()]
    assert lines == [line(i) for i in range(1, 21)]
    for row, one in zip(rows, lines, strict=True):
        flat = one | one.get("ledger", {})
        assert {k: v for k, v in row.items() if v is not None} == {k: v for k, v in flat.items() if k in row}
    assert manifest["samples"] + manifest["bad_lines"] == len(rows) == 20 and manifest["seed"] == 0
    assert not list(this.path.glob(".samples*"))


def test_a_job_is_found_by_a_worker_that_joins_it(tmp_path: Path) -> None:
    this = job(tmp_path / "job", 8, shard=3)
    found, checkpoint = Job.find(this.path)
    assert (found.config, found.shards, found.identity) == (this.config, this.shards, this.identity)
    assert checkpoint == str(tmp_path / "job") and found.prompts.path == (tmp_path / "job" / "p.jsonl").resolve()


def test_memory_does_not_grow_with_the_job(tmp_path: Path) -> None:
    peaks = []
    for rows in (3_000, 24_000):  # lines of 300 bytes: a job that kept them would need 6 MB more
        this = job(tmp_path / str(rows), rows)
        pool = pa.system_memory_pool()
        before = pa.set_memory_pool(pool) or pool.max_memory()
        tracemalloc.start()
        this.finish()
        peaks.append((tracemalloc.get_traced_memory()[1], pool.max_memory() - before))
        tracemalloc.stop()
    assert peaks[1][0] < 1.3 * peaks[0][0] + 2e6
    assert peaks[1][1] <= peaks[0][1] + 2e6
