"""Foretold: how often intervals held, those that the gallery foretold and those of laws on published runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.gallery import KEPT, Entry
from models.errors import require
from scaling.registered import COVERED, LEVEL, Registered, table

PAGE, LAWS = KEPT.parent / "README.md", KEPT.parent / "laws.md"
BLOCK = re.compile(r"(?<=<!-- predictions -->\n).*?(?=<!-- /predictions -->)", re.DOTALL)
FEW = 20  # predictions, of which one more or less that holds moves the share by 5 points or more
_CALIBRATION = re.compile(r"(?<=<!-- calibration -->\n).*?(?=<!-- /calibration -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """Predictions of one origin: how many, how many of their intervals held, and means relative to the prediction."""

    origin: str
    count: int
    held: float
    width: float
    score: float

    def __str__(self) -> str:
        share = f"{self.held / self.count:.0%}"
        return f"| {self.origin} | {self.count:,} | {share} | {self.width:.3f} | {self.score:.3f} |"


def of_predictions(origin: str, found: Sequence[Registered]) -> Row:
    """Of nominal 90 % intervals, which are all that the table is of."""
    rows = table([one for one in found if one.level == LEVEL])
    return Row(origin, len(rows), float(rows["inside"].sum()), float(rows["width"].mean()), float(rows["score"].mean()))


def together(origin: str, rows: Iterable[Row]) -> Row:
    """All of them, each prediction counted once."""
    rows = list(rows)
    count = sum(row.count for row in rows)
    width, score = (sum(row.count * getattr(row, name) for row in rows) / count for name in ("width", "score"))
    return Row(origin, count, sum(row.held for row in rows), width, score)


def published(page: Path = LAWS) -> list[Row]:
    """The kept calibration of laws on published runs, a row for each set, as docs/laws.md has it."""
    block = _CALIBRATION.search(page.read_text(encoding="utf-8"))
    require(block is not None, str(page), "has no calibration", "run benchmarks/fit_calibration.py --write")
    assert block is not None
    head, _, *lines = ([cell.strip() for cell in line.strip("| ").split("|")] for line in block[0].splitlines())
    rows = []
    for line in lines:
        cells = dict(zip(head, line, strict=False))
        count = int(cells["tested on"])
        share, width, score = (cells[name].split("/")[0].strip() for name in ("covered", "width", "score"))
        rows.append(Row(cells["runs"], count, count * float(share.strip("%")) / 100, float(width), float(score)))
    return rows


def summary(entries: Sequence[Entry]) -> str:
    """The table: a row for each finding that foretold runs, one for the published runs, and the sums."""
    told = {one.name: one.predictions for entry in entries for one in entry.findings if one.predictions}
    own = [of_predictions(f"[{name}](reproductions.md#{name})", found) for name, found in told.items()]
    sets = published()
    link = f"[laws on published runs](laws.md#how-often-intervals-hold), {len(sets)} sets"
    whole = [together("**the gallery**, before the runs were trained", own)] if own else []
    laws = together(link, sets)
    every = together("**all**", [*whole, laws])
    head = ["| origin | predictions | held | width | interval score |", "|---|---|---|---|---|"]
    return "\n".join([*head, *map(str, [*own, *whole, laws, every])]) + "\n\n" + _verdict([*whole, laws, every]) + "\n"


def _verdict(rows: Sequence[Row]) -> str:
    """Which of the sums lie where they should, and which are of too few predictions to say."""
    low, high = COVERED
    words = []
    for row in rows:
        name = row.origin.split("]")[0].strip("[*").partition("*")[0]
        share = row.held / row.count
        said = "too narrow" if share < low else "too wide" if share > high else "as they should be"
        said = said if row.count >= FEW else f"too few to say, {row.count}"
        words.append(f"- {name}: {said}")
    return "\n".join([f"Where {low:.0%} to {high:.0%} hold, intervals are as they should be:", "", *words])
