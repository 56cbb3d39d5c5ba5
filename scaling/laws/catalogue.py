"""All laws by name, for command lines and saved fits; in code, import the law itself."""

from __future__ import annotations

from models.errors import ConfigError, nearest
from scaling.laws.chinchilla import CHINCHILLA
from scaling.laws.law import Law

CATALOGUE: tuple[Law, ...] = (CHINCHILLA,)


def by_name(name: str) -> Law:
    """The law of that name; ConfigError listing all of them when there is none."""
    laws = {law.name: law for law in CATALOGUE}
    if name not in laws:
        near = nearest(name, laws)
        hint = f"did you mean {near!r}? " if near else ""
        raise ConfigError("law", f"{name!r} is not known", f"{hint}have {', '.join(laws)}")
    return laws[name]
