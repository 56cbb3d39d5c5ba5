"""Config files, and overrides of single fields from the command line (`model.d_model=512`), typed by annotation."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import re
import sys
import traceback
import typing
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from models import serialize
from models.errors import ConfigError, nearest
from models.serialize import join

T = TypeVar("T")
_INTEGER = re.compile(r"[+-]?\d[\d_]*(\.\d*)?([eE][+]?\d{1,2})?")
_OURS = Path(__file__).resolve().parents[1]  # `configs/tiny.py` is found from any working directory
_LARGEST = 2**64  # beyond this a number is a slip, and 1e999999999 would fill memory


def apply_overrides(config: T, overrides: Mapping[str, str]) -> T:
    """A copy of a nested frozen dataclass with the dotted fields replaced by values parsed from text.

    All fields of one group change at once, so rules across fields see the final values only. Raises ConfigError
    on an unknown field, a value of the wrong type, or values that the config itself refuses.
    """
    tree: dict[str, Any] = {}
    for name, text in overrides.items():
        *path, last = name.split(".")
        node: Any = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(name, f"{part} is also set as a whole", "keep one of the two overrides")
        if isinstance(node.get(last), dict):
            raise ConfigError(name, "its fields are set too", "keep one of the two overrides")
        node[last] = text
    return _replace(type(config), config, tree, "")


def parse(text: str, annotation: Any, field: str) -> Any:
    """The value that `text` stands for under a field's annotation; raises ConfigError naming `field`.

    Integers may be written 1_000 or 1e6 when that is exact; lists as 8,16,32 or as JSON; None as none or null.
    In a union the narrowest alternative that fits wins, text last.
    """
    options = serialize.members(annotation)
    order: list[Any] = [bool, int, float]
    if float in options and set(text) & set(".eE"):
        order = [bool, float, int]  # 1e6 in `int | float` is a float

    def rank(option: Any) -> int:
        if typing.get_origin(option) is Literal:
            return -1
        return order.index(option) if option in order else len(order) + (option is str)

    explain = partial(_explain, text, annotation, field)
    return serialize.first_fit(sorted(options, key=rank), lambda option: _parse_one(text, option, field), explain)


def flatten(config: Any, path: str = "") -> dict[str, Any]:
    """Dotted name -> value of every field of a nested dataclass that an override can set, in order."""
    flat: dict[str, Any] = {}
    for name in serialize.field_types(type(config)):
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, join(path, name))
        else:
            flat[join(path, name)] = value
    return flat


def field_names(cls: type, path: str = "") -> Iterator[str]:
    """Dotted names of every field of a config's class that an override can set, in order."""
    for name, annotation in serialize.field_types(cls).items():
        found = serialize.groups(annotation)
        if found:
            for group in found:
                yield from field_names(group, join(path, name))
        else:
            yield join(path, name)


def load_config(path: str | Path, kinds: tuple[type, ...] = ()) -> Any:
    """The frozen dataclass that `config()` of a Python file returns, one of `kinds` where those are given.

    A .json file, as every trial leaves behind, is read as the first of `kinds`.

    Raises ConfigError naming the file, and the line where the file itself fails.
    """
    path = Path(path)
    if path.suffix == ".json" and kinds:
        return serialize.from_json(kinds[0], _json_object(path))
    config = load_returned(path, "config", kinds)
    config = _with_tuples(config)
    serialize.to_json(config)  # values of the wrong type surface here, named, not in the middle of a run
    return config


def load_returned(path: str | Path, name: str, kinds: tuple[type, ...] = ()) -> Any:
    """What the function `name` of a Python file returns: one of `kinds`, or any dataclass where none are given.

    Raises ConfigError naming the file, and the line where the file itself fails.
    """
    path = Path(path)
    file = _existing(path)
    with _importable(file):
        function = getattr(_import(file), name, None)
        if not callable(function):
            module = sys.modules[_module_name(file)]
            functions = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            guess = nearest(name, functions)
            contract = f"define `def {name}()` that returns a frozen dataclass"
            fix = f"rename {guess} to {name}" if guess else contract
            raise ConfigError(str(path), f"has no function {name}()", fix)
        with _failures_located(file):
            config = function()
    wanted = " or ".join(kind.__name__ for kind in kinds) or "frozen dataclass"
    fits = isinstance(config, kinds) if kinds else dataclasses.is_dataclass(config) and not isinstance(config, type)
    if not fits:
        raise ConfigError(str(path), f"{name}() returned a {type(config).__name__}", f"return a {wanted}")
    return config


def _with_tuples(config: Any) -> Any:
    """The config with tuples where somebody wrote lists, in every group of it."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = {name: getattr(config, name) for name in serialize.field_types(type(config))}
        changed = {name: fixed for name, value in values.items() if (fixed := _with_tuples(value)) is not value}
        return dataclasses.replace(config, **changed) if changed else config
    if isinstance(config, (list, tuple)):
        items = [_with_tuples(item) for item in config]
        same = isinstance(config, tuple) and all(new is old for new, old in zip(items, config, strict=True))
        return config if same else tuple(items)
    return config


def _json_object(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(str(path), "no such file", "give the config.json of a trial")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"is not JSON ({error})", "give the config.json of a trial") from None


def config_help(path: str | Path) -> str:
    """The docstring of a config file (or of its config function), read without running the file."""
    path = _existing(Path(path))
    with _failures_located(path):
        tree = ast.parse(path.read_bytes(), filename=str(path))
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "config"]
    return ast.get_docstring(tree) or "\n".join(ast.get_docstring(function) or "" for function in functions)


def _replace(cls: type[T], config: T | None, tree: Mapping[str, Any], path: str) -> T:
    """`config` (None: the defaults of cls) with the fields of `tree` replaced."""
    hints = serialize.field_types(cls)
    values: dict[str, Any] = {}
    for name, node in tree.items():
        field = join(path, name)
        if name not in hints:
            raise serialize.unknown_field(cls, path, name)
        if isinstance(node, str):
            values[name] = parse(node, hints[name], field)
        else:
            current = getattr(config, name, None)
            values[name] = _replace(_group_of(current, hints[name], field), current, node, field)
    if config is None:
        return serialize.build(cls, values, path)
    with serialize.located(cls, path):
        made = dataclasses.replace(config, **values)  # type: ignore[type-var]  # every group is a dataclass
    set_by = getattr(made, "set_by", lambda name: None)
    for name in _leaves(tree):
        if (what := set_by(name)) is not None:
            problem = f"is set by {what} in every trial, so that giving it changes nothing"
            raise ConfigError(join(path, name), problem, "change it there")
    return made


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The dotted names of all values in a tree of overrides."""
    for name, node in tree.items():
        if isinstance(node, str):
            yield join(path, name)
        else:
            yield from _leaves(node, join(path, name))


def _group_of(current: Any, annotation: Any, field: str) -> type:
    """The dataclass whose fields an override below `field` means."""
    if dataclasses.is_dataclass(current):
        return type(current)
    options = serialize.groups(annotation)
    if current is None and len(options) == 1:
        return options[0]
    if options:
        names = " or ".join(option.__name__ for option in options)
        raise ConfigError(field, f"is {current}, so it has no fields to set", f"choose a {names} in the config file")
    raise ConfigError(field, f"is {serialize.describe(annotation)}, not a group of fields", f"set {field} itself")


def _parse_one(text: str, annotation: Any, field: str) -> Any:
    word, origin = text.strip(), typing.get_origin(annotation)
    if origin is Literal:
        for choice in typing.get_args(annotation):
            if str(choice) == word:
                return choice
    elif annotation is str:
        return text
    elif annotation is type(None) and word.lower() in ("none", "null"):
        return None
    elif annotation is bool and word.lower() in _BOOLEANS:
        return _BOOLEANS[word.lower()]
    elif annotation is int and _INTEGER.fullmatch(word):
        number = Decimal(word)
        if number == number.to_integral_value() and abs(number) <= _LARGEST:
            return int(number)
    elif annotation is float:
        with contextlib.suppress(ValueError):
            return serialize.decode(float(word), float, field)
    elif origin is tuple:
        return _parse_tuple(word, annotation, field)
    elif origin is dict and word.startswith("{"):
        return serialize.decode(_json(word, field), annotation, field)
    raise serialize.mismatch(text, annotation, field)


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _parse_tuple(word: str, annotation: Any, field: str) -> tuple[Any, ...]:
    """8,16,32 with or without brackets; JSON where elements are nested or contain commas."""
    if word.startswith("[") and any(mark in word[1:] for mark in '["{'):
        return serialize.decode(_json(word, field), annotation, field)
    if word[:1] + word[-1:] in ("()", "[]"):
        word = word[1:-1].strip()
    parts = [part.strip() for part in word.removesuffix(",").split(",")] if word else []
    kinds = typing.get_args(annotation)
    if kinds[1:] == (Ellipsis,):
        kinds = kinds[:1] * len(parts)
    if len(kinds) != len(parts):
        raise ConfigError(field, f"has {len(parts)} values", f"give {len(kinds)} of them, as in 8,16,32")
    return tuple(parse(part, kind, f"{field}[{i}]") for i, (part, kind) in enumerate(zip(parts, kinds, strict=True)))


def _json(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(field, f"is not valid JSON ({error})", "check brackets and quotes") from None


def _explain(text: str, annotation: Any, field: str) -> ConfigError:
    """Why `text` does not fit: a group cannot be set as a whole, a fraction is no integer, a choice is misspelt."""
    options = serialize.groups(annotation)
    if options:
        first = next(iter(serialize.field_types(options[0])), "...")
        return ConfigError(field, "is a group of fields, not a value", f"set its fields, such as {field}.{first}")
    return serialize.mismatch(text, annotation, field)


def _existing(path: Path) -> Path:
    """The config file: that of the user or, where there is none, ours of that name."""
    if not path.exists() and (_OURS / path).is_file():
        path = _OURS / path
    if path.is_file() and path.suffix == ".py":
        return path
    if path.is_file():
        raise ConfigError(str(path), "is not a Python file", "give a config file such as configs/micro.py")
    folder = path.parent if path.parent.is_dir() else Path("configs")
    files = sorted(file.name for file in folder.glob("*.py") if not file.name.startswith("_"))
    guess = nearest(path.name, files) or nearest(path.name + ".py", files)
    listing = f"config files there: {', '.join(files)}" if files else "give a config file such as configs/micro.py"
    problem = "is a directory" if path.is_dir() else "no such file"
    raise ConfigError(str(path), problem, f"did you mean {folder / guess}?" if guess else listing)


def _import(path: Path) -> ModuleType:
    """Run a config file as a module of its own name."""
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None  # the path ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses defined in the file look their annotations up here
    try:
        with _failures_located(path):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_name(path: Path) -> str:
    file = path.resolve()
    return f"isoflop_config_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"


@contextlib.contextmanager
def _importable(path: Path) -> Iterator[None]:
    """What a config file may import: its neighbours by name, `from configs.tiny import config` from the folder above.

    Both come last, so that no neighbour stands in for a package.
    """
    folder = path.resolve().parent
    places = [str(folder), str(folder.parent)]
    sys.path += places
    try:
        yield
    finally:
        for place in places:
            _remove_last(sys.path, place)


def _remove_last(items: list[str], item: str) -> None:
    for i in reversed(range(len(items))):
        if items[i] == item:
            del items[i]
            return


@contextlib.contextmanager
def _failures_located(path: Path) -> Iterator[None]:
    """Turn what a config file raises into one line that names the file and the line."""
    try:
        yield
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}", f"SyntaxError, {error.msg}", "correct the file") from None
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == path.resolve()]
        where = f"{path}:{frames[-1].lineno}" if frames else str(path)
        if isinstance(error, ConfigError):
            raise ConfigError(where, f"{error.field} {error.problem}", error.fix) from None
        as_text = isinstance(error, TypeError) and "not supported between instances of 'str'" in str(error)
        fix = "write numbers without quotes" if as_text else "correct the file"
        raise ConfigError(where, f"{type(error).__name__}, {error}", fix) from error
