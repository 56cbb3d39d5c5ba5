"""What docs/testtime.md says is so: its examples run in order and print what it shows."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

from tests.shown import difference
from tests.test_docs import REPOSITORY, examples, run

PAGE = REPOSITORY / "docs" / "testtime.md"
REFRESH = "to write the outputs again: python -m tests.search.test_testtime_docs"


@pytest.mark.slow
def test_the_examples_run_in_order_and_print_what_the_page_shows(tmp_path: Path) -> None:
    shown = examples(PAGE.read_text())
    assert len(shown) > 8
    for (code, output), printed in zip(shown, run([code for code, _ in shown], tmp_path)):
        expected = output[2] if output else printed
        assert not difference(expected, printed), f"{code}\n{REFRESH}"


def test_links_of_the_page_lead_somewhere() -> None:
    text = PAGE.read_text()
    heads = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        file, _, head = link.partition("#")
        assert (PAGE.parent / file).exists() if file else head in heads, link


if __name__ == "__main__":
    page = PAGE.read_text()
    found = examples(page)
    with tempfile.TemporaryDirectory() as home:
        outputs = run([code for code, _ in found], Path(home))
    for (_, output), printed in reversed([*zip(found, outputs)]):
        if output:
            page = page[: output.start(2)] + printed + page[output.end(2) :]
    PAGE.write_text(page)
