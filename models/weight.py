"""Weight: the one declaration of a parameter, from which shapes, sharding, FLOPs, bytes and muP follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from models.deferred import jax, jnp

Role = Literal["matrix", "embedding", "head", "vector", "gate", "conv", "balance"]
# (key, shape) -> initial value float32, of weights that neither a normal distribution nor a constant describes
Draw = Callable[["jax.Array", tuple[int, ...]], "jax.Array"]

# Dims that grow when a model gets wider (Yang et al. 2022, Tensor Programs V): muP scales with these alone.
WIDTH_AXES = frozenset({"embed", "mlp", "heads", "kv_heads", "query_heads"})


@dataclass(frozen=True)
class Weight:
    """One parameter: what it is, not what it holds.

    shape, axes: dims and their logical names, equal in length.
    role: "matrix" (hidden matmul), "embedding" (row lookup), "head" (unembedding matmul), "vector" (gain or bias),
        "gate" (what decays and steps of a state are made of: float32 whatever param_dtype, not decayed, no products),
        "conv" (a depthwise convolution `[width, channels]`), "balance" (a router's biases, float32: its gradient is the
        load of each expert beyond the mean, and its update a fixed step against the sign of it).
    inputs: how many leading dims are contracted with the activation; their product is the fan-in.
    std: initial standard deviation; for a vector the constant initial value. draw: how it is drawn instead.
    step: of a balance weight, the size of its update. unpacked: products other than `contract` read it, so that it is
        neither quantised nor stored for a CPU.
    experts_used: 0, or of a weight of all experts at once (dim 0 is the expert, `inputs` counts the dims after it) how
        many of them one token passes through.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    role: Role
    inputs: int = 1
    std: float | None = None
    experts_used: int = 0
    draw: Draw | None = None
    step: float = 0.0
    unpacked: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def active_size(self) -> int:
        """Number of elements that one token passes through."""
        return self.size // self.shape[0] * self.experts_used if self.experts_used else self.size

    @property
    def fan_in(self) -> int:
        """Number of inputs that each output sums over."""
        return math.prod(self.shape[self._contracted])

    @property
    def input_axes(self) -> tuple[str, ...]:
        """Logical names of the dims that are contracted with the activation."""
        return self.axes[self._contracted]

    @property
    def _contracted(self) -> slice:
        first = 1 if self.experts_used else 0
        return slice(first, first + self.inputs)

    @property
    def flops_per_token(self) -> int:
        """Forward multiply-adds x 2 for one token; lookups and vectors cost no matmul."""
        return 2 * self.active_size if self.role in ("matrix", "head", "conv") else 0

    @property
    def exact(self) -> bool:
        """Whether it is float32 in every model."""
        return self.role in ("gate", "balance")

    def initial(self, key: jax.Array, dtype: Any = "float32") -> jax.Array:
        """Draw the initial value, `[*shape]` of `dtype`; float32 where `exact`."""
        dtype = jnp.dtype("float32" if self.exact else dtype)
        if self.draw is not None:
            return self.draw(key, self.shape).astype(dtype)
        if self.role in ("vector", "gate", "balance"):
            return jnp.full(self.shape, self.std or 0.0, dtype)
        std = self.std if self.std is not None else self.fan_in**-0.5
        return (std * jax.random.normal(key, self.shape, jnp.float32)).astype(dtype)

    def stacked(self, n: int) -> Weight:
        """The same weight for `n` scanned layers at once, with a leading "layers" dim."""
        shape, axes = (n, *self.shape), ("layers", *self.axes)
        rest = self.role, self.inputs, self.std, self.experts_used, self.draw, self.step, self.unpacked
        return Stacked(shape, axes, *rest)


@dataclass(frozen=True)
class Stacked(Weight):
    """A weight of all scanned layers at once; dim 0 is the layer, `inputs` counts the dims after it."""

    def layer(self) -> Weight:
        """The declaration of one layer."""
        rest = self.role, self.inputs, self.std, self.experts_used, self.draw, self.step, self.unpacked
        return Weight(self.shape[1:], self.axes[1:], *rest)

    @property
    def active_size(self) -> int:
        return self.shape[0] * self.layer().active_size

    @property
    def fan_in(self) -> int:
        return self.layer().fan_in

    @property
    def input_axes(self) -> tuple[str, ...]:
        return self.layer().input_axes

    def initial(self, key: jax.Array, dtype: Any = "float32") -> jax.Array:
        return jax.vmap(lambda k: self.layer().initial(k, dtype))(jax.random.split(key, self.shape[0]))


WeightTree = Mapping[str, Any]  # nested dict of Weight


def walk(tree: WeightTree, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Weight]]:
    """Yield (path, weight) for every declaration, in insertion order."""
    for name, node in tree.items():
        if isinstance(node, Weight):
            yield (*prefix, name), node
        else:
            yield from walk(node, (*prefix, name))


def map_weights(f: Callable[[Weight], Any], tree: WeightTree) -> dict[str, Any]:
    """A tree of the same structure holding f(weight)."""
    return {k: f(v) if isinstance(v, Weight) else map_weights(f, v) for k, v in tree.items()}
