"""Adapted: a frozen weight with what is trained around it, multiplied without ever being added up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from models.contraction import contract


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["base", "down", "up", "gain_in", "gain_out", "squeeze", "expand"],
    meta_fields=["scale"],
)
@dataclass(frozen=True)
class Adapted:
    """A weight `[*in, *out]` and trained parts, each of which may be missing:

        y = ((x gain_in) base) gain_out + scale (x down) up,   then   y + gelu(y squeeze) expand

    down `[*in, rank]`, up `[rank, *out]` (LoRA, Hu et al. 2021); gain_in `[*in]`, gain_out `[*out]` ((IA)^3, Liu et al.
    2022); squeeze `[*out, rank]`, expand `[rank, *out]` (adapters, Houlsby et al. 2019). Scanned layers have a leading
    dim on every array.
    """

    base: Any
    down: Any = None
    up: Any = None
    gain_in: Any = None
    gain_out: Any = None
    squeeze: Any = None
    expand: Any = None
    scale: float = 1.0

    def ready(self, base: Callable[[Any], Any], dtype: str) -> Adapted:
        """Itself with `base` applied to the frozen weight and the trained parts in the compute dtype."""

        def cast(x: Any) -> Any:
            return None if x is None else x.astype(dtype)

        gains, bottleneck = (cast(self.gain_in), cast(self.gain_out)), (cast(self.squeeze), cast(self.expand))
        return Adapted(base(self.base), cast(self.down), cast(self.up), *gains, *bottleneck, self.scale)

    def contracted(self, x: jax.Array, dims: int) -> jax.Array:
        """The product of x `[..., *in]` and the base's first `dims` dims with all parts: `[..., *out]` in x's dtype."""
        y = contract(x if self.gain_in is None else x * self.gain_in, self.base, dims)
        if self.gain_out is not None:
            y = y * self.gain_out
        if self.down is not None:
            y = y + jnp.asarray(self.scale, y.dtype) * contract(contract(x, self.down, dims), self.up)
        if self.squeeze is not None:
            y = y + contract(jax.nn.gelu(contract(y, self.squeeze, y.ndim - x.ndim + dims)), self.expand)
        return y


def merged(w: Adapted) -> jax.Array:
    """The one weight that gives the same products, of one layer; what is not linear in x (`squeeze`) has none."""
    assert w.squeeze is None, "an adapter with an activation cannot be merged"
    whole = w.base.astype(jnp.float32)
    if w.gain_in is not None:
        whole = whole * w.gain_in.reshape(*w.gain_in.shape, *[1] * (whole.ndim - w.gain_in.ndim))
    if w.gain_out is not None:
        whole = whole * w.gain_out
    if w.down is not None:
        whole = whole + w.scale * jnp.tensordot(w.down.astype(jnp.float32), w.up.astype(jnp.float32), 1)
    return whole.astype(w.base.dtype)
