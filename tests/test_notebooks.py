"""The notebooks run from top to bottom in this interpreter, and what they show is what they compute."""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.shown import difference

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / "notebooks"
NAMES = ("own_sweep", "published_runs", "test_time_compute")
LARGEST = 300_000  # bytes: outputs are kept so that a reader on a code host sees the pictures, and must stay small
REFRESH = "to execute and save them again: ISOFLOP_DATA=... python -m tests.test_notebooks"
KERNEL = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def words(cell: NotebookNode) -> str:
    """What a cell shows as text; not the names of the pictures."""
    texts = [output.text if output.output_type == "stream" else output.data.get("text/plain", "")
             for output in cell.outputs if "image/png" not in output.get("data", {})]  # fmt: skip
    return "\n".join(texts)


def pictures(cell: NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def execute(name: str, data: str | None, home: Path) -> NotebookNode:
    """The notebook, executed in this interpreter with ISOFLOP_DATA = data; CellExecutionError when a cell raises.

    home: where the kernel may keep its own files.
    """
    spec = home / "jupyter" / "kernels" / "here" / "kernel.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    spec.write_text(json.dumps(KERNEL | {"display_name": "this interpreter"}))
    own = {"JUPYTER_PATH": str(home / "jupyter"), "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
           "IPYTHONDIR": str(home / "ipython"), "PYTHONPATH": str(REPOSITORY)}  # fmt: skip
    # without a backend of its own the kernel draws into the notebook
    inherited = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "ISOFLOP_DATA")}
    environment = inherited | own | ({"ISOFLOP_DATA": data} if data else {})
    notebook = read(name)
    place = {"metadata": {"path": str(FOLDER)}}
    with mock.patch.dict(os.environ, own):
        client = NotebookClient(notebook, timeout=600, kernel_name="here", resources=place, record_timing=False)
        client.execute(env=environment)
    return notebook


def assert_same(executed: NotebookNode, committed: NotebookNode) -> None:
    for now, then in zip(code(executed), code(committed), strict=True):
        assert not difference(words(then), words(now)), f"{now.source}\n\n{REFRESH}"
        assert pictures(now) == pictures(then), now.source


@pytest.mark.slow
def test_own_sweep_computes_what_it_shows(tmp_path: Path) -> None:
    assert_same(execute("own_sweep", None, tmp_path), read("own_sweep"))


@pytest.mark.slow
def test_test_time_compute_computes_what_it_shows(tmp_path: Path) -> None:
    assert_same(execute("test_time_compute", None, tmp_path), read("test_time_compute"))


@pytest.mark.slow
def test_published_runs_computes_what_it_shows(tmp_path: Path) -> None:
    data = os.environ.get("ISOFLOP_DATA")
    if not data:
        pytest.skip("ISOFLOP_DATA is not set")
    assert_same(execute("published_runs", data, tmp_path), read("published_runs"))


@pytest.mark.slow
def test_published_runs_says_at_once_that_it_has_no_published_data_and_still_runs(tmp_path: Path) -> None:
    cells = code(execute("published_runs", None, tmp_path))
    assert "ISOFLOP_DATA is not set" in cells[0].outputs[0].data["text/markdown"]
    assert sum(map(pictures, cells)) == sum(map(pictures, code(read("published_runs"))))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_small_as_one_run_from_top_to_bottom(name: str) -> None:
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST
    cells = code(read(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds and sum(map(pictures, cells)) >= 4
    assert not [output.text for cell in cells for output in cell.outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("name", NAMES)
def test_every_code_cell_of_a_notebook_follows_a_sentence_that_says_why(name: str) -> None:
    cells = read(name).cells
    assert cells[0].cell_type == "markdown"
    for before, cell in itertools.pairwise(cells):
        assert cell.cell_type == "markdown" or before.cell_type == "markdown", cell.source


if __name__ == "__main__":
    for name in NAMES:
        with tempfile.TemporaryDirectory() as home:
            executed = execute(name, os.environ["ISOFLOP_DATA"], Path(home))
        executed.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        nbformat.write(executed, FOLDER / f"{name}.ipynb")
