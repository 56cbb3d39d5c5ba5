"""Ten training steps of every kind of model, and one step on every kind of mesh: losses and parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from configs import small, tiny
from models.config import ModelConfig, MoEConfig
from models.sharding import MeshConfig, make_mesh
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.placement import Placement, trial_mode
from scaling.train.step import advance, init_state, over_trials, train_step
from tests.golden import record

STEPS = 10
TRAIN = TrainConfig(steps=STEPS, batch_size=4, seq_len=16, learning_rate=3e-3, warmup_steps=2, log_every=1)
GEMMA = ModelConfig(
    vocab_size=48, d_model=16, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=24, activation="geglu",
    norm_plus_one=True, scale_embeddings=True, tied_embeddings=True, post_norms=True, qk_norm=True,
    query_pre_attn_scalar=6.0, sliding_window=5, layer_types=("sliding", "sliding", "full"), attention_softcap=8.0,
    logit_softcap=6.0, rope_theta=1e6, rope_theta_local=1e4,
)  # fmt: skip
MIXTRAL = ModelConfig(
    vocab_size=48, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24, tied_embeddings=False,
    moe=MoEConfig(experts=4, top_k=2, d_ff=8, shared=1, capacity_factor=1.0, capacity_tokens=8),
)  # fmt: skip
GROUPED = dataclasses.replace(
    MIXTRAL, bias="qkv",
    moe=MoEConfig(
        experts=8, top_k=2, d_ff=8, dispatch="dropless", groups=4, top_groups=2, score="sigmoid", normalize=False,
        scale=1.5,
    ),
)  # fmt: skip
MESHED = ModelConfig(
    vocab_size=48, d_model=16, n_layers=4, n_heads=4, n_kv_heads=2, d_ff=24, bias="qkv", tied_embeddings=False,
    sliding_window=5, layer_types=("sliding", "full"), attention_softcap=8.0, scan_layers=True,
)  # fmt: skip


def scanned(model: ModelConfig) -> ModelConfig:
    """The same with one scanned block."""
    return dataclasses.replace(model, scan_layers=True)


MODELS = {
    "tiny": tiny.config().model,
    "narrow_small": dataclasses.replace(scanned(small.config().model), d_model=48, head_dim=8),
    "gemma": GEMMA,
    "gemma_scanned": scanned(GEMMA),
    "mixtral": MIXTRAL,
    "dropless_scanned": scanned(GROUPED),
}
RARER = {"mixtral_scanned": scanned(MIXTRAL), "dropless": GROUPED}  # only in the long form
MESHES: dict[str, tuple[MeshConfig, dict[str, Any], dict[str, Any]]] = {  # mesh, changes of the model, of the training
    "gpipe": (MeshConfig(stage=2), {}, {"pipeline": "gpipe", "microbatches": 2}),
    "1f1b": (MeshConfig(stage=2), {}, {"pipeline": "1f1b", "microbatches": 2}),
    "tensor_fsdp": (MeshConfig(tensor=2, fsdp=2), {}, {}),
    "ring": (MeshConfig(context=4), {"context": "ring"}, {}),
}


def batches(model: ModelConfig, train: TrainConfig, steps: int) -> dict[str, np.ndarray]:
    """Packed documents of a language in which a token tells much of the next one: `[steps, batch, ...]`."""
    rng = np.random.default_rng(0)
    shape = steps, train.batch_size, train.seq_len + 1
    drift = rng.integers(1, 4, shape)
    tokens = ((np.cumsum(drift, -1) + rng.integers(0, model.vocab_size, (*shape[:2], 1))) % model.vocab_size).astype(
        np.int32
    )
    segments = np.cumsum(rng.random(shape) < 0.15, -1, dtype=np.int32)
    weights = (rng.random((*shape[:2], train.seq_len)) < 0.9).astype(np.float32)
    return {"tokens": tokens, "segments": segments, "weights": weights}


def steps_of(model: ModelConfig, train: TrainConfig) -> dict[str, Any]:
    """Losses and gradient norms of all steps, and every parameter before and after them."""

    def run(seed: jax.Array, hyper: Any, batches: dict[str, jax.Array]) -> tuple:
        state = init_state(model, train, seed, hyper)

        def step(state: Any, batch: dict[str, jax.Array]) -> tuple:
            return train_step(model, train, train.spike_factor, state, batch, hyper)

        last, metrics = jax.lax.scan(step, state, batches)
        return state.params, last, metrics

    inputs = np.uint32(0), hyperparameters(train), batches(model, train, train.steps)
    before, last, (losses, norms) = jax.jit(run)(*inputs)
    assert int(last.failed_step) < 0
    return {
        "initial": record.whole(before),
        "losses": [record.number(x) for x in losses],
        "gradient_norms": [record.number(x) for x in norms],
        "routing": {name: record.number(x) for name, x in sorted(last.routing.items())},
        "parameters": record.leaves(last.params),
    }


@cache
def initial() -> Any:
    """The state before step 0 of the model that is trained on meshes, on the host, with a leading dim of one trial."""
    state = jax.device_get(jax.jit(partial(init_state, MESHED, TRAIN))(np.uint32(0), hyperparameters(TRAIN)))
    return jax.tree.map(lambda x: np.asarray(x)[None], state)


def meshed(name: str) -> dict[str, Any]:
    """One step on a mesh of virtual devices."""
    sizes, changes, training = MESHES[name]
    model, train = dataclasses.replace(MESHED, **changes), dataclasses.replace(TRAIN, **training)
    count = int(np.prod(list(sizes.sizes.values())))
    mesh = make_mesh(sizes, jax.devices()[:count])
    state, hyper = initial(), jax.tree.map(lambda x: x[None], hyperparameters(train))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    placement = Placement(model, mesh, abstract, zero=train.zero)
    with placement.context():
        program = placement.jit_advance(over_trials(partial(advance, model, train), trial_mode("map", mesh, 1)))
        given = jax.tree.map(lambda x: x[None], batches(model, train, 1))
        arguments = (
            jax.device_put(state, placement.state), placement.put_batches(given), hyper, np.zeros(1, np.int32),
            np.ones(1, np.int32),
        )  # fmt: skip
        state, metrics = program(*arguments)
    assert int(state.failed_step[0]) < 0
    return {
        "loss": record.number(metrics.last_loss[0]),
        "gradient_norm": record.number(metrics.grad_norm[0]),
        "parameters": record.leaves(jax.device_get(state.params)),
    }


def cases() -> dict[str, Callable[[], dict[str, Any]]]:
    """Everything that is trained, by name."""
    made: dict[str, Callable[[], dict[str, Any]]]
    made = {name: partial(steps_of, model, TRAIN) for name, model in MODELS.items()}
    return made | {name: partial(meshed, name) for name in MESHES}


def long_cases() -> dict[str, Callable[[], dict[str, Any]]]:
    """Ten steps of the rarer models, and of tiny and small as their configs have them."""
    made = {name: partial(steps_of, model, TRAIN) for name, model in RARER.items()}
    for name, trial in {"tiny": tiny.config(), "small": small.config()}.items():
        made[name] = partial(steps_of, trial.model, dataclasses.replace(trial.train, steps=STEPS, warmup_steps=2))
    return made
