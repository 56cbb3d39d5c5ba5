"""QuantizedWeight: a matrix in 8 or 4 bits with its scales, and the products that read it as it lies.

Integers times integers, summed exactly in int32, are what a CPU's dot-product and tile instructions are made for, so
activations become integers too: per row one int8 digit (`w8a8`) or two of them, 2^-16 of the row's largest entry apart
(`int8`, `int4`: weight-only as far as any error can be seen). XLA's CPU backend multiplies a single int8 row in a plain
loop, ten times slower than float32; two rows go through the fast product, so a lone row is padded to two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from models.errors import require
from models.platform import on_cpu

Mode = Literal["int8", "w8a8", "int4"]
LARGEST = 127  # of an int8 digit; -128 is left out so that negation is exact
NIBBLE = 7  # largest magnitude of a 4-bit value
MULTIPLIERS = 16  # 4-bit group scales are 1 .. 16 times the scale of their output
GROUP = 128  # inputs that share a 4-bit group scale, or the largest divisor of the fan-in's half below
SECOND_DIGIT = 2 * LARGEST  # the second int8 digit of an activation is worth 1 / 254 of the first
WEIGHT_FIRST_BELOW = 32  # rows of a product below which the weight is its left operand; measured


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "scale", "multiplier"],
    meta_fields=["mode", "shape", "inputs", "transposed"],
)
@dataclass(frozen=True)
class QuantizedWeight:
    """A weight `[*in, *out]` (`shape`, of which `inputs` leading dims are contracted), stored output-major.

    values: `[out, in]` int8, or for int4 `[out, in / 2]` uint8: byte j holds input j in its low half and input
        in / 2 + j in its high half, each plus 8.
    scale: `[out]` float32. multiplier: None, or for int4 `[out, groups]` uint8 in 1 .. 16, groups of equal size.
    The weight is scale * values, for int4 scale * multiplier * (nibble - 8).
    transposed: the array seen from outside is `[out, in]`: a table of rows, whose `T` is the matrix.
    Scanned layers have a leading dim on every array, which `shape` leaves out.
    """

    values: jax.Array
    scale: jax.Array
    multiplier: jax.Array | None
    mode: Mode
    shape: tuple[int, ...]
    inputs: int
    transposed: bool = False

    @property
    def ndim(self) -> int:
        """Number of dims seen from outside."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(x.nbytes for x in jax.tree.leaves(self))

    @property
    def T(self) -> QuantizedWeight:
        """The transpose of a two-dimensional weight, without a copy."""
        assert len(self.shape) == 2 and self.inputs == 1
        return QuantizedWeight(
            self.values, self.scale, self.multiplier, self.mode, self.shape[::-1], 1, not self.transposed
        )

    def astype(self, dtype: Any) -> QuantizedWeight:
        """Itself: products are computed in the dtype of the other operand."""
        del dtype
        return self

    def ready(self, whole: Callable[[Any], Any], dtype: str) -> QuantizedWeight:
        """Itself: it is read as it was quantised."""
        del whole, dtype
        return self

    def contracted(self, x: jax.Array, dims: int) -> jax.Array:
        """As `quantized_contract`."""
        return quantized_contract(x, self, dims)


def quantize_weight(w: jax.Array, mode: Mode, inputs: int = 1, transposed: bool = False) -> QuantizedWeight:
    """Round a weight `[*in, *out]` (`transposed`: a table `[out, in]`) to the nearest representable values.

    Error per entry: scale / 2, scale = largest of the output's column / 127; for int4 at most
    (largest of the group / 7 + largest of the column / 112) / 2.
    """
    shape = tuple(w.shape)
    fan_in = shape[1] if transposed else math.prod(shape[:inputs])
    matrix = w.astype(jnp.float32)
    matrix = matrix if transposed else matrix.reshape(fan_in, -1).T
    require(fan_in < 2**17, "quantize", f"{fan_in} inputs overflow int32 sums", "keep this weight in floating point")
    if mode == "int4":
        values, scale, multiplier = _nibbles(matrix)
        return QuantizedWeight(values, scale, multiplier, mode, shape, inputs, transposed)
    values, scale = quantize_rows(matrix)
    return QuantizedWeight(values, scale[:, 0], None, mode, shape, inputs, transposed)


def quantize_rows(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(values `[..., n]` int8, scale `[..., 1]` float32) of x `[..., n]`: scale = largest magnitude / 127.

    |x - scale * values| <= scale / 2, beside float32 rounding; a row of zeros has scale 0.
    """
    digits, scale = _scaled(x)
    return jnp.round(digits).astype(jnp.int8), scale


def dequantize_rows(values: jax.Array, scale: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """scale * values in `dtype`: the inverse of `quantize_rows`."""
    return (values.astype(jnp.float32) * scale).astype(dtype)


def dequantize(w: QuantizedWeight) -> jax.Array:
    """The float32 weight `[*shape]` that `w` stands for."""
    matrix = _integers(w).astype(jnp.float32) * w.scale[:, None]
    return matrix if w.transposed else matrix.T.reshape(w.shape)


def lookup(table: jax.Array | QuantizedWeight, rows: jax.Array, dtype: Any = None) -> jax.Array:
    """Rows `[...]` int32 of a table `[rows, d]`: `[..., d]` in `dtype` (None: the table's; float32 if quantised)."""
    if not isinstance(table, QuantizedWeight):
        found = jnp.take(table, rows, axis=0)
        return found if dtype is None else found.astype(dtype)
    assert table.transposed, "the rows of a matrix are not stored together"
    multiplier = None if table.multiplier is None else jnp.take(table.multiplier, rows.reshape(-1), axis=0)
    values = jnp.take(table.values, rows.reshape(-1), axis=0)
    scale = jnp.take(table.scale, rows.reshape(-1), axis=0)
    few = QuantizedWeight(values, scale, multiplier, table.mode, (rows.size, table.shape[1]), 1, True)
    return dequantize(few).reshape(*rows.shape, table.shape[1]).astype(dtype or jnp.float32)


def quantized_contract(x: jax.Array, w: QuantizedWeight, dims: int = 1) -> jax.Array:
    """Contract the last `dims` dims of x `[..., *in]` with the inputs of w: `[..., *out]` in x's dtype."""
    assert not w.transposed and dims == w.inputs, "the weight was quantised for another product"
    lead, fan_in = x.shape[: x.ndim - dims], math.prod(w.shape[:dims])
    rows = x.reshape(-1, fan_in)
    if on_cpu() or w.mode == "w8a8":
        y = _integer_product(rows.astype(jnp.float32), w)
    else:
        matrix = (_integers(w).astype(jnp.float32) * w.scale[:, None]).astype(x.dtype)
        y = jax.lax.dot_general(rows, matrix, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    return y.reshape(*lead, *w.shape[dims:]).astype(x.dtype)


def _scaled(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(-1, keepdims=True) / LARGEST
    return jnp.where(scale > 0, x / jnp.where(scale > 0, scale, 1.0), 0.0), scale


def _integer_product(x: jax.Array, w: QuantizedWeight) -> jax.Array:
    """x `[rows, in]` float32 times w -> `[rows, out]` float32; int32 sums are exact."""
    n = x.shape[0]
    exact, scale = _scaled(x)
    first = jnp.round(exact)
    digits = first.astype(jnp.int8)
    if w.mode != "w8a8":
        digits = jnp.concatenate([digits, jnp.round((exact - first) * SECOND_DIGIT).astype(jnp.int8)])
    elif n == 1:
        digits = jnp.pad(digits, ((0, 1), (0, 0)))
    weight_first = digits.shape[0] < WEIGHT_FIRST_BELOW and on_cpu()
    y = (_nibble_dot if w.mode == "int4" else _dot)(digits, w, weight_first)
    y = y[:, :n] + y[:, n:] / SECOND_DIGIT if weight_first and w.mode != "w8a8" else y
    y = y[:n] + y[n:] / SECOND_DIGIT if not weight_first and w.mode != "w8a8" else y
    if weight_first:
        return (y[:, :n] * w.scale[:, None]).T * scale
    return y[:n] * w.scale * scale


def _dot(digits: jax.Array, w: QuantizedWeight, weight_first: bool) -> jax.Array:
    return _int8_dot(digits, w.values, weight_first).astype(jnp.float32)


def _int8_dot(rows: jax.Array, matrix: jax.Array, matrix_first: bool) -> jax.Array:
    """rows `[n, in]`, matrix `[out, in]` int8 -> `[n, out]`, or `[out, n]` if `matrix_first`; int32."""
    a, b = (matrix, rows) if matrix_first else (rows, matrix)
    return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)


# -- four bits ---------------------------------------------------------------------------------------------------
#
# Two levels of scales as in QServe (Lin et al. 2024): a float32 per output and a whole number 1 .. 16 per group, so
# that nibble * multiplier still fits a byte, and the product stays one int8 product with one scale per output.


def _nibbles(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    out, fan_in = matrix.shape
    require(fan_in % 2 == 0, "quantize", f"int4 packs 2 inputs to a byte, not {fan_in}", "use mode int8")
    groups = fan_in // math.gcd(fan_in // 2, GROUP)
    grouped = matrix.reshape(out, groups, -1)
    step = jnp.abs(grouped).max(-1) / NIBBLE
    scale = step.max(-1) / MULTIPLIERS
    safe = jnp.where(scale > 0, scale, 1.0)[:, None]
    multiplier = jnp.clip(jnp.ceil(step / safe), 1, MULTIPLIERS)
    values = jnp.clip(jnp.round(grouped / (safe * multiplier)[..., None]), -NIBBLE, NIBBLE) + 8
    low, high = jnp.split(values.reshape(out, fan_in).astype(jnp.uint8), 2, axis=1)
    return low | (high << 4), scale, multiplier.astype(jnp.uint8)


def _unpacked(w: QuantizedWeight) -> tuple[jax.Array, jax.Array]:
    """nibble * multiplier - 128 as int8 `[out, in / 2]`, of the first and the second half of the inputs."""
    assert w.multiplier is not None
    out, groups = w.multiplier.shape
    factors = w.multiplier.reshape(out, 2, groups // 2, 1)
    grouped = w.values.reshape(out, groups // 2, -1)

    def half(nibbles: jax.Array, factor: jax.Array) -> jax.Array:
        shifted = (nibbles * factor) ^ jnp.uint8(128)  # 15 * 16 < 256; the flipped top bit subtracts 128
        return jax.lax.bitcast_convert_type(shifted, jnp.int8).reshape(out, -1)

    return half(grouped & 15, factors[:, 0]), half(grouped >> 4, factors[:, 1])


def _nibble_dot(digits: jax.Array, w: QuantizedWeight, weight_first: bool) -> jax.Array:
    assert w.multiplier is not None
    half = digits.shape[1] // 2
    low, high = _unpacked(w)
    y = _int8_dot(digits[:, :half], low, weight_first) + _int8_dot(digits[:, half:], high, weight_first)
    # both offsets: + 128 per input, - 8 * multiplier per input of a group; whole numbers below 2^24, exact in float32
    groups = w.multiplier.shape[1]
    sums = digits.reshape(digits.shape[0], groups, -1).sum(-1, dtype=jnp.int32)
    factors, sums = w.multiplier.astype(jnp.float32), sums.astype(jnp.float32)
    offset = 128 * sums.sum(-1)
    if weight_first:
        return y.astype(jnp.float32) + (offset - 8 * (factors @ sums.T))
    return y.astype(jnp.float32) + (offset[:, None] - 8 * (sums @ factors.T))


def _integers(w: QuantizedWeight) -> jax.Array:
    """The weight divided by `scale`, `[out, in]`: int8, for int4 int32."""
    if w.multiplier is None:
        return w.values
    values = jnp.concatenate(_unpacked(w), axis=1).astype(jnp.int32) + 128
    groups = w.multiplier.shape[1]
    offset = 8 * w.multiplier.astype(jnp.int32)[:, :, None]
    return (values.reshape(values.shape[0], groups, -1) - offset).reshape(values.shape)
