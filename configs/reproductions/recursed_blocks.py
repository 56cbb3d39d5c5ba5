"""Mixture-of-Recursions: a shared block that tokens run one to three times, at the training FLOPs of unshared layers.

    python -m launch.reproduce recursed_blocks --workdir runs/reproductions/recursed_blocks

Eight layers of their own against four, of which the two in the middle are run up to three times: half of the weights,
and the FLOPs that leaving tokens spare go into more steps. Routers choose among whole sequences in training; losses
are those of reading, where a token's own score decides.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from models import counts
from models.config import ModelConfig
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, t_interval

if TYPE_CHECKING:
    import jax

LAYERED, SHARED = (ModelConfig(d_model=32, n_layers=n, n_heads=4) for n in (8, 4))
TIMES, ENDS, SCALE, CALIBRATION = 3, 1, 0.1, 0.1
SEEDS, ROWS, SEQ, WINDOWS = (1, 2, 3, 4, 5), 8, 64, 256


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="recursed_blocks", methods=(94,), smallest_effect=0.0, minutes=8,
        claim="with half of the weights, a smaller cache and no more training FLOPs the loss is no higher",
        source="Bae et al. 2025, arXiv:2507.10524", unit="per cent of loss below the model whose layers share nothing",
        not_covered="more than 8 layers of width 32, 77 GFLOPs and contexts of 64; choice by tokens of their depth; "
        "keys that steps share; throughput. The weight of the routers' own loss is 0.1 (published: 0.001); a run of 10 "
        "steps, and the shared model alone on a seed of its own, had been seen before", simulated=False, run=run,
    )  # fmt: skip


def steps_of(quick: bool) -> dict[str, int]:
    """Steps of both, of which the second takes no more FLOPs."""
    from models.recursion import Recursion, flops

    own, steps = Recursion(TIMES, ENDS), 10 if quick else 200
    ratio = counts.forward_flops(LAYERED, SEQ) / flops(SHARED, own, own.capacities(SEQ))
    return {"layered": steps, "shared": int(steps * ratio)}


def trained(arm: str, seeds: tuple[int, ...], quick: bool, scale: float, calibration: float) -> dict[str, Any]:
    """Parameters of all seeds after AdamW on text, each in the first dim."""
    import jax
    import jax.numpy as jnp

    from models import recursion, transformer
    from scaling.data import DataConfig, prepare
    from scaling.train.descent import apart, descended, warmed

    own, steps = recursion.Recursion(TIMES, ENDS, scale), steps_of(quick)[arm]
    batches = [prepare(DataConfig()).batches(SEQ, ROWS, seed) for seed in seeds]

    def nats(params: Any, tokens: jax.Array) -> jax.Array:
        if arm == "layered":
            total, count = transformer.loss(LAYERED, params, tokens)
            return total / count
        return recursion.loss(recursion.apply(SHARED, own, params, tokens[:, :-1]), tokens[:, 1:], calibration)

    def drawn(key: jax.Array) -> Any:
        return transformer.init(LAYERED, key) if arm == "layered" else recursion.init(SHARED, own, key)

    given = ((np.stack([one.batch(step)["tokens"] for one in batches]),) for step in range(steps))
    params = jax.jit(jax.vmap(drawn))(jnp.stack([jax.random.key(seed) for seed in seeds]))
    return descended(lambda p, t: jax.vmap(nats)(p, t).sum(), params, given, apart(warmed(steps)))


def judged(
    arm: str, seeds: tuple[int, ...], quick: bool, scale: float = SCALE, calibration: float = CALIBRATION
) -> JSON:  # fmt: skip
    """Held-out nats/token of every seed, and the share of tokens that run each step and of the layered one's cache."""
    import jax
    import jax.numpy as jnp
    import optax

    from models import recursion, transformer
    from scaling.data import DataConfig, prepare

    own = recursion.Recursion(TIMES, ENDS, scale)
    params = trained(arm, seeds, quick, scale, calibration)
    tokens = np.asarray(prepare(DataConfig()).heldout_batches(SEQ, WINDOWS, WINDOWS * SEQ).tokens)[0]

    @jax.jit
    def read(params: Any) -> tuple[jax.Array, jax.Array]:
        if arm == "layered":
            logits, ran = transformer.apply(LAYERED, params, tokens[:, :-1]), jnp.ones(1)
        else:
            memory = recursion.empty(SHARED, own, WINDOWS, SEQ)
            (logits, _, gone), _ = recursion.read(SHARED, own, params, tokens[:, :-1], memory)
            ran = gone.mean((1, 2))
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean(), ran

    loss, ran = zip(*(read(jax.tree.map(lambda x, i=i: x[i], params)) for i in range(len(seeds))), strict=True)
    return {"loss": [float(x) for x in loss], "ran": np.array(ran).tolist()}


def run(work: Workspace) -> Measured:
    from models.recursion import Recursion, flops, kept_bytes

    own, seeds, steps = Recursion(TIMES, ENDS, SCALE), SEEDS[:2] if work.quick else SEEDS, steps_of(work.quick)
    found = {arm: work.keep(arm, partial(judged, arm, seeds, work.quick)) for arm in steps}
    below = 100 * (1 - np.array(found["shared"]["loss"]) / np.array(found["layered"]["loss"]))
    one = {"layered": counts.forward_flops(LAYERED, SEQ), "shared": flops(SHARED, own, own.capacities(SEQ))}
    spent = {arm: 3 * one[arm] * steps[arm] * ROWS for arm in one}
    ran = [round(share * SEQ * 1000) for share in np.mean(found["shared"]["ran"], axis=0)]
    whole = 1000 * SEQ * counts.kv_cache_bytes_per_token(LAYERED)
    details = found | {
        "steps": steps, "training FLOPs of one": spent,
        "weights": {"layered": counts.params(LAYERED), "shared": counts.params(SHARED) + TIMES * SHARED.d_model},
        "cache, share of the layered one's": kept_bytes(SHARED, own, ran) / whole,
    }  # fmt: skip
    return Measured(float(below.mean()), t_interval(below), float(len(seeds) * sum(spent.values())), details)
