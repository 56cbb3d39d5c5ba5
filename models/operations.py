"""What parts compute with: every function that a mixer, a channel or a wiring may ask for, under one name (`ops`)."""

from __future__ import annotations

from functools import partial

from models.activation import activated
from models.cache import features
from models.context import Lead
from models.contraction import contract
from models.dispatch import Products, capacity_block, dropless_block, through_slots
from models.lent import Lent
from models.norm import norm, normalize
from models.past import Reach, carry_blocks
from models.positions import rotary_angles, rotate
from models.recurrence import causal_convolution, corrected, gated_delta, gated_linear, gated_sum, token_before
from models.routing import Assignment, Plan, Routing, Slots, choose, load_balance, messenger, shares, z_loss
from models.sharding import RESIDUAL, axis_size, constrain, gather_positions, scatter_positions
from models.ternary import ternary_contract

__all__ = [
    "Assignment", "Lead", "Lent", "Plan", "Products", "Reach", "Routing", "Slots", "activated", "axis_size",
    "capacity_block", "carry_blocks", "causal_convolution", "choose", "constrain", "constrain_residual", "contract",
    "corrected", "dropless_block", "features", "gated_delta", "gated_linear", "gated_sum", "gather_positions",
    "load_balance", "messenger", "norm", "normalize", "rotary_angles", "rotate", "scatter_positions", "shares",
    "ternary_contract", "through_slots", "token_before", "z_loss",
]  # fmt: skip

constrain_residual = partial(constrain, dims=RESIDUAL)
