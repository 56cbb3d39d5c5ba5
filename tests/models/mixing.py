"""One mixer alone, without a model around it: its weights, and sequences through it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.config import ModelConfig
from models.layer import Layer
from models.past import WholeSequence
from tests.models.jaxprs import jaxpr_flops

STREAM = ModelConfig(d_model=16, n_heads=2, head_dim=4, positions="none").stream


def drawn(mixer: Any, seed: int = 0, spread: float = 0.3) -> dict[str, np.ndarray]:
    """Its weights in the stream above, all of them away from zero."""
    rng = np.random.default_rng(seed)
    return {name: np.float32(spread * rng.standard_normal(w.shape)) for name, w in mixer.weights(STREAM).items()}


def through(mixer: Any, w: dict, x: np.ndarray, segments: np.ndarray | None = None) -> np.ndarray:
    """x `[batch, seq, d_model]` through it."""
    past = WholeSequence(np.arange(x.shape[1])[None], None if segments is None else jnp.asarray(segments))
    return np.asarray(jax.jit(lambda w, x: mixer.apply(STREAM, w, x, past)[0])(w, np.float32(x)))


def products(mixer: Any, seq: int) -> int:
    """FLOPs of its products over one sequence of `seq` tokens beside those of its weights, by a walk over the jaxpr."""
    w, x = drawn(mixer), jnp.zeros((1, seq, STREAM.d_model))
    past = WholeSequence(np.arange(seq)[None])
    jaxpr = jax.make_jaxpr(lambda w, x: mixer.apply(STREAM, w, x, past)[0])(w, x).jaxpr
    declared = mixer.weights(STREAM).values()
    return jaxpr_flops(jaxpr) - seq * sum(w.flops_per_token for w in declared if w.role == "matrix")


def alone(mixer: Any) -> ModelConfig:
    """A model of two such layers."""
    return ModelConfig(17, 16, 2, 2, head_dim=4, positions="none", pattern=(Layer(mixer, None),))
