"""The page of a reproduction shows the tables of its details, and says what is wrong with one that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import ConfigError
from scaling.finding import Finding
from scaling.report.claim import write_page

FOUND = Finding("worth", (), "a claim", "a source", 1.0, (0.5, 1.5), 0.1, "units")


def test_tables_of_the_details_are_shown_with_their_titles(tmp_path: Path) -> None:
    rows = [{"kind": "dense", "time": "3 s"}, {"kind": "states", "time": "0.50 [0.41, 0.61]"}]
    text = write_page(tmp_path / "page.html", FOUND, {"tables": [{"title": "Costs", "rows": rows}]}).read_text()
    assert "Costs" in text and "Numbers" not in text
    assert '<td class="w">states</td><td>0.50 [0.41, 0.61]</td>' in text


@pytest.mark.parametrize("table", [{"title": "Costs"}, {"title": "Costs", "rows": []}, {"rows": [{"a": 1}]}])
def test_what_is_no_table_is_refused(tmp_path: Path, table: dict) -> None:
    with pytest.raises(ConfigError, match="tables"):
        write_page(tmp_path / "page.html", FOUND, {"tables": [table]})
