"""Products of few bits are products of the numbers that ml_dtypes rounds to, forwards and backwards."""

from __future__ import annotations

from functools import partial

import jax
import ml_dtypes
import numpy as np
import pytest

from models.rounded import Format, product, rounded

quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
FP8 = Format(block=4)


@pytest.mark.parametrize(
    ("exponent", "mantissa", "dtype"),
    [(4, 3, ml_dtypes.float8_e4m3fn), (5, 2, ml_dtypes.float8_e5m2), (8, 7, ml_dtypes.bfloat16)],
    ids=["e4m3", "e5m2", "bfloat16"],
)
def test_numbers_are_those_of_the_published_formats(exponent: int, mantissa: int, dtype: type) -> None:
    format = Format(exponent, mantissa)
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(4000) * 2.0 ** rng.integers(-20, 9, 4000)).astype(np.float32)
    x = np.concatenate([x, np.float32([0, -0.0, 1.0625, 1.1875, 2**-10, 3 * 2**-10, 2**-17, 3e38])])  # ties too
    largest = float(ml_dtypes.finfo(dtype).max)
    assert format.largest == largest
    want = np.clip(x, -largest, largest).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(quick(partial(rounded, format=format))(x), want)

def by_blocks(x: np.ndarray, high: int, wide: int) -> np.ndarray:
    """A loop over blocks, each rounded to e4m3 with a scale that makes its largest entry 448."""
    out = np.zeros_like(x)
    for i in range(0, x.shape[0], high):
        for j in range(0, x.shape[1], wide):
            block = x[i : i + high, j : j + wide]
            scale = np.float32(np.abs(block).max() or 1) / np.float32(448)
            few = (block / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
            out[i : i + high, j : j + wide] = few * scale
    return out


def test_each_of_the_three_products_reads_blocks_of_fp8_along_its_sum() -> None:
    """DeepSeek-V3's tiles: 1 x block of activations and of gradients, block x block of weights; 5, 10 and 7 leave a
    rest, and one tile is all zeros."""
    rng = np.random.default_rng(1)
    x, w, dy = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 10), (10, 7), (5, 7)))
    x[0, :4] = 0

    @quick
    def run(x: jax.Array, w: jax.Array, dy: jax.Array) -> tuple:
        y, back = jax.vjp(lambda x, w: product(x, w, FP8), x, w)
        return y, *back(dy)

    y, dx, dw = run(x, w, dy)
    square = by_blocks(w, 4, 4)
    np.testing.assert_allclose(y, by_blocks(x, 1, 4) @ square, rtol=1e-5, atol=1e-5)  # float32 sums
    np.testing.assert_allclose(dx, by_blocks(dy, 1, 4) @ square.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dw, by_blocks(x, 4, 1).T @ by_blocks(dy, 4, 1), rtol=1e-5, atol=1e-5)
