"""What docs/laws.md says is so: its examples run and print what it shows, and its list of laws is the catalogue."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from scaling.laws import CATALOGUE
from tests.launch import commands
from tests.shown import difference

REPOSITORY = Path(__file__).resolve().parent.parent
LAWS = REPOSITORY / "docs" / "laws.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"(?<=<!-- laws -->\n).*?(?=<!-- /laws -->)", re.DOTALL)
REFRESH = "to write the outputs and the list of laws again: python -m tests.test_docs"


def law_table() -> str:
    """The catalogue as a Markdown table."""
    rows = ["| name | law | inputs | output | source |", "|---|---|---|---|---|"]
    for law in CATALOGUE:
        inputs = " ".join(f"`{name}`" for name in law.inputs)
        formula, source = (text.replace("|", "\\|") for text in (law.formula, law.source))
        rows.append(f"| `{law.name}` | `{formula}` | {inputs} | `{law.output}` | {source} |")
    return "\n".join(rows) + "\n"


def examples(text: str) -> list[tuple[str, re.Match[str] | None]]:
    """(code, the block of output that follows it) of every Python block."""
    blocks = [*BLOCK.finditer(text)]
    following = [*blocks[1:], None]
    pairs = [(block, after) for block, after in zip(blocks, following) if block[1] == "python"]
    return [(block[2], after if after and _is_output(text, block, after) else None) for block, after in pairs]


def _is_output(text: str, block: re.Match[str], after: re.Match[str]) -> bool:
    return after[1] == "text" and not text[block.end() : after.start()].strip()


def run(codes: list[str], folder: Path) -> list[str]:
    """What each piece of code prints, run one after the other in one namespace in a folder that has the data."""
    shutil.copytree(REPOSITORY / "notebooks" / "data", folder / "notebooks" / "data")
    names: dict[str, Any] = {"__name__": "docs"}
    printed = []
    with contextlib.chdir(folder), warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("error")
        for number, code in enumerate(codes):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, f"{LAWS.name}, Python block {number + 1}", "exec"), names)
            printed.append(out.getvalue())
    return printed


@pytest.mark.slow
def test_the_python_examples_run_in_order_and_print_what_the_page_shows(tmp_path: Path) -> None:
    shown = examples(LAWS.read_text())
    assert len(shown) > 8
    for (code, output), printed in zip(shown, run([code for code, _ in shown], tmp_path)):
        expected = output[2] if output else printed
        assert not difference(expected, printed), f"{code}\n{REFRESH}"


@pytest.mark.slow
def test_the_shell_examples_run_in_order(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "notebooks" / "data", tmp_path / "notebooks" / "data")
    lines = [line for block in BLOCK.finditer(LAWS.read_text()) if block[1] == "bash" for line in block[2].splitlines()]
    assert len(lines) >= 3
    for line in lines:
        python, flag, module, *arguments = shlex.split(line)
        assert (python, flag) == ("python", "-m")
        done = commands.run(module.removeprefix("launch."), *arguments, cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_the_list_of_laws_is_the_catalogue() -> None:
    listed = TABLE.search(LAWS.read_text())
    assert listed and listed[0] == law_table(), REFRESH


def test_links_of_the_page_lead_somewhere() -> None:
    text = LAWS.read_text()
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    heads = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        file, _, head = link.partition("#")
        assert (LAWS.parent / file).exists() if file else head in heads, link


if __name__ == "__main__":
    page = TABLE.sub(lambda _: law_table(), LAWS.read_text())
    os.environ.setdefault("MPLBACKEND", "agg")
    found = examples(page)
    with tempfile.TemporaryDirectory() as home:
        outputs = run([code for code, _ in found], Path(home))
    for (_, output), printed in reversed([*zip(found, outputs)]):
        if output:
            page = page[: output.start(2)] + printed + page[output.end(2) :]
    LAWS.write_text(page)
