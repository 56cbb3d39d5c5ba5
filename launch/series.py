"""Series: many reproductions one after the other in one folder, and a page that says how far they are.

FOLDER/NAME is the directory of each, as if it had been run alone; FOLDER/index.html shows itself again every few
seconds. A series that is started again leaves finished ones as they are and tries failed ones once more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from launch.gallery import Entry
from models.errors import printable
from scaling import finding, kept
from scaling.finding import Finding
from scaling.report.claim import VERDICTS
from scaling.report.html import Html, Section, badge, element, page, paragraph, refreshing, table

INDEX, REFRESH_S = "index.html", 5.0


@dataclass
class Line:
    """One reproduction of a series. minutes: that it is expected to take; state: waits, runs, done or failed."""

    name: str
    claim: str
    minutes: float
    state: str = "waits"
    found: Finding | None = None
    note: str = ""


@dataclass
class Series:
    """The state of a series; `run` goes through it."""

    folder: Path
    lines: list[Line]
    begun: float = 0.0  # seconds of the clock at which the one that runs was started
    since: str = ""  # the same in words

    @classmethod
    def of(cls, entries: Sequence[Entry], folder: Path) -> Series:
        """What is to do, with what the folder has already."""
        series = cls(folder, [Line(e.reproduction.name, e.reproduction.claim, e.minutes) for e in entries])
        for line in series.lines:
            path = folder / line.name / "finding.json"
            if path.is_file():
                line.state, line.found = "done", finding.read(path)[0]
        return series

    def run(self, one: Callable[[str, Path], Finding], clock: Callable[[], float] = time.monotonic) -> int:
        """Run each in turn, `one` by name and directory; the number of those that failed, which stop nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for line in self.lines:
            line.state, self.begun, self.since = "runs", clock(), f"{datetime.now():%H:%M}"
            self.show(clock())
            try:
                line.found, line.state = one(line.name, self.folder / line.name), "done"
            except Exception as error:  # the night goes on; the page and the last line name it
                line.state, line.note = "failed", f"{type(error).__name__}: {error}"
                print(printable(f"error: {line.name}: {line.note}"), file=sys.stderr, flush=True)
            self.show(clock())
        return sum(line.state == "failed" for line in self.lines)

    def left(self, now: float) -> float:
        """Minutes until all are done: those expected of the rest, times what the finished ones took of theirs."""
        done = [(line.found.minutes, line.minutes) for line in self.lines if line.found and line.found.minutes]
        pace = sum(took for took, _ in done) / sum(asked for _, asked in done) if done else 1.0
        waiting = pace * sum(line.minutes for line in self.lines if line.state == "waits")
        running = pace * sum(line.minutes for line in self.lines if line.state == "runs")
        return waiting + max(running - (now - self.begun) / 60, 0.0)

    def show(self, now: float) -> None:
        """Write the page."""
        count = {state: sum(line.state == state for line in self.lines) for state in ("done", "failed")}
        over = count["done"] + count["failed"] == len(self.lines)
        end = datetime.now() + timedelta(minutes=self.left(now))
        rest = "" if over else f"; {self.left(now):.0f} minutes left, until about {end:%d %B, %H:%M}"
        failed = f", {count['failed']} failed" if count["failed"] else ""
        head = paragraph(f"{count['done']} of {len(self.lines)} done{failed}{rest}", class_="headline")
        body = table([self._row(line) for line in self.lines], words=("reproduction", "state", "seen", "claim"))
        text = page("reproductions", head, [Section("claims", "Claims", body)], "")
        kept.write_atomically(self.folder / INDEX, text if over else refreshing(text, REFRESH_S), durable=False)

    def _row(self, line: Line) -> dict[str, Html | str]:
        found = line.found
        name = element("a", line.name, href=f"{line.name}/finding.html") if found else line.name
        state = badge(found.verdict, VERDICTS[found.verdict]) if found else badge(line.state, "plain")
        if line.state == "runs":
            state = badge(f"runs since {self.since}", "plain")
        took = line.minutes if found is None or found.minutes is None else found.minutes
        seen = found.seen() if found else line.note
        return {"reproduction": name, "state": state, "seen": seen, "minutes": f"{took:.2g}", "claim": line.claim}


def prices(entries: Sequence[Entry]) -> str:
    """The minutes of each and their sum, as text."""
    lines = [f"{entry.minutes:8.3g}  {entry.reproduction.name}" for entry in entries]
    return "\n".join([*lines, f"{hours(entries)} in all"])


def hours(entries: Sequence[Entry]) -> str:
    """The sum in words."""
    return f"{sum(entry.minutes for entry in entries) / 60:.1f} hours on two cores"
