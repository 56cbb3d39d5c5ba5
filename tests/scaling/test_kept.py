"""Files of the project: written in one step, read back only when they are what was written."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.choose_mesh import read_device_table
from launch.overrides import load_config
from models.devices import find_device
from models.errors import ConfigError
from models.huggingface.files import read_json
from models.limits import check_tokenizer
from scaling import Fit, kept
from scaling.train.metrics import read_rows

SHAPE = {"name": str, "count": int, "share?": (float, None), "parts": [{"id": str}], "totals?": {str: int}}
GOOD: dict[str, Any] = {"name": "a", "count": 3, "parts": [{"id": "x"}], "totals": {"b": 1}, "more": [None]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": None}, "name is null, not text"),
        ({"count": True}, "count is true, not an integer"),
        ({"count": 3.5}, "count is 3.5, not an integer"),
        ({"count": 2**63}, "count is 9223372036854775808, not an integer"),
        ({"count": -(10**30)}, "count is a number beyond 64 bits, not an integer"),
        ({"share": "1"}, 'share is "1", not a number or null'),
        ({"parts": {}}, "parts is an empty object, not a list"),
        ({"parts": [{"id": "x"}, {}]}, r"parts\[1\].id is missing"),
        ({"parts": [[]]}, r"parts\[0\] is a list of 0, not an object"),
        ({"totals": {"b": []}}, "totals.b is a list of 0, not an integer"),
    ],
)
def test_what_is_wrong_is_said_by_its_place(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(GOOD))
    assert kept.read(path, SHAPE) == GOOD
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(ConfigError, match=rf"file\.json: is damaged \({words}\): restore it"):
        kept.read(path, SHAPE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(GOOD)), inner, max_size=5),
)


@given(JSON)
def test_any_value_is_of_the_shape_or_refused(value: Any) -> None:
    fault = kept.misshapen(value, SHAPE)
    assert isinstance(fault, str)
    if not fault:
        assert (value["name"] + "" and value["count"] + 0 < 2**63) or value["name"] == "" or value["count"] >= -(2**63)
        assert all(isinstance(part["id"], str) for part in value["parts"])


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        kept.parsed(content, SHAPE, "place")
    except ConfigError as error:
        assert error.field == "place"


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4), st.text(min_size=1, max_size=3))
def test_a_sealed_object_opens_unless_anything_changed(record: dict[str, Any], name: str) -> None:
    record.pop(kept.SEAL, None)
    written = json.loads(json.dumps(kept.sealed(record)))
    plain = json.loads(json.dumps(record))
    assert json.dumps(kept.opened(written, "place")) == json.dumps(plain)
    with pytest.raises(ConfigError, match="changed after it was written"):
        kept.opened(written | {f"{name}+": 1}, "place")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "pipe", tmp_path / "loop", tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="no regular file"):
            kept.read(path, dict)
    assert kept.read_or_none(tmp_path / "pipe", dict) is None and kept.read_or_none(tmp_path / "none", dict) is None


@pytest.mark.parametrize("links", [True, False])
def test_of_many_who_make_a_file_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def link(*_: object) -> None:
            raise OSError(kept.NO_LINKS[0], "no links here")

        monkeypatch.setattr(os, "link", link)
    path, made = tmp_path / "job.json", []
    start = threading.Barrier(8)

    def make(number: int) -> None:
        start.wait()
        if kept.create(path, str(number)):
            made.append(number)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_text()] == [str(number) for number in made]
    assert [found.name for found in tmp_path.iterdir()] == ["job.json"]


@pytest.mark.parametrize("opening", ['{"a":', "["])
def test_deep_nesting_is_damage_wherever_json_of_a_file_is_read(tmp_path: Path, opening: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(opening * 100_000)
    for read in (
        Fit.from_json,
        load_config,
        read_json,
        check_tokenizer,
        lambda p: read_device_table(p, find_device("v5e")),
    ):
        with pytest.raises(ConfigError, match="config.json"):
            read(path)


def test_damaged_rows_of_metrics_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    damaged = ["{}", "[]", "null", '{"step": "1"}', '{"step": 2, "loss": "x"}', "[" * 100_000, f'{{"step": {2**64}}}']
    whole = ['{"step": 1, "loss": 2.5}', '{"step": 2, "loss": null}']
    path.write_bytes("\n".join([whole[0], *damaged, whole[1], "\udcff", '{"st']).encode(errors="surrogateescape"))
    assert read_rows(path) == [(line + "\n", json.loads(line)) for line in whole]
    assert read_rows(tmp_path / "nothing") == []
