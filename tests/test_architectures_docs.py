"""docs/architectures.md says what its kept numbers say, and these are what the models count.

    python -m tests.test_architectures_docs                 # writes the table of docs/architectures.md again
    python -m tests.test_architectures_docs WORKDIR         # and keeps numbers and figure of a finished run first

WORKDIR is that of `python -m launch.reproduce architecture_multipliers --workdir WORKDIR`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.reproductions import architecture_multipliers as study
from models import counts
from scaling.fitting.equal_loss import token_bytes

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, KEPT, FIGURE = (DOCS / f"architectures.{ending}" for ending in ("md", "json", "png"))
REFRESH = "to write it again: python -m tests.test_architectures_docs"
NAME = "architecture_multipliers"
BLOCK = re.compile(r"(?<=<!-- costs -->\n).*?(?=<!-- /costs -->)", re.DOTALL)


def kept() -> dict[str, Any]:
    return json.loads(KEPT.read_text(encoding="utf-8"))


def block(numbers: dict[str, Any]) -> str:
    """The table of costs at equal loss, and what it is of."""
    (one,) = numbers["tables"]
    head = [*one["rows"][0]]
    lines = [head, ["---"] * len(head), *(list(row.values()) for row in one["rows"])]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{one['title']}:\n\n{table}\n"


def test_the_page_says_the_kept_multipliers_and_costs() -> None:
    page, numbers = PAGE.read_text(encoding="utf-8"), kept()
    found = BLOCK.search(page)
    assert found is not None and found[0] == block(numbers), REFRESH
    for name, row in numbers["multipliers"].items():
        many = "1" if name == "dense" else "{multiplier:.2f} [{low:.2f}, {high:.2f}]".format(**row)
        assert f"| {name} | {many} |" in page, name


@pytest.mark.parametrize("name", ["dense", "experts", "hybrid"])
def test_kept_costs_are_what_the_two_nearest_models_count(name: str) -> None:
    """Bytes of a token by ln in ln N between the exact counts of the rungs beside the best size."""
    numbers = kept()["equal_loss"]
    setting, costs = numbers["setting"], numbers["costs"]
    size = costs["params"][name][0]
    ladder = [dataclasses.replace(model, dtype=setting["dtype"]) for model in study.LADDERS[name]]
    sizes = [counts.params(model) for model in ladder]
    above = next(i for i, params in enumerate(sizes) if params > size)
    for context in setting["contexts"]:
        read = [token_bytes(model, setting["rows"], context) for model in ladder[above - 1 : above + 1]]
        wanted = np.exp(np.interp(np.log(size), np.log(sizes[above - 1 : above + 1]), np.log(read)))
        assert costs[f"bytes_{context}"][name][0] == pytest.approx(wanted, rel=1e-4)
    assert kept()["multipliers"]["dense"]["loss"] == pytest.approx(numbers["loss"], rel=1e-4)


def keep(folder: Path) -> None:
    """Take numbers and figure of a finished run."""
    details = json.loads((folder / "measured.json").read_text(encoding="utf-8"))["details"]
    numbers = {name: details[name] for name in ("multipliers", "equal_loss", "tables")}
    KEPT.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(folder / "figures" / f"{NAME}.png", FIGURE)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        keep(Path(sys.argv[1]))
    PAGE.write_text(BLOCK.sub(lambda _: block(kept()), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
