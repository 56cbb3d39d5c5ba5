"""A small, a big or no feed-forward block in every layer, for every token (Duo-LLM, Alizadeh et al. 2024,
arXiv:2410.10846).

Big blocks are the model's own channels; beside each lies a small one with a norm of its own. Trained under random
paths, the model can be read under any of the 3^L that its L layers have: the best of them for a text, found by trying
all, is what a router that decides from the stream can be held against.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import transformer
from models.channels.dense import Dense
from models.config import Layer, ModelConfig
from models.errors import require
from models.weight import Weight, WeightTree, walk
from models.wiring.prenorm import PreNorm

SKIP, SMALL, BIG = range(3)
# (layer, x [batch, seq, d_model]) -> weights [batch, seq, 3] of the three paths, one of them 1 where it is a choice
Choose = Callable[[int, jax.Array], jax.Array]


def weights(config: ModelConfig, small: Dense) -> WeightTree:
    """model, small (a block for every layer) and router `[layers, d_model, 3]`. ConfigError for a wiring other than
    `PreNorm`, scanned layers and layers without a channel."""
    c = config.resolved()
    plain = isinstance(c.wired, PreNorm) and not c.scan_layers and all(layer.channel for layer in c.layers)
    fix = "use PreNorm, layers that are not scanned, and a channel in each"
    require(plain, "model", "has layers without a path of their own", fix)
    beside = {f"block_{i}": _small(c, layer, small) for i, layer in enumerate(c.layers)}
    axes = ("layers", "embed", "path")
    router = Weight((c.n_layers, c.d_model, 3), axes, "matrix", inputs=2, std=0.0)
    return {"model": transformer.weights(c), "small": beside, "router": router}


def _small(c: ModelConfig, layer: Layer, small: Dense) -> WeightTree:
    declared = c.wired.weights(c.stream, Layer(layer.mixer, small))
    return {slot: w for slot, w in declared.items() if small.slot in slot}


def apply(config: ModelConfig, small: Dense, params: dict[str, Any], tokens: jax.Array, choose: Choose) -> jax.Array:
    """Logits `[batch, seq, vocab]` float32 of tokens `[batch, seq]`; every path is computed."""
    c, w = config.resolved(), params["model"]
    assert isinstance(c.wired, PreNorm)
    at = jnp.arange(tokens.shape[1])[None]
    x = transformer.embed(c, w, tokens, at)
    for i, layer in enumerate(c.layers):
        block = w[f"block_{i}"]
        mixer = {slot: value for slot, value in block.items() if layer.mixer.slot in slot}
        x, _ = transformer.run_layer(c, Layer(layer.mixer, None), mixer, x, at, None, tokens)
        shares = choose(i, x).astype(x.dtype)
        beside = params["small"][f"block_{i}"]
        little, _ = c.wired.transformed(c.stream, Layer(layer.mixer, small), beside, x, tokens)
        much, _ = c.wired.transformed(c.stream, layer, block, x, tokens)
        x = x + shares[..., SMALL, None] * little + shares[..., BIG, None] * much
    return transformer.logits(c, *transformer.unembed(c, w, x))


def given(paths: jax.Array) -> Choose:
    """The paths `[layers, batch, seq]` int32, or what broadcasts to that."""
    return lambda i, x: jnp.broadcast_to(jax.nn.one_hot(paths[i], 3), (*x.shape[:2], 3))


def routed(router: jax.Array) -> Choose:
    """The best of every layer's scores x W `[d_model, 3]`, with the gradient of their softmax."""

    def choose(i: int, x: jax.Array) -> jax.Array:
        soft = jax.nn.softmax(x @ router[i])
        return jax.nn.one_hot(soft.argmax(-1), 3) + soft - jax.lax.stop_gradient(soft)

    return choose


def counted(choose: Choose, costs: np.ndarray, spent: list[jax.Array]) -> Choose:
    """The same choice, which leaves the cost of every token `[batch, seq]` of each layer in `spent`; costs
    `[layers, 3]`."""

    def both(i: int, x: jax.Array) -> jax.Array:
        shares = choose(i, x)
        spent.append(shares @ costs[i].astype(np.float32))
        return shares

    return both


def flops(config: ModelConfig, small: Dense) -> np.ndarray:
    """Forward FLOPs of every path of every layer for one token `[layers, 3]` int64, the mixers' left out."""
    c, found = config.resolved(), []
    for layer in c.layers:
        assert layer.channel is not None
        parts = (small, layer.channel)
        found.append([0, *(sum(w.flops_per_token for _, w in walk(p.weights(c.stream))) for p in parts)])
    return np.array(found)


def every(layers: int) -> np.ndarray:
    """All paths through so many layers `[3^layers, layers]` int32. ConfigError for more than 6 layers."""
    require(1 <= layers <= 6, "layers", f"are {layers}, which have 3^{layers} paths", "use 1 to 6 to try all")
    return np.array(list(itertools.product(range(3), repeat=layers)), np.int32)


def oracle(losses: np.ndarray, costs: np.ndarray, budget: float) -> np.ndarray:
    """The path of every row `[rows]` of losses `[paths, rows]`, that of the least loss + price cost, for the smallest
    price at which the mean of costs `[paths]` is at most `budget`. ConfigError where the cheapest path costs more."""
    require(budget >= costs.min(), "budget", f"is {budget}", f"give at least {costs.min()}, what the cheapest costs")
    def chosen(price: float) -> np.ndarray:
        return (losses + price * costs[:, None]).argmin(0)

    if costs[chosen(0)].mean() <= budget:
        return chosen(0)
    low, high = 0.0, 1.0
    while costs[chosen(high)].mean() > budget:
        low, high = high, 2 * high
    for _ in range(50):
        price = (low + high) / 2
        low, high = (low, price) if costs[chosen(price)].mean() <= budget else (price, high)
    return chosen(high)


def judged(losses: np.ndarray, costs: np.ndarray, budget: float) -> dict[str, Any]:
    """Mean losses of all 3^L paths' losses `[paths, texts]`, in the order of `every`, whose costs are `[paths]`: of the
    oracle at a mean cost of `budget` and of any, of the best path of all texts that costs no more, and of paths of one
    kind; and quartiles of how much harder small blocks alone find a text than its oracle does."""
    paths = every(round(np.log(len(losses)) / np.log(3)))
    best, means, fits = oracle(losses, costs, budget), losses.mean(1), costs <= budget
    small = losses[(paths == SMALL).all(1)][0]
    own = losses[best, np.arange(len(small))]
    return {
        "oracle": {"loss": float(own.mean()), "cost": float(costs[best].mean())},
        "oracle of any cost": float(losses.min(0).mean()),
        "one path for all texts": {
            "loss": float(means[fits].min()), "path": paths[fits][means[fits].argmin()].tolist(),
        },
        "all big": float(means[-1]), "all small": float(small.mean()),
        "at most one big": float(means[(paths == BIG).sum(1) <= 1].min()),
        "difficulty of texts, quartiles": np.quantile(small - own, (0.25, 0.5, 0.75)).tolist(),
    }  # fmt: skip
