"""Programs: what stacks of one shape share in a process, traced and compiled once however many of them it trains."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from models.config import ModelConfig
from scaling.train.config import TRACED, TrainConfig, hyperparameters
from scaling.train.placement import Placement
from scaling.train.state import TrainState
from scaling.train.step import advance_trials, init_state, over_trials

KEPT = 2  # shapes: a worker takes the stacks of one shape more or less in a row


class Programs:
    """The initialiser and the chunk of steps of a stack of `trials` trials on `mesh`.

    model: resolved. mode: see `over_trials`. abstract: the state before step 0, leaves `[trials, ...]`.
    """

    def __init__(self, model: ModelConfig, train: TrainConfig, mode: str, mesh: Mesh, trials: int):
        initial = over_trials(partial(init_state, model, train), mode)
        hyper = jax.tree.map(lambda x: np.stack([x] * trials), hyperparameters(train))
        self.abstract: TrainState = jax.eval_shape(initial, np.zeros(trials, np.uint32), hyper)
        trained = train.weights(model)
        self.placement = Placement(
            model, mesh, self.abstract, zero=train.zero, offload=train.offload, trained=trained
        )
        self.initial: Callable[..., TrainState] = self.placement.jit_init(initial)
        count = 5 if train.reads_models else 4
        self._advance = self.placement.jit_advance(advance_trials(model, train, mode), count)
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def advance(self, state: TrainState, *arguments: Any) -> Callable[..., Any]:
        """The chunk of steps, compiled for arguments of these shapes; see `Placement.jit_advance`."""
        leaves, tree = jax.tree.flatten(arguments)
        key = tree, tuple((x.shape, x.dtype) for x in leaves)
        if key not in self._compiled:
            self._compiled[key] = self.placement.compiled(self._advance, state, *arguments)
        return self._compiled[key]


def programs(model: ModelConfig, train: TrainConfig, mode: str, mesh: Mesh, trials: int) -> Programs:
    """The programs of a stack whose trials differ from `train` in traced fields only.

    Raises ConfigError for a stack that does not fit the mesh.
    """
    return _programs(model, replace(train, **TRACED), mode, mesh, trials)


_programs = functools.lru_cache(KEPT)(Programs)
