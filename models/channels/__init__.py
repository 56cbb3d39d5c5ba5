"""How a token is transformed alone: one file per channel, and `Channel`, the union of them.

A channel is a mixer (models.mixers) that keeps nothing: slot, resolved, weights, apply(stream, w, x, tokens) -> (y,
routing or None), flops(stream, seq), which counts what its weights' declarations do not, hidden(stream), the features
between its products that one token passes through, and exchanged(stream, tokens, devices), what it sends.
"""

from __future__ import annotations

from models.channels.dense import Dense
from models.channels.experts import Experts
from models.channels.product_keys import ProductKeys
from models.channels.ternary import Ternary

Channel = Dense | Experts | ProductKeys | Ternary

__all__ = ["Channel", "Dense", "Experts", "ProductKeys", "Ternary"]
