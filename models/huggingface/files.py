"""The JSON files of a Hugging Face folder, and typed access to the keys of a config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import ConfigError, require

Json = Mapping[str, Any]


def read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    """The object in a JSON file, {} if it may be missing; ConfigError when it is missing or no JSON object."""
    if optional and not path.is_file():
        return {}
    require(path.is_file(), str(path), "does not exist", "give the folder of a Hugging Face model")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"is not JSON ({error})", "copy the file again") from None
    require(isinstance(data, dict), str(path), "holds no JSON object", "copy the file again")
    return data


def write_json(path: Path, data: Json) -> None:
    """Write an object as indented JSON."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# the most that a key may say: what a foreign file makes us declare and allocate is known before it is
MOST = 2**24
MOST_OF = {"num_hidden_layers": 4096, "n_layer": 4096, "num_experts": 2**16, "num_local_experts": 2**16}


class Keys:
    """The keys of a config.json, typed; every error names the file and the key."""

    def __init__(self, data: Json, file: str, defaults: Json):
        self.data, self.file, self.defaults = data, file, defaults

    def error(self, key: str, problem: str, fix: str) -> ConfigError:
        """An error at one key."""
        return ConfigError(self.file, f"{key} {problem}", fix)

    def get(self, key: str, *kinds: type) -> Any:
        """Value or default; an error where it is missing without default, of no such kind, or too large."""
        if key not in self.data and key not in self.defaults:
            raise self.error(key, "is missing", "copy the config.json of the model again")
        value = self.data.get(key, self.defaults.get(key))
        if value is None and self.defaults.get(key, 0) is None:
            return None
        if (isinstance(value, bool) and bool not in kinds) or not isinstance(value, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise self.error(key, f"is {value!r}", f"give a value of type {names}")
        most: int = MOST_OF.get(key, MOST)
        if isinstance(value, int) and float not in kinds and not 0 <= value <= most:
            raise self.error(key, f"is {value:,}", f"give a number up to {most:,}")
        return value

    def number(self, key: str) -> float:
        """A float; integers count as such."""
        return float(self.get(key, int, float))
