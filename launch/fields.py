"""What the fields of a config mean: the comments beside them in the source, for --help and for docs/config.md."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import textwrap
import tokenize
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from models.serialize import field_types, groups, join


@dataclass(frozen=True)
class Field:
    """One field: its annotation and default as the source has them, and the comment beside and below it."""

    name: str
    kind: str
    default: str
    meaning: str


@functools.cache
def fields_of(cls: Any) -> tuple[Field, ...]:
    """The fields of a dataclass in order, those that it inherits included."""
    found: dict[str, Field] = {}
    for base in reversed(cls.__mro__):
        if isinstance(base, type) and dataclasses.is_dataclass(base):
            found |= {field.name: field for field in _own_fields(base)}
    return tuple(found[name] for name in field_types(cls) if name in found)


def _own_fields(cls: Any) -> Iterator[Field]:
    source = textwrap.dedent(inspect.getsource(cls))
    comments = _comments(source)
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            line, words = node.end_lineno or node.lineno, []
            while (found := comments.get(line)) is not None and (found[0] or line == node.end_lineno):
                words.append(found[1])
                line += 1
            default = "required" if node.value is None else _default(node.value)
            yield Field(node.target.id, ast.unparse(node.annotation).replace("'", '"'), default, " ".join(words))


def _comments(source: str) -> dict[int, tuple[bool, str]]:
    """Line -> (whether it is a comment alone, its text)."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith("# fmt:"):
            alone = not token.line[: token.start[1]].strip()
            found[token.start[0]] = (alone, token.string.lstrip("# ").replace(" # fmt: skip", ""))
    return found


def _default(node: ast.expr) -> str:
    """The default as text: what `added(x)` and `field(default_factory=x)` stand for."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("added", "field"):
        inner = node.args[0] if node.args else node.keywords[0].value
        factory = not node.args and node.keywords[0].arg == "default_factory"
        return f"{ast.unparse(inner)}()" if factory else ast.unparse(inner)
    return ast.unparse(node)


def meanings(config: Any, path: str = "") -> dict[str, str]:
    """Dotted name -> meaning of every field of a config, as `overrides.flatten` lists them."""
    found: dict[str, str] = {}
    cls: Any = type(config)
    for field in fields_of(cls):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= meanings(value, join(path, field.name))
        else:
            found[join(path, field.name)] = field.meaning
    return found


def reachable(classes: Iterable[type]) -> list[type]:
    """These dataclasses and all that their fields hold, each once, in the order in which a reader meets them."""
    found: dict[type, None] = {}

    def visit(cls: type) -> None:
        if cls not in found:
            found[cls] = None
            for annotation in field_types(cls).values():
                for inner in _groups_within(annotation):
                    visit(inner)

    for cls in classes:
        visit(cls)
    return list(found)


def _groups_within(annotation: Any) -> list[type]:
    inner = [group for part in typing.get_args(annotation) for group in _groups_within(part)]
    return list(dict.fromkeys([*groups(annotation), *inner]))


def page(classes: Iterable[type]) -> str:
    """The Markdown of docs/config.md."""
    parts = [INTRODUCTION]
    for cls in reachable(classes):
        text = inspect.cleandoc(cls.__doc__ or "")
        rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
        rows += [_row(field) for field in fields_of(cls)]
        parts.append(f"## {cls.__name__}\n\n`{cls.__module__}`. {text}\n\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _row(field: Field) -> str:
    cells = (f"`{field.name}`", f"`{field.kind}`", f"`{field.default}`", field.meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


INTRODUCTION = """# Config fields

Every field of every config, from the comments in the source. From the shell a field is set by its path:
`--config.train.steps=500` for `steps` of the `TrainConfig` that `SweepConfig` and `Trial` call `train`. `--help` beside
`--config FILE` lists the same with the file's own values. `launch.train` takes a `Trial`, `launch.sweep` a
`SweepConfig`, `launch.search` a `SearchSweepConfig`, `launch.infer` a `JobConfig`."""
