"""TrainState: everything a run needs to go on, as one pytree."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax


class TrainState(NamedTuple):
    """The whole state of a run (or of a stack of runs: every leaf with a leading trial dim).

    step: int32, updates done. params, opt_state: see models.transformer and the optimiser.
    smooth_loss, best_loss: float32, running mean of the training loss (nats/token) and the least it has been.
    failed_step: int32, the step whose loss or gradient was not finite or spiked; -1 while healthy.
    loss_sum, loss_count: float32, int32; of the training losses since the last multiple of log_every.
    last_loss, grad_norm: float32, of the last step. A step without a scored target changes none of these.
    routing: of a model with experts balance_loss and dropped_share of the last step (models.routing.Routing), float32.
    measured: the metrics of the objective at the last step, float32.
    The last six are here so that a resumed run logs the rows that it would have logged anyway.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    smooth_loss: jax.Array
    best_loss: jax.Array
    failed_step: jax.Array
    loss_sum: jax.Array
    loss_count: jax.Array
    last_loss: jax.Array
    grad_norm: jax.Array
    routing: dict[str, jax.Array]
    measured: dict[str, jax.Array]
