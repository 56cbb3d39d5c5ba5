"""Rounded: a weight whose products read numbers of few bits, forwards and backwards (emulated low-precision training).

Every product of a layer y = x W is three: y, dx = dy W^T and dW = x^T dy. Both operands of each are rounded to
`exponent` and `mantissa` bits, to the nearest and of two to the even one, and are multiplied with float32 sums; what
optimiser and checkpoint hold stays as it was. With blocks, as of DeepSeek-V3 (arXiv:2412.19437, section 3.3.2), what a
sum runs over is cut into pieces of `block` numbers, W into squares, and each is divided before it is rounded by
largest magnitude / largest number of the format, and multiplied by it afterwards. Without, all numbers are rounded as
they are and those too large become the largest (Lee et al. 2024, To FP8 and back again, arXiv:2405.18710, truncate).

No weights and no FLOPs beside those of the product, which a chip of that format would do in fewer bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Format(NamedTuple):
    """Bits of a number beside its sign; block: numbers that share a scale, 0 for none."""

    exponent: int = 4
    mantissa: int = 3
    block: int = 128

    @property
    def largest(self) -> float:
        """The largest number: that of IEEE 754's pattern, but 448 for e4m3, which gives up the infinities for it."""
        if (self.exponent, self.mantissa) == (4, 3):
            return 448.0
        return (2 - 2.0**-self.mantissa) * 2.0 ** (2 ** (self.exponent - 1) - 1)

    @property
    def least_normal(self) -> float:
        """The smallest number with all bits of the mantissa; below, numbers are equally far apart."""
        return 2.0 ** (2 - 2 ** (self.exponent - 1))


@partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["format"])
@dataclass(frozen=True)
class Rounded:
    """A weight `[*in, *out]`, in full, and the format that its products read. Scanned layers lead with a dim more."""

    values: jax.Array
    format: Format

    def ready(self, whole: Callable[[Any], Any], dtype: str) -> Rounded:
        """Itself with `whole` applied to the weight."""
        del dtype
        return Rounded(whole(self.values), self.format)

    def contracted(self, x: jax.Array, dims: int) -> jax.Array:
        """x `[..., *in]` times the weight, whose first `dims` dims are contracted: `[..., *out]` in x's dtype."""
        fan_in = math.prod(self.values.shape[:dims])
        rows, matrix = x.reshape(-1, fan_in), self.values.reshape(fan_in, -1)
        y = product(rows.astype(jnp.float32), matrix.astype(jnp.float32), self.format)
        return y.reshape(*x.shape[: x.ndim - dims], *self.values.shape[dims:]).astype(x.dtype)


def rounded(x: jax.Array, format: Format) -> jax.Array:
    """The nearest numbers of the format, float32."""
    nearest = jax.lax.reduce_precision(x, 8, format.mantissa)
    if format.exponent < 8:
        step = format.least_normal * 2.0**-format.mantissa  # between numbers below
        nearest = jnp.where(jnp.abs(x) < format.least_normal, jnp.round(x / step) * step, nearest)
    return jnp.clip(nearest, -format.largest, format.largest)


def rounded_blocks(x: jax.Array, format: Format, shape: tuple[int, int]) -> jax.Array:
    """x `[rows, columns]` rounded in blocks of so many rows and columns, the last of which may be cut short, each with
    a scale of its own; without scales where the format has no blocks."""
    if not format.block:
        return rounded(x, format)
    (rows, columns), (high, wide) = x.shape, (min(n, size) for n, size in zip(shape, x.shape, strict=True))
    filled = jnp.pad(x, ((0, -rows % high), (0, -columns % wide)))
    cut = filled.reshape(filled.shape[0] // high, high, filled.shape[1] // wide, wide)
    most = jnp.abs(cut).max((1, 3), keepdims=True)
    scale = jnp.where(most > 0, most, 1.0) / format.largest
    return (rounded(cut / scale, format) * scale).reshape(filled.shape)[:rows, :columns]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, w: jax.Array, format: Format) -> jax.Array:
    """x `[rows, in]` times w `[in, out]`, float32."""
    return _forward(x, w, format)[0]


def _forward(x: jax.Array, w: jax.Array, format: Format) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    size = format.block
    y = _dot(rounded_blocks(x, format, (1, size)), rounded_blocks(w, format, (size, size)))
    return y, (x, w)


def _backward(format: Format, read: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    (x, w), size = read, format.block
    dx = _dot(rounded_blocks(dy, format, (1, size)), rounded_blocks(w, format, (size, size)).T)
    return dx, _dot(rounded_blocks(x, format, (size, 1)).T, rounded_blocks(dy, format, (size, 1)))


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, precision="highest")  # else accelerators round once more


product.defvjp(_forward, _backward)
