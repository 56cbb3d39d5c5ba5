"""OutputMajor: a matrix stored with its outputs in rows, which a CPU multiplies by a few rows fastest.

With the inputs in rows, as weights are declared, XLA's CPU backend multiplies a few rows by a large matrix well below
the speed of memory (why is not known; it may copy the matrix first). Stored the other way the matrix is read as it
lies, which pays as long as weights come from memory: a whole 124M model decodes 11 % faster for 1 row, 13 % for 8, 5 %
for 64. What stays in a cache between steps is better left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from models.weight import Stacked, Weight, WeightTree, walk

CACHED_BYTES = 2**26  # weights of a model that stay in a CPU's cache between two passes; 43 MB did, 500 MB did not


@partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["shape", "inputs"])
@dataclass(frozen=True)
class OutputMajor:
    """A weight `[*in, *out]` (`shape`, of which `inputs` leading dims are contracted) as values `[out, in]`."""

    values: jax.Array
    shape: tuple[int, ...]
    inputs: int

    @property
    def ndim(self) -> int:
        """Number of dims seen from outside."""
        return len(self.shape)

    def astype(self, dtype: Any) -> OutputMajor:
        """The same in another dtype."""
        return OutputMajor(self.values.astype(dtype), self.shape, self.inputs)

    def ready(self, whole: Callable[[Any], Any], dtype: str) -> OutputMajor:
        """Itself: it is read as it was stored."""
        del whole, dtype
        return self

    def contracted(self, x: jax.Array, dims: int) -> jax.Array:
        """As `output_major_contract`."""
        return output_major_contract(x, self, dims)


def output_major(w: jax.Array, inputs: int) -> OutputMajor:
    """The weight `[*in, *out]` stored the other way."""
    return OutputMajor(w.reshape(math.prod(w.shape[:inputs]), -1).T, w.shape, inputs)


def output_major_contract(x: jax.Array, w: OutputMajor, dims: int) -> jax.Array:
    """Contract the last `dims` dims of x `[..., *in]` with the inputs of w: `[..., *out]` in x's dtype."""
    assert dims == w.inputs, "the weight was stored for another product"
    lead = x.shape[: x.ndim - dims]
    rows = x.reshape(-1, w.values.shape[1])
    contracted = (((1,), (1,)), ((), ()))
    y = jax.lax.dot_general(rows, w.values.astype(x.dtype), contracted, preferred_element_type=jnp.float32)
    return y.reshape(*lead, *w.shape[dims:]).astype(x.dtype)


def arrange(params: dict[str, Any], declared: WeightTree) -> dict[str, Any]:
    """Params of an unrolled model with its matrices as `OutputMajor`, if they are too many to stay in a cache.

    Experts and routers, tables, vectors and what is quantised stay as they are. For a CPU without a mesh.
    """
    if sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params)) <= CACHED_BYTES:
        return params
    made: dict[str, Any] = jax.tree.map(lambda x: x, dict(params))
    for path, weight in walk(declared):
        if not _is_product(weight):
            continue
        node = made
        for name in path[:-1]:
            node = node[name]
        if isinstance(node[path[-1]], jax.Array):
            node[path[-1]] = jax.jit(partial(output_major, inputs=weight.inputs))(node[path[-1]])
    return made


def _is_product(weight: Weight) -> bool:
    return weight.role in ("matrix", "head") and not isinstance(weight, Stacked) and not weight.unpacked
