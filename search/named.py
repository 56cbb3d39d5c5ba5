"""Parts by name: a frozen dataclass written as text, `beam:samples=16,width=4`, or as JSON, {"name": "beam", ...}.

In a text a value may be JSON: `pruning:samples=8,checkpoints=[1,3]`, `beam:samples=4,delimiter="\\n"`.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from models.errors import ConfigError, nearest, require
from models.serialize import decode, field_types, from_json, to_json
from scaling.typed import typed

MOST = 2**20  # of any count of a part: more is a slip, and would fill memory


class Named:
    """What every part of a kind has: a frozen dataclass with a `name`."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        typed(self, self.name)
        for name in field_types(type(self)):  # counts, shares, seconds, scores: no part has a field that may be below 0
            value = getattr(self, name)
            for one in value if isinstance(value, tuple) else (value,):
                field = f"{self.name}.{name}"
                below = isinstance(one, (int, float)) and one < 0
                require(not below, field, f"is {one}", "give a number that is not negative")
                above = isinstance(one, int) and one > MOST
                require(not above, field, f"is {one:,}" if above else "", f"give at most {MOST:,}")


T = TypeVar("T", bound=Named)


def by_name(kinds: Iterable[type[T]]) -> dict[str, type[T]]:
    """The parts of a kind by their names."""
    return {kind.name: kind for kind in kinds}


def read_named(text: str, kinds: Mapping[str, type[T]], what: str) -> T:
    """The part of a kind that a text names: its name, and after a colon its fields; or a JSON object.

    what: the kind, for messages.

    Raises:
      ConfigError: an unknown name or field, with the nearest that there is, or a value that a field does not take.
    """
    if text.lstrip().startswith("{"):
        return _of_object(_json(text, what), kinds, what)
    name, _, listed = text.partition(":")
    kind = _kind(name, kinds, what)
    hints = field_types(kind)
    given: dict[str, Any] = {}
    for entry in filter(None, _entries(listed)):
        field, equals, value = entry.partition("=")
        if field not in hints:
            raise ConfigError(f"{name}.{field}", f"is no field of this {what}", instead(field, hints))
        require(bool(equals), f"{name}.{field}", "has no value", f"write {field}=4, say")
        given[field] = _value(value, hints[field], f"{name}.{field}")
    absent = [f.name for f in dataclasses.fields(typing.cast(Any, kind)) if _required(f) and f.name not in given]
    require(not absent, name, f"needs {', '.join(absent)}", f"write {name}:{','.join(f'{a}=4' for a in absent)}")
    return kind(**given)


def written(part: Named) -> str:
    """A part as the shortest text that `read_named` makes it of."""
    fields = [f for f in dataclasses.fields(typing.cast(Any, part)) if getattr(part, f.name) != _default(f)]
    values = to_json(part)
    listed = ",".join(f"{f.name}={_spelled(values[f.name])}" for f in fields)
    return f"{part.name}:{listed}" if listed else part.name


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _spelled(value: Any) -> str:
    """A value of JSON as it may stand among others: text as it is, where that reads as text."""
    text = json.dumps(value)
    if not isinstance(value, str):
        return text
    plain = value.isprintable() and value == value.strip() and not set(value) & set(',"[]{}')
    try:
        json.loads(value)
    except ValueError:
        return value if plain and value not in ("none", "None", "") else text
    return text


def instead(name: str, options: Iterable[str]) -> str:
    """What to write instead of a name that is none: the nearest, or all that there are."""
    options = list(options)
    match = nearest(name, options)
    return f"did you mean {match!r}?" if match else f"use one of {', '.join(options)}"


def _kind(name: Any, kinds: Mapping[str, type[T]], what: str) -> type[T]:
    if name not in kinds:
        raise ConfigError(what, f"{name!r} is none", instead(str(name), kinds))
    return kinds[name]


def _of_object(data: Any, kinds: Mapping[str, type[T]], what: str) -> T:
    """The part of a JSON object, whose `name` says which it is, or `type`, its class, as configs on disk have it."""
    classes = {kind.__name__: kind for kind in kinds.values()}
    tag = next((tag for tag in ("name", "type") if tag in data), None)
    require(tag is not None, f"{what}.name", "is missing", f"give one of {', '.join(kinds)}")
    kind = _kind(data[tag], kinds if tag == "name" else classes, what)
    return from_json(kind, {field: value for field, value in data.items() if field != tag}, kind.name)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _entries(listed: str) -> Iterator[str]:
    """A text cut at the commas that stand in no quotes and no brackets."""
    start = depth = 0
    quoted = escaped = False
    for i, letter in enumerate(listed):
        if quoted:
            quoted, escaped = escaped or letter != '"', letter == "\\" and not escaped
        elif letter == '"':
            quoted = True
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            yield listed[start:i]
            start = i + 1
    yield listed[start:]


def _value(text: str, annotation: Any, field: str) -> Any:
    """The value of a text for a field: as JSON where that fits, else as the text it is."""
    word, options = text.strip(), []
    if word[:1] in ('"', "[", "{"):
        options = [_json(word, field)]
    else:
        try:
            options = [json.loads(word), text]
        except ValueError:
            options = [None if word in ("none", "None") else text, text]
    for value in options:
        try:
            return decode(value, annotation, field)
        except ConfigError as refused:
            error = refused
    raise ConfigError(field, f"does not take {text!r}", error.fix)


def _json(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(field, f"is not valid JSON ({error})", "check brackets and quotes") from None
