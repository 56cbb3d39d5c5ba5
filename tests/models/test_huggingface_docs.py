"""The tables of families in docs/inference.md are the lists of models.huggingface.families."""

from __future__ import annotations

import re
from pathlib import Path

from models.huggingface import families
from tests.models import write_huggingface_golden as golden

PAGE = Path(__file__).resolve().parents[2] / "docs" / "inference.md"
TABLE = re.compile(r"(?<=<!-- families -->\n).*?(?=<!-- /families -->)", re.DOTALL)
REFRESH = "to write the tables again: python -m tests.models.test_huggingface_docs"


def family_tables() -> str:
    """The families that can be read and written, what older releases differ in, what others lack, as Markdown."""
    rows = ["| `model_type` | models |", "|---|---|"]
    rows += [f"| `{file.FAMILY.model_type}` | {(file.__doc__ or '').strip()} |" for file in families.FILES]
    rows += ["", "What `transformers` 4.57 cannot be compared on:", "", "| `model_type` | it |", "|---|---|"]
    cases = golden.COMMITTED | golden.OTHERS
    rows += dict.fromkeys(f"| `{cases[name].model_type}` | {what} |" for name, what in golden.BEFORE_5.items())
    rows += ["", "Not read, by what a model here lacks for them:", "", "| `model_type` | missing |", "|---|---|"]
    rows += [f"| `{name}` | {what} |" for name, what in families.MISSING.items()]
    return "\n".join(rows) + "\n"


def test_the_tables_of_families_are_the_lists() -> None:
    listed = TABLE.search(PAGE.read_text())
    assert listed and listed[0] == family_tables(), REFRESH


def test_no_family_is_missing_that_can_be_read() -> None:
    assert not families.FAMILIES.keys() & families.MISSING.keys()
    assert all((file.__doc__ or "").strip().endswith(".") for file in families.FILES)


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: family_tables(), PAGE.read_text()))
