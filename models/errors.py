"""Bad input has one exception: it names the field or file, what is wrong, and how to fix it, on one line."""

from __future__ import annotations

import dataclasses
import difflib
import math
import unicodedata
from collections.abc import Iterable
from typing import Any

LARGEST_SIZE = 2**24  # of any width, count or length in a model: beyond it a number is a slip
TINY, HUGE = 2.0**-126, 2.0**126  # what float32 holds to full precision, with room for a product


class ConfigError(ValueError):
    """A mistake in a config, a file or a flag that the user can fix; command lines turn it into exit code 2."""

    def __init__(self, field: str, problem: str, fix: str):
        self.field, self.problem, self.fix = field, problem, fix
        super().__init__(printable(" ".join(f"{field}: {problem}: {fix}".split())))

    def __reduce__(self):
        return type(self), (self.field, self.problem, self.fix)


def printable(text: str) -> str:
    """Text for a terminal: what would move its cursor, colour it, turn it around or be no Unicode becomes "?".

    Paths and texts of others may hold anything; lines and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join("?" if _steers(c) else c for c in text)


def _steers(c: str) -> bool:
    return c in _TURNS or (unicodedata.category(c) in _CONTROLS and c not in "\n\t")


_CONTROLS = ("Cc", "Cs", "Zl", "Zp")  # controls, surrogates, separators of lines and paragraphs
_TURNS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # of the writing direction


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option that `name` most likely misspells, or None when nothing is close."""
    matches = difflib.get_close_matches(name, list(options), n=1, cutoff=0.6)
    return matches[0] if matches else None


def require(condition: bool, field: str, problem: str, fix: str) -> None:
    """Raise ConfigError(field, problem, fix) unless `condition` holds."""
    if not condition:
        raise ConfigError(field, problem, fix)


def require_sizes(part: Any, place: str = "") -> None:
    """ConfigError for a number in a config or in the configs in it that is beyond any size there is, before anything is
    counted up to it, or that float32 cannot hold."""
    if dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            require_sizes(getattr(part, field.name), f"{place}.{field.name}" if place else field.name)
    elif isinstance(part, tuple):
        for one in part:
            require_sizes(one, place)
    elif isinstance(part, int) and abs(part) > LARGEST_SIZE:
        raise ConfigError(place, f"is {part}", f"give at most {LARGEST_SIZE}")
    elif isinstance(part, float):
        require_held(part, place)


def require_held(number: float, field: str) -> None:
    """ConfigError for a number that is nothing, or no number, in float32."""
    require(math.isfinite(number), field, f"is {number}", "give a finite number")
    held = number == 0 or abs(number) >= TINY
    require(held, field, f"is {number}, which is 0 in float32", f"give at least {TINY:.2g}")
    require(abs(number) <= HUGE, field, f"is {number}", f"give at most {HUGE:.2g}")


def divisors(n: int) -> list[int]:
    """All divisors of n, ascending."""
    low = [k for k in range(1, math.isqrt(n) + 1) if n % k == 0]
    return low + [n // k for k in reversed(low) if k * k != n]
