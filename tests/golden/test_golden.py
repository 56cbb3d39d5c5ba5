"""What this checkout trains, generates and searches is what golden.json kept of an earlier one, to the last bit.

Another CPU or another jax rounds otherwise; there the same tokens must come out, and the same numbers to a tolerance
that record.py justifies. `python tests/golden/write.py --against tests/golden/golden.json` prints all that differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search.strategies.catalogue import STRATEGIES
from tests.golden import estimates, record, searching
from tests.golden.record import bits, differences, number

HERE = Path(__file__).resolve().parent
KEPT = json.loads((HERE / "golden.json").read_text())
INFINITE = float("inf")


@pytest.mark.slow  # some forty programs are compiled: 15 to 30 s of one core each
@pytest.mark.parametrize("section", ["generate", "search", "train"])
def test_every_result_is_the_kept_one(section: str, tmp_path: Path) -> None:
    """In a process of its own, whose devices, threads and XLA flags are those of the recording."""
    out = tmp_path / "found.json"
    command = [sys.executable, str(HERE / "write.py"), "--only", section, "--out", str(out)]
    as_recorded = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, env=as_recorded, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    exact = found["machine"] == KEPT["machine"]
    how = record.mode(exact)
    print(f"{section}: compared {how}")
    apart = [f"{section}{path} (by {by:.2g})" for path, by in differences(KEPT[section], found[section], exact)]
    assert not apart, f"compared {how}:\n" + "\n".join(apart[:40])


def test_counts_estimates_and_names_are_the_kept_ones() -> None:
    """Integers and Python's own floats, which no platform rounds otherwise; trial ids name the runs of users."""
    found = json.loads(json.dumps({name: make() for name, make in estimates.cases().items()}))
    assert KEPT["estimates"].keys() <= found.keys()
    apart = [
        f"{name}{path}" for name, kept in KEPT["estimates"].items() for path, _ in differences(kept, found[name], True)
    ]
    assert not apart, "\n".join(apart[:40])


def test_every_strategy_that_is_searched_is_of_the_catalogue() -> None:
    assert searching.ARGUMENTS.keys() < STRATEGIES.keys() and searching.cases().keys() == KEPT["search"].keys()


@pytest.mark.parametrize(
    ("want", "got", "exact", "near"),
    [
        (number(1.0), number(1.0 + 1e-15), [1.1e-15], []),
        ({"losses": [number(2.0)]}, {"losses": [number(2.0 + 1e-5)]}, [5e-6], [5e-6]),
        ({"losses": [number(2.0)] * 9}, {"losses": [number(2.0)] * 8 + [number(2.0 + 1e-5)]}, [5e-6], []),
        ({"logprobs": bits([1, -4])}, {"logprobs": bits([1.0001, -4])}, [2.5e-5], []),
        (bits([1, -4]), bits([1, -4, 2]), [INFINITE], [INFINITE]),
        (number(1.0), number(float("nan")), [INFINITE], [INFINITE]),
        (record.digest(b"a"), record.digest(b"b"), [0.0], []),
        ({"tokens": "1 2", "flops": 3}, {"tokens": "1 3", "flops": 4}, [INFINITE, INFINITE], [INFINITE, INFINITE]),
        ({"a": 1}, {"b": 1}, [INFINITE, INFINITE], [INFINITE, INFINITE]),
        ([number(1.0)], [number(1.0), number(1.0)], [INFINITE], [INFINITE]),
        ({"best": None}, {"best": 0}, [INFINITE], [INFINITE]),
    ],
)  # fmt: skip
def test_a_difference_is_found_and_sized(want: Any, got: Any, exact: list[float], near: list[float]) -> None:
    for mode, expected in ((True, exact), (False, near)):
        assert [by for _, by in differences(want, got, mode)] == pytest.approx(expected, rel=0.02)
    assert not list(differences(want, want, True))
