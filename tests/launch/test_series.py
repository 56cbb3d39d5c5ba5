"""launch.series: reproductions one after another, each in its own directory, with a page of verdicts and time left."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.gallery import Entry
from launch.series import INDEX, Series, prices
from scaling import finding
from scaling.finding import Finding
from scaling.reproduction import Reproduction

MINUTES = {"one": 10.0, "two": 20.0, "three": 30.0}


def entries() -> list[Entry]:
    made = [
        Reproduction(name, (), f"claim <{name}>", "s", 0.5, "share", minutes, "n", True, lambda work: None)  # type: ignore[arg-type,return-value]
        for name, minutes in MINUTES.items()
    ]
    return [Entry(one, ()) for one in made]


def found(name: str, path: Path, minutes: float) -> Finding:
    one = Finding(name, (), f"claim <{name}>", "s", 0.7, (0.6, 0.8), 0.5, "share", minutes=minutes, machine="a cpu")
    finding.write(path / "finding.json", [one])
    return one


def test_a_series_goes_on_after_a_failure_shows_the_time_left_and_finishes_what_failed(tmp_path: Path) -> None:
    calls: list[str] = []
    pages: list[str] = []

    def one(name: str, path: Path) -> Finding:
        calls.append(name)
        pages.append((tmp_path / INDEX).read_text())
        if name == "two" and calls.count(name) == 1:
            raise RuntimeError("the disk <is> full")
        return found(name, path, 2 * MINUTES[name])

    assert Series.of(entries(), tmp_path).run(one, clock=lambda: 0.0) == 1
    assert calls == ["one", "two", "three"]
    assert "0 of 3 done; 60 minutes left" in pages[0]  # nothing is known but what the files say
    assert "1 of 3 done; 100 minutes left" in pages[1]  # the first took twice its minutes
    assert "1 of 3 done, 1 failed; 60 minutes left" in pages[2]
    last = (tmp_path / INDEX).read_text()
    assert "2 of 3 done, 1 failed" in last and "minutes left" not in last and "http-equiv" not in last
    assert "http-equiv" in pages[0] and "RuntimeError: the disk &lt;is&gt; full" in last and "holds" in last

    again = Series.of(entries(), tmp_path)
    assert [line.state for line in again.lines] == ["done", "waits", "done"]
    assert again.run(one, clock=lambda: 0.0) == 0 and "3 of 3 done<" in (tmp_path / INDEX).read_text()


def test_the_time_that_one_has_run_counts_against_what_is_left(tmp_path: Path) -> None:
    series = Series.of(entries(), tmp_path)
    series.lines[0].state, series.begun = "runs", 1000.0
    assert series.left(1000.0 + 4 * 60) == pytest.approx(6 + 20 + 30)
    assert series.left(1000.0 + 40 * 60) == pytest.approx(20 + 30)  # later than expected: any moment now


def test_the_price_of_a_series_is_the_sum_of_minutes() -> None:
    assert prices(entries()).splitlines()[-1] == "1.0 hours on two cores in all"
