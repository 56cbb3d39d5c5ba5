"""Exits of a pondering model where the sum of their probabilities reaches q, against exits drawn from them (PALBERT).

    python -m launch.reproduce q_exit --workdir runs/reproductions/q_exit

A model of text whose tokens may stop after each of four layers. q is the largest at which the mean depth is no greater
than that of drawn exits, whose accuracy and depth are expectations.
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

MODEL = ModelConfig(d_model=64, n_layers=4, n_heads=4)
RATE, BETA, SEEDS, ROWS, SEQ, WINDOWS = 0.3, 0.1, (1, 2, 3, 4), 8, 64, 512


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="q_exit", methods=(59,), smallest_effect=0.002, minutes=8,
        claim="the Q-exit predicts more tokens right than exits drawn from the same probabilities, at no greater depth",
        source="Balagansky and Gavrilov 2022, PALBERT: teaching ALBERT to ponder", unit="accuracy of the next byte",
        not_covered="pretrained encoders and classification; tokens that stop are still read by later ones in all "
        "layers, so that no time is saved; rates other than 0.3 and weights of the divergence other than 0.1",
        simulated=False, run=run,
    )  # fmt: skip


def steps_of(quick: bool) -> int:
    return 10 if quick else 300


def trained(seed: int, quick: bool) -> dict[str, Any]:
    """Parameters after AdamW on text, of the pondering loss."""
    import jax

    from models import pondering
    from scaling.data import DataConfig, prepare
    from scaling.train.descent import descended, warmed

    steps, batches = steps_of(quick), prepare(DataConfig()).batches(SEQ, ROWS, seed)

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        return pondering.loss(pondering.apply(MODEL, params, tokens[:, :-1]), tokens[:, 1:], RATE, BETA)

    params = jax.jit(partial(pondering.init, MODEL))(jax.random.key(seed))
    return descended(loss, params, ((batches.batch(step)["tokens"],) for step in range(steps)), warmed(steps))


def exits(seed: int, quick: bool) -> JSON:
    """Accuracy and mean depth of both exits on held-out text, and the accuracy after every layer."""
    import jax
    import jax.numpy as jnp

    from models import pondering
    from scaling.data import DataConfig, prepare

    params = trained(seed, quick)
    tokens = np.asarray(prepare(DataConfig()).heldout_batches(SEQ, 64, WINDOWS * SEQ).tokens)  # [batches, 64, SEQ + 1]

    @jax.jit
    def judged(params: Any, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = pondering.apply(MODEL, params, tokens[:, :-1])
        return found.logits.argmax(-1) == tokens[:, 1:], found.log_p

    hits, log_p = (np.concatenate(parts, axis=1) for parts in zip(*(judged(params, t) for t in tokens), strict=True))
    p = np.exp(log_p.astype(np.float64))
    depth = float((p * np.arange(1, len(p) + 1)[:, None, None]).sum(0).mean())
    best = {"q": 0.0, "depth": 1.0, "accuracy": float(hits[0].mean())}
    for q in np.linspace(0, 1, 401):
        at = np.asarray(pondering.q_exit(jnp.asarray(log_p), float(q)))
        if at.mean() + 1 <= depth:
            right = np.take_along_axis(hits, at[None], axis=0).mean()
            best = {"q": float(q), "depth": float(at.mean()) + 1, "accuracy": float(right)}
    drawn = {"depth": depth, "accuracy": float((p * hits).sum(0).mean())}
    return {"q": best, "drawn": drawn, "layers": hits.mean((1, 2)).tolist(), "p": p.mean((1, 2)).tolist()}


def run(work: Workspace) -> Measured:
    found = []
    for seed in SEEDS[:2] if work.quick else SEEDS:
        found.append(work.keep(f"seed_{seed}", partial(exits, seed, work.quick)))
        work.say(f"seed {seed}: {found[-1]}")
    more = np.array([one["q"]["accuracy"] - one["drawn"]["accuracy"] for one in found])
    flops = len(found) * counts.train_flops(MODEL, steps_of(work.quick) * ROWS * SEQ, SEQ)
    return Measured(float(more.mean()), t_interval(more), float(flops), {"seeds": found})
