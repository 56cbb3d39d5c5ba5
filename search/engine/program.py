"""Program: a jitted function that counts how often it was compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


class Program:
    """`f` under jax.jit with these options; `compilations` is how often it was traced, once per set of shapes."""

    def __init__(self, f: Callable[..., Any], **options: Any):
        self.compilations = 0

        def counted(*args: Any) -> Any:
            self.compilations += 1
            return f(*args)

        self._jitted = jax.jit(counted, **options)

    def __call__(self, *args: Any) -> Any:
        return self._jitted(*args)
