"""The best of all paths of every text against a trained router of its tokens, at equal FLOPs (Duo-LLM).

    python -m launch.reproduce paths_oracle --workdir runs/reproductions/paths_oracle

A model of text whose four layers have a small, a big or no feed-forward block, trained under random paths of every
token. All 81 paths of every held-out text are tried; the router then is trained to half of the largest cost.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from models import counts, paths
from models.channels import Dense
from models.config import ModelConfig
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, t_interval

if TYPE_CHECKING:
    import jax

MODEL, SMALL = ModelConfig(d_model=48, n_layers=4, n_heads=4, d_ff=128), Dense(16)
COST = paths.flops(MODEL, SMALL) / paths.flops(MODEL, SMALL)[:, paths.BIG].sum()  # [layers, 3], all big blocks: 1
HALF, FORCE, SEEDS, ROWS, SEQ, WINDOWS = 0.5, 10.0, (1, 2, 3), 8, 64, 128


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="paths_oracle", methods=(155,), smallest_effect=0.02, minutes=8,
        claim="the best path of every text, found by trying all, has a lower loss than a trained router at equal FLOPs",
        source="Alizadeh et al. 2024, arXiv:2410.10846", unit="nats/token, the router's loss less the oracle's",
        not_covered="an oracle of every token: one path holds for all tokens of a text, while the router sends each "
        "alone; routers other than a linear one of each layer; more than 4 layers of width 48 and 300 "
        "steps. The oracle reads the labels of the texts it is scored on, and a run of 10 steps had been seen before",
        simulated=False, run=run,
    )  # fmt: skip


def steps_of(quick: bool) -> tuple[int, int]:
    """Of the model and of the router."""
    return (10, 10) if quick else (300, 150)


def trained(seed: int, quick: bool) -> dict[str, Any]:
    """Parameters after AdamW under random paths, and of the router alone after that."""
    import jax
    import jax.numpy as jnp
    import optax

    from models import transformer
    from scaling.data import DataConfig, prepare
    from scaling.train.descent import descended, warmed

    batches = prepare(DataConfig()).batches(SEQ, ROWS, seed)
    declared, (first, second) = paths.weights(MODEL, SMALL), steps_of(quick)
    drawn = jax.jit(lambda key: transformer.drawn(MODEL.resolved(), declared, key))(jax.random.key(seed))

    def under_random(params: Any, tokens: jax.Array, key: jax.Array) -> jax.Array:
        at_random = jax.random.randint(key, (MODEL.n_layers, ROWS, SEQ), 0, 3)
        return surprise(params, tokens, paths.given(at_random)).mean()

    def under_router(router: jax.Array, fixed: Any, tokens: jax.Array) -> jax.Array:
        spent: list[jax.Array] = []
        loss = surprise(fixed, tokens, paths.counted(paths.routed(router), COST, spent)).mean()
        return loss + FORCE * jnp.square(jnp.stack(spent).sum(0).mean() - HALF)

    def tokens(step: int) -> Any:
        return batches.batch(step)["tokens"]

    params = descended(
        under_random, drawn, ((tokens(step), jax.random.key(step)) for step in range(first)), warmed(first)
    )
    fixed = ((params, tokens(step)) for step in range(first, first + second))
    return params | {"router": descended(under_router, params["router"], fixed, optax.adam(1e-2))}


def surprise(params: Any, tokens: jax.Array, choose: paths.Choose) -> jax.Array:
    """Nats of every token `[batch, seq]`."""
    import optax

    logits = paths.apply(MODEL, SMALL, params, tokens[:, :-1], choose)
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])


def compared(seed: int, quick: bool) -> JSON:
    """Losses on held-out texts, and what they cost, of the router, the oracle and paths that are the same for all."""
    import jax
    import jax.numpy as jnp

    from scaling.data import DataConfig, prepare

    params = trained(seed, quick)
    tokens = np.asarray(prepare(DataConfig()).heldout_batches(SEQ, WINDOWS, WINDOWS * SEQ).tokens)[0]

    @jax.jit
    def routed(params: Any) -> tuple[jax.Array, jax.Array]:
        spent: list[jax.Array] = []
        loss = surprise(params, tokens, paths.counted(paths.routed(params["router"]), COST, spent))
        return loss.mean(), jnp.stack(spent).sum(0).mean()

    @jax.jit
    def under(params: Any, path: jax.Array) -> jax.Array:
        return surprise(params, tokens, paths.given(path[:, None, None])).mean(-1)

    loss, cost = map(float, routed(params))
    every = paths.every(MODEL.n_layers)
    losses = np.array([np.asarray(under(params, path)) for path in every], np.float64)  # [81, texts]
    found = paths.judged(losses, COST[np.arange(MODEL.n_layers), every].sum(1), cost)
    return {"router": {"loss": loss, "cost": cost}} | found


def run(work: Workspace) -> Measured:
    found = []
    for seed in SEEDS[:2] if work.quick else SEEDS:
        found.append(work.keep(f"seed_{seed}", partial(compared, seed, work.quick)))
        work.say(f"seed {seed}: {found[-1]}")
    less = np.array([one["router"]["loss"] - one["oracle"]["loss"] for one in found])
    trained_tokens = sum(steps_of(work.quick)) * ROWS * SEQ
    read = 81 * WINDOWS * counts.forward_flops(MODEL, SEQ)
    flops = len(found) * (counts.train_flops(MODEL, trained_tokens, SEQ) + read)
    return Measured(float(less.mean()), t_interval(less), float(flops), {"seeds": found})
