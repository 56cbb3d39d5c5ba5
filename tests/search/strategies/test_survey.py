"""Every strategy says where it stands, the page's matrix is made of that, and every kind has something that works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from scaling.train import objectives
from search.strategies.catalogue import STRATEGIES
from search.strategies.survey import TRAINED, How, Tags, Well, What, Where, matrix

PAGE = Path(__file__).resolve().parents[3] / "docs" / "search.md"
TABLE = re.compile(r"(?<=<!-- matrix -->\n).*?(?=<!-- /matrix -->)", re.DOTALL)
REFRESH = "to write the matrix again: python -m tests.search.strategies.test_survey"


def tags() -> dict[str, Tags]:
    return {name: kind.tags for name, kind in STRATEGIES.items()} | dict(TRAINED)


def test_the_matrix_of_the_page_is_what_the_strategies_say() -> None:
    shown = TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert shown and shown[0] == matrix(tags()), REFRESH


def test_every_tag_is_one_of_the_survey_and_every_kind_has_a_method_that_exists() -> None:
    found = tags()
    assert len(found) == len(STRATEGIES) + len(TRAINED)
    for name, one in found.items():
        assert one.what in get_args(What) and one.where in get_args(Where), name
        assert set(one.how) <= set(get_args(How)) and set(one.well) <= set(get_args(Well)) and one.well, name
    assert {one.what for one in found.values()} == set(get_args(What))
    assert all(hasattr(objectives, name) for name in TRAINED)


def test_a_matrix_has_every_part_once_in_the_order_of_kinds() -> None:
    one = Tags("parallel", ("aggregation",), "answers", ("accuracy",))
    two = Tags("single", (), "any text", ("accuracy",))
    rows = matrix({"b": one, "a": two, "c": one}).splitlines()
    assert rows[2:] == [
        "| single | - | any text | accuracy | `a` |", "| parallel | aggregation | answers | accuracy | `b` `c` |"
    ]  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: matrix(tags()), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
