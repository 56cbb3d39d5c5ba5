"""metrics.jsonl: a resumed run's file is the one that an uninterrupted run writes, wherever the crash was."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from scaling.train.metrics import MetricsWriter, read_rows

ROWS = [{"step": step, "loss": 5.0 - step / 10, "grad_norm": None} for step in range(1, 9)]


def write(directory, rows, resume_step=0):
    writer = MetricsWriter(directory, resume_step)
    for row in rows:
        writer.write(row)
    writer.close()
    return (directory / "metrics.jsonl").read_text()


def test_rows_are_json_lines_and_are_mirrored_to_tensorboard(tmp_path):
    text = write(tmp_path, ROWS)
    assert [json.loads(line) for line in text.splitlines()] == ROWS
    assert [row for _, row in read_rows(tmp_path / "metrics.jsonl")] == ROWS
    events = [path for path in (tmp_path / "tensorboard").iterdir() if b"loss" in path.read_bytes()]
    assert events and not any(b"grad_norm" in path.read_bytes() for path in events)  # it was never measured


@given(cut=st.integers(0, 400), checkpoint=st.integers(0, 8))
def test_a_file_cut_anywhere_after_its_checkpoint_ends_up_as_if_never_cut(tmp_path_factory, cut, checkpoint):
    lines = [json.dumps(row) + "\n" for row in ROWS]
    kept = sum(map(len, lines[:checkpoint]))  # what was flushed before the checkpoint was made
    directory = tmp_path_factory.mktemp("cut")
    (directory / "metrics.jsonl").write_text("".join(lines)[: max(kept, cut)])
    assert write(directory, ROWS[checkpoint:], checkpoint) == "".join(lines)


def test_a_last_line_without_its_end_is_completed(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(ROWS[0]))
    assert write(tmp_path, ROWS[1:3], 1).count("\n") == 3


def test_a_row_is_on_disk_when_write_returns(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(ROWS[0])
    assert [row for _, row in read_rows(tmp_path / "metrics.jsonl")] == ROWS[:1]
    writer.close()


def test_a_directory_without_metrics_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "metrics.jsonl") == []
