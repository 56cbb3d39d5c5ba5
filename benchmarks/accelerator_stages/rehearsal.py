"""Stages that go wrong, each in its way, so that a rehearsal shows what the run does about it.

Every one has a case before and a case after the one that goes wrong: both must have their lines.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerator_stages.common import Cases


def cases(stage: str, toy: bool, out: Path) -> Cases:
    """before, the stage's own, after."""
    wrong = {"fails": fail, "exhausts": exhaust, "dies": die, "hangs": hang}[stage]
    return {"before": nothing, stage: wrong, "after": nothing}


def nothing() -> dict[str, Any]:
    """A case without a fault."""
    return {}


def fail() -> dict[str, Any]:
    """As a defect does."""
    raise ValueError("this stage is made to fail")


def exhaust() -> dict[str, Any]:
    """Ask the device for more memory than any has."""
    import jax.numpy as jnp

    return {"sum": float(jnp.ones((1 << 46,), jnp.float32).sum())}


def die() -> dict[str, Any]:
    """As a process does that the kernel kills for its memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def hang() -> dict[str, Any]:
    """As a compile does that never ends, deaf to requests."""
    ignore: Callable[..., None] = lambda *_: None  # noqa: E731
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ignore)
    while True:
        time.sleep(60)
