"""DiffRate: how many tokens every layer drops and joins, learned, against as many in every layer, at no more FLOPs.

    python -m launch.reproduce learned_rates --workdir runs/reproductions/learned_rates

An encoder of noisy patterns in 36 patches, trained whole; its rates then are learned to 60 % of its FLOPs, its weights
as they are. A uniform rate may spend what the learned ones spend or more, and removes by dropping, joining or half of
each, whichever is best on the images that it is judged by.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from models.config import ModelConfig
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, t_interval
from scaling.tasks.images import Images

if TYPE_CHECKING:
    import jax

KIND = Images(classes=20, most=20, side=12, shift=0)
N = KIND.size
MODEL = ModelConfig(KIND.vocab_size, d_model=32, n_layers=4, n_heads=4, positions="learned", max_seq_len=N)
TARGET, FORCE, SEEDS, ROWS, TEST = 0.6, 20.0, (21, 22, 23, 24), 24, 600
WAYS = {"joined": 0.0, "half of each": 0.5, "dropped": 1.0}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="learned_rates", methods=(116,), smallest_effect=0.005, minutes=8,
        claim="at 60 % of the FLOPs, learned rates classify better than the best uniform one that spends no less",
        source="Chen et al. 2023, arXiv:2305.17997", unit="accuracy",
        not_covered="photographs and pretrained encoders: images are patterns of 12 by 12 pixels, a tenth of "
        "them wrong, the encoder has four layers of width 32 and 150 steps; tuning of weights after; other shares of "
        "FLOPs. Two runs with other seeds were put aside: of noisier images, whose encoders had learned nothing; and "
        "of 60 steps of rates, -0.015 [-0.034, 0.004], which reached the target alike for all seeds. In 240 steps they "
        "still come out nearly alike: the gradient of the FLOPs says more than that of the images; a uniform rate that "
        "drops half of what it removes, as they do, is about as good, and one that joins all of it is better",
        simulated=False, run=run,
    )  # fmt: skip


def steps_of(quick: bool) -> tuple[int, int]:
    """Of the encoder, and of its rates."""
    return (10, 5) if quick else (150, 240)


def drawn(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `[rows, N]`, and the label of each image."""
    data = KIND.draw(rng, rows)
    return data.tokens, data.labels[:, -1]


def trained(seeds: tuple[int, ...], quick: bool) -> tuple[Any, Any]:
    """Parameters of the encoders of all seeds, and the rates that were learned for each."""
    import jax
    import jax.numpy as jnp
    import optax

    from models import fewer_tokens, transformer
    from scaling.train.descent import apart, descended, warmed

    rngs, (first, second) = [np.random.default_rng(seed) for seed in seeds], steps_of(quick)
    whole = fewer_tokens.flops(MODEL, N, [(N, N)] * MODEL.n_layers)
    of_images = optax.softmax_cross_entropy_with_integer_labels

    def missed(params: Any, tokens: jax.Array, labels: jax.Array) -> jax.Array:
        return of_images(fewer_tokens.apply(MODEL, params, tokens, [(N, N)] * MODEL.n_layers), labels).mean()

    def rated(rates: Any, params: Any, tokens: jax.Array, labels: jax.Array) -> jax.Array:
        left = fewer_tokens.left(rates)
        share = fewer_tokens.flops(MODEL, N, left.number) / whole
        nats = of_images(fewer_tokens.masked(MODEL, params, tokens, left), labels).mean()
        return nats + FORCE * jnp.square(share - TARGET)

    def batch() -> list[np.ndarray]:
        return [np.stack(part) for part in zip(*(drawn(rng, ROWS) for rng in rngs), strict=True)]

    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    params = jax.jit(jax.vmap(partial(transformer.init, MODEL)))(keys)
    images = (tuple(batch()) for _ in range(first))
    params = descended(lambda *x: jax.vmap(missed)(*x).sum(), params, images, apart(warmed(first, 5e-3)))
    rates = jax.tree.map(lambda x: jnp.stack([x] * len(seeds)), fewer_tokens.begun(MODEL, N))
    adam = optax.adam(optax.linear_schedule(0.15, 0.0, second))
    given = ((params, *batch()) for _ in range(second))
    return params, descended(lambda *x: jax.vmap(rated)(*x).sum(), rates, given, apart(adam))


def compared(seeds: tuple[int, ...], quick: bool) -> list[JSON]:
    """Accuracy and share of the whole encoder's FLOPs, of the learned and the uniform rates of every seed."""
    import jax

    from models import fewer_tokens

    params, rates = trained(seeds, quick)
    whole = fewer_tokens.flops(MODEL, N, [(N, N)] * MODEL.n_layers)

    @jax.jit
    def said(params: Any, tokens: jax.Array, left: Any) -> jax.Array:
        return fewer_tokens.masked(MODEL, params, tokens, left).argmax(-1)

    def share(kept: list[tuple[int, int]]) -> float:
        return fewer_tokens.flops(MODEL, N, kept) / whole

    found = []
    for i, seed in enumerate(seeds):
        own = jax.tree.map(lambda x, i=i: x[i], params)
        tokens, labels = drawn(np.random.default_rng(10_000 + seed), TEST)
        learned = fewer_tokens.numbers(jax.tree.map(lambda x, i=i: x[i], rates))
        arms = {"whole": [(N, N)] * MODEL.n_layers, "learned": learned}
        for name, dropped in WAYS.items():
            tried = [fewer_tokens.uniform(MODEL.n_layers, N, r, dropped) for r in np.arange(0, N / 4, 0.05)]
            arms[name] = min((kept for kept in tried if share(kept) >= share(learned)), key=share)
        right = {name: said(own, tokens, fewer_tokens.given(kept, N)) == labels for name, kept in arms.items()}
        found.append({
            name: {"kept": kept, "share of FLOPs": share(kept), "accuracy": float(right[name].mean())}
            for name, kept in arms.items()
        })  # fmt: skip
    return found


def run(work: Workspace) -> Measured:
    from models import fewer_tokens

    seeds = SEEDS[:2] if work.quick else SEEDS
    found = work.keep("seeds", partial(compared, seeds, work.quick))
    better = np.array([one["learned"]["accuracy"] - max(one[name]["accuracy"] for name in WAYS) for one in found])
    whole, (first, second) = fewer_tokens.flops(MODEL, N, [(N, N)] * MODEL.n_layers), steps_of(work.quick)
    flops = len(seeds) * whole * (3 * ROWS * (first + second) + 5 * TEST)
    return Measured(float(better.mean()), t_interval(better), float(flops), {"seeds": found})
