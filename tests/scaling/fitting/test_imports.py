"""The rooms of the fits: the machinery knows no law, and no files import each other in a circle."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

import scaling
from models.errors import ConfigError
from scaling.fitting.law import by_name, register

ROOT = Path(scaling.__file__).parent


def imports(package: str) -> dict[str, set[str]]:
    """File -> files of scaling.laws and scaling.fitting that it imports anywhere, also inside functions."""
    graph: dict[str, set[str]] = {}
    for path in (ROOT / package).glob("*.py"):
        found = graph.setdefault(f"scaling.{package}.{path.stem}", set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("scaling."):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                files = {name for name in inner if (ROOT.parent / (name.replace(".", "/") + ".py")).exists()}
                found |= files or {node.module}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some files that import each other in a circle, else nothing: leaves are taken away until none is left."""
    left = {name: {other for other in others if other in graph} for name, others in graph.items()}
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    return sorted(left)


@pytest.mark.parametrize("package", ["fitting", "laws"])
def test_no_files_import_each_other_in_a_circle(package):
    graph = imports(package)
    graph.pop(f"scaling.{package}.__init__")
    assert len(graph) > 20
    assert circle(graph) == []
    assert circle({**graph, "a": {"b"}, "b": {"a"}}) == ["a", "b"]


def test_the_machinery_imports_no_law():
    assert not {name for others in imports("fitting").values() for name in others if name.startswith("scaling.laws")}


def test_every_file_of_laws_holds_a_law():
    for path in (ROOT / "laws").glob("*.py"):
        if path.stem not in ("__init__", "catalogue", "pruning"):  # pruning has an envelope of Hestness's law
            assert re.search(r"\bLaw\(|_law\(", path.read_text()), path.name


def test_every_law_is_found_by_its_name_without_its_file():
    law = by_name("chinchilla")
    assert law is scaling.laws.CHINCHILLA
    register([law])  # again is nothing new
    with pytest.raises(ConfigError, match="another law has this name"):
        register([dataclasses.replace(law, formula="L = 1")])
