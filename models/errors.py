"""Bad input has one exception: it names the field or file, what is wrong, and how to fix it, on one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A mistake in a config, a file or a flag that the user can fix; command lines turn it into exit code 2."""

    def __init__(self, field: str, problem: str, fix: str):
        self.field, self.problem, self.fix = field, problem, fix
        super().__init__(" ".join(f"{field}: {problem}: {fix}".split()))

    def __reduce__(self):
        return type(self), (self.field, self.problem, self.fix)


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option that `name` most likely misspells, or None when nothing is close."""
    matches = difflib.get_close_matches(name, list(options), n=1, cutoff=0.6)
    return matches[0] if matches else None


def require(condition: bool, field: str, problem: str, fix: str) -> None:
    """Raise ConfigError(field, problem, fix) unless `condition` holds."""
    if not condition:
        raise ConfigError(field, problem, fix)


def divisors(n: int) -> list[int]:
    """All divisors of n, ascending."""
    return [k for k in range(1, n + 1) if n % k == 0]
