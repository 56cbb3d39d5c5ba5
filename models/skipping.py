"""Unified layer skipping: a speed-up decides which layers are left out, evenly spaced and the same for every token
(Liu et al. 2024, arXiv:2404.06954).

What is left is a model like any other, so that batches, caches and counts stay exact. Of L layers
n = round(L / speed-up) remain, at round(i (L - 1) / (n - 1)) for i = 0 .. n - 1: the first and the last among them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from models.config import ModelConfig
from models.errors import require
from models.transformer import Params, stack_layers, unstack_layers


def evenly_spaced(n_layers: int, speedup: float) -> tuple[int, ...]:
    """The layers that remain for a speed-up of the layers' time; ConfigError for one below 1 or of fewer than two."""
    require(speedup >= 1, "speedup", f"is {speedup}", "give a factor of at least 1")
    n = int(n_layers / speedup + 0.5)
    require(n >= 2, "speedup", f"is {speedup}, which leaves {n} of {n_layers} layers", f"use at most {n_layers / 2:g}")
    return tuple(int(i * (n_layers - 1) / (n - 1) + 0.5) for i in range(n))


def with_layers(config: ModelConfig, params: Params, layers: Sequence[int]) -> tuple[ModelConfig, Params]:
    """(the model that has these layers alone, in this order; its part of `params`); stacked where the config scans."""
    problem, fix = f"are {list(layers)} of {config.n_layers}", "name layers of the model in ascending order"
    ascending = all(a < b for a, b in itertools.pairwise(layers))
    require(ascending and layers[0] >= 0 and layers[-1] < config.n_layers, "layers", problem, fix)
    c = config.resolved()
    kept = dataclasses.replace(c, n_layers=len(layers))
    if c.prologue or len(c.period) > 1:  # a pattern of its own, which says what these fields said
        pattern = tuple(c.layers[i] for i in layers)
        kept = dataclasses.replace(
            c, n_layers=len(layers), pattern=pattern, prologue=(), moe=None, sliding_window=None,
            layer_types=("sliding",), rope_theta_local=None, wiring=c.wired, post_norms=False,
        )  # fmt: skip
    flat = unstack_layers(params, c)
    left = {name: value for name, value in flat.items() if not name.startswith("block_")}
    left |= {f"block_{at}": flat[f"block_{i}"] for at, i in enumerate(layers)}
    return kept, stack_layers(left, kept) if c.scan_layers else left
