"""A search on disk: the state of the device and the host's own records in one file, which nothing may change unseen;
and what was fitted for searches.

The file is the sha256 of what follows in hexadecimal digits, a line feed, and a safetensors file: the arrays by their
place in the state, and JSON in its metadata. It also says what search it belongs to; another one is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from models.errors import ConfigError, require
from scaling import kept
from scaling.kept import write_atomically
from search.rounds import Extension, Rounds, State

FORMAT = 1
DIGITS = 64  # of the sha256


@dataclasses.dataclass(frozen=True)
class Keep:
    """Where a search is kept while it runs, so that one that was killed goes on.

    seconds: between two writes; rounds: of the device between two looks at the clock. With 0 and 1 every round is kept.
    """

    path: Path
    seconds: float = 60.0
    rounds: int = 16

    def __post_init__(self) -> None:
        require(self.seconds >= 0, "keep.seconds", f"is {self.seconds}", "give 0 or more")
        require(self.rounds >= 1, "keep.rounds", f"is {self.rounds}", "give a positive integer")


def identity(rounds: Rounds, params: Any, host: bool) -> dict[str, Any]:
    """What a state belongs to, as JSON: everything that answers depend on but the problems and the mesh.

    Programs are compared by their lowered text, which holds what a strategy and a model close over. host: scores come
    from a function of the host, of which nothing can be known.
    """
    strategy, decoder, scorer = rounds.strategy, rounds.decoder, rounds.scorer
    state, shapes = jax.eval_shape(lambda: (rounds.empty(), params))
    shape = (rounds.config.problems, strategy.width)
    ints: Any = jax.ShapeDtypeStruct(shape, jnp.int32)
    caches = jax.eval_shape(lambda: decoder.caches(*shape, rounds.config.max_tokens))
    taken = jax.eval_shape(rounds.taken, state.population, ints, ints)
    rows = Extension(taken, taken, *[ints] * (len(Extension._fields) - 2))
    plain = {f.name: getattr(strategy, f.name) for f in dataclasses.fields(strategy)}
    programs: list[tuple[Callable[..., Any], tuple[Any, ...]]]
    programs = [(rounds.empty, ()), (rounds.select, (state,)), (rounds.outcome, (state,))]
    if strategy.control is not None:
        programs.append((jax.vmap(jax.vmap(strategy.control)), (ints, ints, ints)))
    found = {
        "jax": jax.__version__,
        "search": dataclasses.asdict(rounds.config),
        "policy": {
            "kind": type(decoder).__name__,
            "params": _params(params[0]),
            "program": _program((decoder.step, (shapes[0], state.contexts, caches, ints, ints))),
        },
        "verifier": {
            "kind": "of the host" if host else type(scorer).__name__,
            "params": _params(params[1]),
            "program": _program((rounds.scores, (shapes, state, rows))),
        },
        "strategy": {name: x for name, x in plain.items() if not callable(x)} | {"program": _program(*programs)},
    }
    return json.loads(json.dumps(found))


def write(path: Path, whose: dict[str, Any], state: State, host: dict[str, Any]) -> None:
    """Keep a state and what the host knows (JSON) in place of what `path` held; a crash leaves the old file whole."""
    _write(path, state, {"format": FORMAT, "identity": whose, "host": host})


def read(path: Path, whose: dict[str, Any], like: State) -> tuple[State, dict[str, Any]]:
    """The state and the host's part; `like` gives the shapes. ConfigError: damaged, or of another search."""
    text, body = _read(path, "delete it, and the search starts again")
    other = f"has format {text['format']}, not {FORMAT}"
    require(text["format"] == FORMAT, str(path), other, "use the isoflop that wrote it")
    for name, there, here in _differences(text["identity"], whose):
        problem = f"is of another search: its {name} is {there}, and here it is {here}"
        raise ConfigError(str(path), problem, "delete it, or search as before")
    return _like(body, like), text["host"]


def write_fitted(path: Path, facts: dict[str, str], fitted: Any) -> None:
    """Keep arrays (a pytree) with what they belong to."""
    _write(path, fitted, {"format": FORMAT, "facts": facts})


def read_fitted(path: Path, facts: dict[str, str], like: Any) -> Any:
    """What `write_fitted` kept; `like` gives the shapes. ConfigError: damaged, or of something else."""
    return _like(check_fitted(path, facts), like)


def check_fitted(path: Path, facts: dict[str, str]) -> bytes:
    """The file's arrays, not yet read; ConfigError as `read_fitted`."""
    fix = "delete it, and it is fitted again"
    text, body = _read(path, fix)
    require(text.get("facts") == facts, str(path), f"is of {text.get('facts')}, not of {facts}", fix)
    return body


def _write(path: Path, arrays: Any, text: dict[str, Any]) -> None:
    plain = {name: _plain(np.asarray(x, order="C")) for name, x in _named(jax.device_get(arrays))}
    body = safetensors.numpy.save(plain, metadata={"search": json.dumps(text)})
    write_atomically(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _read(path: Path, fix: str) -> tuple[dict[str, Any], bytes]:
    """(text, safetensors file) of what `_write` wrote, whole."""
    data = kept.read_bytes(path, fix)
    body = data[DIGITS + 1 :]
    whole = data[: DIGITS + 1] == hashlib.sha256(body).hexdigest().encode() + b"\n"
    require(whole, str(path), "is damaged: it does not match its own sha256", fix)
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    return json.loads(header["__metadata__"]["search"]), body


def _like(body: bytes, like: Any) -> Any:
    arrays = safetensors.numpy.load(body)
    # Copies, because a search's state is donated to programs, and what NumPy lent cannot be.
    leaves = [jnp.array(arrays[name].view(x.dtype), copy=True) for name, x in _named(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _named(state: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        yield jax.tree_util.keystr(path), leaf


def _plain(x: np.ndarray) -> np.ndarray:
    """Types that NumPy does not know by itself (bfloat16) as integers of their bits."""
    return x.view(f"u{x.dtype.itemsize}") if x.dtype.kind == "V" else x


def _params(params: Any) -> str:
    """sha256 of arrays: places, shapes, types and bits."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        x = np.asarray(jax.device_get(leaf), order="C")
        total.update(f"{jax.tree_util.keystr(path)} {x.shape} {x.dtype}\n".encode() + x.tobytes())
    return total.hexdigest()


def _program(*functions: tuple[Callable[..., Any], tuple[Any, ...]]) -> str:
    """sha256 of what functions of arrays do, as jax lowers them for such arguments."""
    total = hashlib.sha256()
    for f, arguments in functions:
        total.update(jax.jit(f).lower(*arguments).as_text().encode())
    return total.hexdigest()


def _differences(there: Any, here: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, value there, value here) of whatever differs, in order."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*here, *(key for key in there if key not in here)]:
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield name, there, here
