"""Configs as JSON: nested frozen dataclasses to plain values and back, and the hash that identifies a config.

The annotations of the fields are the schema. What they may be: bool, int, float, str, None, Literal, a frozen
dataclass, `tuple[T, ...]`, `tuple[S, T]`, `dict[str, T]`, and unions of those.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, Union

from models.errors import ConfigError, nearest

T = TypeVar("T")
Value = TypeVar("Value")
_ADDED = "added"  # in a field's metadata: see `added`
_TAG = "type"  # key that says which dataclass of a union a JSON object is


def to_json(config: Any) -> dict[str, Any]:
    """The config as a tree of dicts, lists and scalars; raises ConfigError where a value does not fit its annotation.

    Numbers take the type of their field (a float field holding 1 gives 1.0, -0.0 gives 0.0), so equal configs
    give equal JSON.
    """
    return _encode_fields(config, "")


def from_json(cls: type[T], data: Mapping[str, Any], field: str = "") -> T:
    """The config of class `cls` that `to_json` turned into `data`; `field` is its dotted place, for messages.

    A field that is absent takes its default. Raises ConfigError on an unknown field, a value of the wrong type,
    a missing field without default, and whatever the dataclass itself refuses.
    """
    hints = field_types(cls)
    if not isinstance(data, Mapping):
        raise ConfigError(field or cls.__name__, f"{_short(data)} is not a group of fields", _fields_of(cls))
    for name in data:
        if name not in hints:
            raise unknown_field(cls, field, name)
    values = {name: decode(value, hints[name], join(field, name)) for name, value in data.items()}
    return build(cls, values, field)


def canonical(config: Any) -> str:
    """The one JSON text of a config: sorted keys, no spaces, finite numbers, shortest decimal of each float."""
    return json.dumps(to_json(config), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(config: Any) -> str:
    """sha256 of the canonical JSON, 64 hexadecimal digits: the same on every machine and Python version."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()


def added(default: Any) -> Any:
    """A field that a dataclass got later: JSON leaves it out while it has its default, so that the hashes of older
    configs stay what they were. A dict is made anew for every config."""
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata={_ADDED: default})
    return dataclasses.field(default=default, metadata={_ADDED: default})


def field_types(cls: Any) -> dict[str, Any]:
    """Name -> annotation (evaluated) of the fields that the constructor of a dataclass takes, in order."""
    return _field_types(cls)


@functools.cache
def _field_types(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def join(path: str, name: str) -> str:
    """The dotted name of field `name` of the group at `path`."""
    return f"{path}.{name}" if path else name


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the annotation alone."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def groups(annotation: Any) -> tuple[type, ...]:
    """The dataclasses among the alternatives of an annotation."""
    return tuple(m for m in members(annotation) if isinstance(m, type) and dataclasses.is_dataclass(m))


def describe(annotation: Any) -> str:
    """What to write for an annotation, for messages: "an integer", "one of 'map', 'vmap'", ..."""
    return " or ".join(_describe_one(m) for m in members(annotation))


def unknown_field(cls: type, path: str, name: str) -> ConfigError:
    """The error for a field that the dataclass at `path` does not have: the nearest name and the list of fields."""
    guess = nearest(name, field_types(cls))
    hint = f"did you mean {join(path, guess)}? " if guess else ""
    return ConfigError(join(path, name), "no such field", hint + _fields_of(cls))


class Mismatch(ConfigError):
    """A value that is of another type than its field: the least telling error, when a union gives several."""


def mismatch(value: Any, annotation: Any, field: str) -> ConfigError:
    """The error for a value that does not fit its annotation, with the near choice of a Literal."""
    expected = describe(annotation)
    choices = [str(c) for m in members(annotation) if typing.get_origin(m) is Literal for c in typing.get_args(m)]
    guess = nearest(value, choices) if isinstance(value, str) else None
    fix = f"did you mean {guess}?" if guess else f"give {expected}"
    return Mismatch(field, f"{_short(value)} is not {expected}", fix)


def first_fit(options: Iterable[Any], read: Callable[[Any], Value], explain: Callable[[], ConfigError]) -> Value:
    """What `read` gives for the first alternative of a union that it accepts.

    Raises the first error that says more than the mismatch of the whole field, which `explain` makes; else that one.
    """
    errors: list[ConfigError] = []
    for option in options:
        try:
            return read(option)
        except ConfigError as error:
            errors.append(error)
    plain = explain()
    raise next((e for e in errors if not isinstance(e, Mismatch) or e.field != plain.field), plain)


def build(cls: type[T], values: Mapping[str, Any], path: str) -> T:
    """cls(**values), with errors of its validation placed at `path` and missing fields named."""
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # every caller holds a dataclass
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.init and not has_default and field.name not in values:
            raise ConfigError(join(path, field.name), "is missing", f"give {describe(field_types(cls)[field.name])}")
    with located(cls, path):
        return cls(**values)


@contextmanager
def located(cls: type, path: str) -> Iterator[None]:
    """Give errors that validation of the dataclass `cls` raises the dotted field name they have at `path`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(_place(error.field, cls, path), error.problem, error.fix) from None
    except (ValueError, TypeError) as error:
        parts = str(error).split(": ", 2)
        if len(parts) == 3:
            raise ConfigError(_place(parts[0], cls, path), parts[1], parts[2]) from None
        raise ConfigError(path or cls.__name__, str(error), f"give values that {cls.__name__} accepts") from None


def decode(value: Any, annotation: Any, field: str) -> Any:
    """The Python value of a JSON value for an annotation; raises ConfigError naming `field` when it does not fit."""
    options = members(annotation)
    if value is None and type(None) in options:
        return None
    if isinstance(value, Mapping) and (found := groups(annotation)):
        return from_json(*_pick_group(value, found, field), field=field)
    explain = functools.partial(mismatch, value, annotation, field)
    return first_fit(_nearest_type_first(value, options), lambda option: _decode_one(value, option, field), explain)


def _decode_one(value: Any, annotation: Any, field: str) -> Any:
    origin = typing.get_origin(annotation)
    if isinstance(value, list) and origin is tuple:
        kinds = _element_types(value, annotation, field)
        return tuple(decode(v, kind, f"{field}[{i}]") for i, (v, kind) in enumerate(zip(value, kinds, strict=True)))
    if isinstance(value, Mapping) and origin is dict:
        kind = typing.get_args(annotation)[1]
        return {str(key): decode(v, kind, f"{field}[{key}]") for key, v in value.items()}
    if annotation is int and isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    return _scalar(value, annotation, field)


def _encode(value: Any, annotation: Any, field: str) -> Any:
    if annotation is type(value) and annotation in (bool, int, str):  # most fields, and nothing to convert
        return value
    options = members(annotation)
    if value is None and type(None) in options:
        return None
    found = groups(annotation)
    if type(value) in found:
        fields = _encode_fields(value, field)
        if len(found) > 1 and _TAG in fields:
            raise TypeError(f"{field}: {type(value).__name__} is in a union, so it cannot have a field called {_TAG!r}")
        tagged = len(found) > 1 and not getattr(type(value), "untagged", False)
        return ({_TAG: type(value).__name__} if tagged else {}) | fields
    explain = functools.partial(mismatch, value, annotation, field)
    return first_fit(_nearest_type_first(value, options), lambda option: _encode_one(value, option, field), explain)


def _encode_one(value: Any, annotation: Any, field: str) -> Any:
    origin = typing.get_origin(annotation)
    if origin is tuple and isinstance(value, tuple):
        kinds = _element_types(value, annotation, field)
        return [_encode(v, kind, f"{field}[{i}]") for i, (v, kind) in enumerate(zip(value, kinds, strict=True))]
    if origin is dict and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        kind = typing.get_args(annotation)[1]
        return {key: _encode(v, kind, f"{field}[{key}]") for key, v in value.items()}
    return _scalar(value, annotation, field)


def _nearest_type_first(value: Any, options: tuple[Any, ...]) -> list[Any]:
    """The alternatives of a union with the value's own type in front: 1.0 in `int | float` stays a float."""
    return sorted(options, key=lambda option: option is not type(value))


def _encode_fields(config: Any, path: str) -> dict[str, Any]:
    later = [field for field in dataclasses.fields(config) if _ADDED in field.metadata]
    absent = {field.name for field in later if getattr(config, field.name) == field.metadata[_ADDED]}
    return {
        name: _encode(getattr(config, name), annotation, join(path, name))
        for name, annotation in field_types(type(config)).items()
        if name not in absent
    }


def _scalar(value: Any, annotation: Any, field: str) -> Any:
    """A bool, integer, float, text or Literal in its canonical form."""
    if typing.get_origin(annotation) is Literal:
        for choice in typing.get_args(annotation):
            if type(choice) is type(value) and choice == value:
                return choice
    elif annotation is bool and isinstance(value, bool):
        return value
    elif annotation is int and hasattr(value, "__index__") and not isinstance(value, bool):
        return value.__index__()  # NumPy integers too
    elif annotation is float and hasattr(value, "__float__") and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value) + 0.0  # -0.0 == 0.0, so both give one text
    elif annotation is str and isinstance(value, str):
        return str(value)
    elif not _supported(annotation):
        raise TypeError(f"{field}: a config field cannot be {annotation!r}; see models/serialize.py for what it may be")
    raise mismatch(value, annotation, field)


def _supported(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    scalar = annotation in (bool, int, float, str, type(None)) or origin is Literal
    return scalar or origin in (tuple, dict) or bool(groups(annotation))


def _element_types(value: Any, annotation: Any, field: str) -> list[Any]:
    """One annotation for each element of a tuple."""
    kinds = typing.get_args(annotation)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return [kinds[0]] * len(value)
    if len(kinds) != len(value):
        raise ConfigError(field, f"has {len(value)} values", f"give {len(kinds)} of them")
    return list(kinds)


def _pick_group(data: Mapping[str, Any], options: tuple[type, ...], field: str) -> tuple[type, dict[str, Any]]:
    """The dataclass that a JSON object is meant for, and the object without its tag.

    One whose `untagged` is true stood alone before its union had others, and is written without a tag as then.
    """
    if len(options) == 1:
        return options[0], dict(data)
    alone = next((option for option in options if getattr(option, "untagged", False)), None)
    if alone is not None and _TAG not in data:
        return alone, dict(data)
    names = {option.__name__: option for option in options}
    if data.get(_TAG) not in names:
        given = f"is {_short(data[_TAG])}" if _TAG in data else "is missing"
        guess = nearest(str(data.get(_TAG, "")), names)
        hint = f"did you mean {guess}? " if guess else ""
        raise ConfigError(join(field, _TAG), given, f"{hint}give one of {', '.join(names)}")
    return names[data[_TAG]], {key: value for key, value in data.items() if key != _TAG}


def _place(field: str, cls: type, path: str) -> str:
    """The dotted name at `path` of a field that `cls` calls `field`: alone, or after its own name (`model.d_ff`)."""
    own, first = cls.__name__.removesuffix("Config").lower(), field.split(".")[0].split("[")[0]
    if path and first == own and first not in field_types(cls):
        return path + field.removeprefix(own)
    return join(path, field) if first in field_types(cls) else field


def _describe_one(annotation: Any) -> str:
    origin, kinds = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in kinds)
    if origin is tuple:
        if len(kinds) == 2 and kinds[1] is Ellipsis:
            return f"a list, each {describe(kinds[0])}"
        return "a list of " + ", ".join(describe(kind) for kind in kinds)
    if origin is dict:
        return f"an object of names, each {describe(kinds[1])}"
    names = {bool: "true or false", int: "an integer", float: "a finite number", str: "text", type(None): "None"}
    return names.get(annotation) or f"a {getattr(annotation, '__name__', annotation)}"


def _fields_of(cls: type) -> str:
    return f"fields of {cls.__name__}: {', '.join(field_types(cls))}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
