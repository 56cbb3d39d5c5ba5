"""TrainState: everything a run needs to go on, as one pytree."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax


class TrainState(NamedTuple):
    """The whole state of a run (or of a stack of runs: every leaf with a leading trial dim).

    step: int32, updates done. params, opt_state: see models.transformer and the optimiser.
    best_loss: float32, least training loss so far (nats/token).
    failed_step: int32, the step whose loss or gradient was not finite or spiked; -1 while healthy.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    best_loss: jax.Array
    failed_step: jax.Array
