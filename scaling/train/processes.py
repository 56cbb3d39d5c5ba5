"""What the processes of one run agree on: process 0 decides, the others hear it; values on the host of every process.

Everything here is a plain call where there is one process. Where there are several, each must make the same calls in
the same order (from its main thread, `barrier` aside), or they wait for each other until the heartbeat ends them.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from models.errors import ConfigError

T = TypeVar("T")
PATIENCE_S = 3600  # process 0 tokenises a corpus, or hashes a checkpoint at 1 GB/s and core, while the others wait
PAGE = 1024  # bytes; messages are padded to a power of 2 of it, so that few programs are compiled for them
_passed: Counter[str] = Counter()  # how often each barrier was passed; a barrier's name may be used only once


def is_first() -> bool:
    """Whether this is process 0, the one that writes files which all share."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait for every process, at most PATIENCE_S; works from any thread, since no device takes part."""
    if jax.process_count() > 1:
        _passed[name] += 1
        wait = ocp.multihost.sync_global_processes
        asyncio.run(wait(name, operation_id=f"isoflop.{_passed[name]}", timeout=PATIENCE_S))


def from_first(compute: Callable[[], T]) -> T:
    """What `compute` returns in process 0, in every process; it must be JSON. The others do not call it.

    An error of process 0 is raised in all: ConfigErrors as they are, others as RuntimeError in those that only hear of
    it.
    """
    if jax.process_count() == 1:
        return compute()
    answer: dict[str, Any] = {}
    cause: Exception | None = None
    if is_first():
        try:
            answer = {"value": compute()}
        except ConfigError as error:
            answer = {"config": [type(error).__name__, error.field, error.problem, error.fix]}
            cause = error
        except Exception as error:
            answer = {"failure": f"process 0 failed: {type(error).__name__}: {error}"}
            cause = error
    heard = _broadcast(answer)
    if cause is not None:
        raise cause
    if "config" in heard:
        kind, *words = heard["config"]
        raise next((found for found in _kinds(ConfigError) if found.__name__ == kind), ConfigError)(*words)
    if "failure" in heard:
        raise RuntimeError(heard["failure"])
    return heard["value"]


def fetch(tree: Any) -> Any:
    """The values of a pytree of arrays as numpy arrays, in every process, wherever their shards are."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(_fetch, tree)


def _fetch(x: Any) -> np.ndarray:
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def _broadcast(message: Any) -> Any:
    """The JSON value of process 0, in every process."""
    barrier("message")  # the collective below has a shorter patience than what process 0 may do before
    text = json.dumps(message).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int64(len(text)).astype(np.int32)))
    room = PAGE
    while room < size:
        room *= 2
    buffer = np.zeros(room, np.uint8)
    if is_first():
        buffer[:size] = np.frombuffer(text, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8)[:size].tobytes())


def _kinds(kind: type[ConfigError]) -> Iterator[type[ConfigError]]:
    yield kind
    for derived in kind.__subclasses__():
        yield from _kinds(derived)
