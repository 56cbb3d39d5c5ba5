"""Fields of a config in the form of their annotations: lists become tuples, and what is no number is refused as such.

A dataclass checks nothing by itself, so that a rule such as `steps >= 1` would meet text, a list, or NaN.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from models.errors import require, require_held
from models.serialize import decode, field_types, groups, join, members, mismatch

_PLAIN = (bool, int, float, str, types.NoneType)
STEPS = 2**31 - 1  # steps are counted in int32
WIDTH = 2**20  # features of a model; the widest published has 2**15


def typed(config: Any, group: str = "") -> None:
    """Give every field of a frozen dataclass, in its `__post_init__`, the form that its annotation asks for.

    group: what the config is called in messages. ConfigError for a value of another type, a number that float32 cannot
    hold, or a text that no file can.
    """
    cls: Any = type(config)
    for name, plain, annotation in _expected(cls):
        value = getattr(config, name)
        if type(value) not in plain or (type(value) is float and not math.isfinite(value)):
            fixed = _fixed(value, annotation, join(group, name))
            if fixed is not value:
                object.__setattr__(config, name, fixed)
            value = fixed
        _check_held(value, group, name)


def _check_held(value: Any, group: str, name: str) -> None:
    """Refuse numbers and texts that are of the right type and cannot be used as what they are."""
    if type(value) is float:
        require_held(value, join(group, name))
    elif type(value) is str and not value.isascii():
        half = next((c for c in value if "\ud800" <= c <= "\udfff"), None)
        problem = f"has {half!r}, half of a character, which no file can hold"
        require(half is None, join(group, name), problem, "leave it out")
    elif type(value) is tuple:
        for one in value:
            _check_held(one, group, name)


def at_most(config: Any, group: str, **limits: float) -> None:
    """ConfigError for a field above its limit; None is below every one."""
    for name, limit in limits.items():
        value = getattr(config, name)
        if value is None:
            continue
        count = isinstance(limit, int)
        problem, fix = f"is {value:,}" if count else f"is {value}", f"give at most {limit:{',' if count else 'g'}}"
        require(value <= limit, join(group, name), problem, fix)


@functools.cache
def _expected(cls: Any) -> list[tuple[str, tuple[type, ...], Any]]:
    """(field, types whose values need nothing, annotation) of every field."""
    return [
        (name, tuple(m for m in members(annotation) if m in _PLAIN), annotation)
        for name, annotation in field_types(cls).items()
    ]


def _fixed(value: Any, annotation: Any, field: str) -> Any:
    options = members(annotation)
    if dataclasses.is_dataclass(value):
        if isinstance(value, groups(annotation)):
            return value
    elif any(typing.get_origin(m) is Literal and value in typing.get_args(m) for m in options if _hashable(value)):
        return value
    elif isinstance(value, (list, tuple)) and any(groups(k) for m in options for k in typing.get_args(m)):
        return tuple(value)  # of dataclasses, which check themselves
    elif not groups(annotation):
        return decode(_json(value), annotation, field)
    raise mismatch(value, annotation, field)


def _json(value: Any) -> Any:
    """The value with lists for tuples, as `decode` reads it."""
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    return {name: _json(item) for name, item in value.items()} if isinstance(value, Mapping) else value


def _hashable(value: Any) -> bool:
    return isinstance(value, _PLAIN)
