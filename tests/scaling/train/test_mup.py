"""muP's coordinate check: with it activations move equally far at every width; without any one part they do not."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import past, transformer
from models.channels.dense import Dense
from models.config import ModelConfig
from models.contraction import contract
from models.mixers.attention import Attention
from models.stream import Stream
from models.weight import Weight, map_weights, walk
from scaling.train import mup, optimizer
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.mup import learning_rate_multiplier
from scaling.train.optimizer import make_optimizer

BASE = 32
HEADS = 4  # heads grow with the width, so that attention's own scale is under test too
STEPS = 6
SEEDS = 4
# Large steps on one short sequence make the coherent part of every change, which muP keeps, outweigh at these widths
# the incoherent part of many small steps on many tokens, which falls as width^-1/2 in any parametrisation.
TRAIN = TrainConfig(
    steps=STEPS, schedule="constant", learning_rate=0.02, warmup_steps=0, weight_decay=0.0, grad_clip=0.0
)
TOKENS = np.array([[7, 41, 3, 58, 22]], np.int32)
FLAT = 0.2  # largest |slope| of log change against log width that counts as flat
STEEP = 0.3  # a missing part of muP shows as an exponent of about 1/2 or 1


def model(width: int, parametrisation: str = "mup", n_layers: int = 1) -> ModelConfig:
    base = dict(mup_base_width=BASE, mup_base_head_dim=BASE // HEADS) if parametrisation == "mup" else {}
    return ModelConfig(vocab_size=64, d_model=width, n_layers=n_layers, n_heads=HEADS, activation="gelu", **base)


def initial(config: ModelConfig, seed: int):
    """Params with the declared spread, from NumPy: compiling the model's own init would take half of the time."""
    rng = np.random.default_rng(seed)

    def draw(weight: Weight) -> np.ndarray:
        if weight.role == "vector":
            return np.full(weight.shape, weight.std or 0, np.float32)
        return weight.std * rng.standard_normal(weight.shape, np.float32)

    return map_weights(draw, transformer.weights(config))


def activations(config: ModelConfig, params, tokens) -> dict[str, jax.Array]:
    """What every block adds to the stream, the first block's scores, and the logits.

    Later scores also change because their inputs move, through weights that are still random: incoherent again.
    """
    scores, added = [], {Attention.slot: [], Dense.slot: []}
    kernel = past.causal_attention

    def scoring(q, k, v, span, segments):
        scores.append(span.scale * jnp.einsum("bthk,bshk->bhts", q, k))
        return kernel(q, k, v, span, segments)

    def recorded(part):
        apply = part.apply

        def recording(self, *args):
            result = apply(self, *args)
            added[part.slot].append(result[0])
            return result

        return recording

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(past, "causal_attention", scoring)
        for part in (Attention, Dense):
            patch.setattr(part, "apply", recorded(part))
        hidden, head, *_ = transformer.forward(config, params, tokens)
    found = {"logits": contract(hidden, head), "scores_0": scores[0]}
    return found | {f"{slot}_{i}": y for slot, ys in added.items() for i, y in enumerate(ys)}


def changes(config: ModelConfig) -> dict[str, float]:
    """Root mean square of how far each activation moves in STEPS steps on TOKENS, mean over seeds."""

    def mean_loss(params):
        total, count = transformer.loss(config, params, TOKENS)
        return total / count

    @jax.jit
    def measure(start):
        opt = make_optimizer(config, "adamw", "constant", hyperparameters(TRAIN))

        def step(_, carry):
            params, state = carry
            updates, state = opt.update(jax.grad(mean_loss)(params), state, params)
            return jax.tree.map(jnp.add, params, updates), state

        end, _ = jax.lax.fori_loop(0, STEPS, step, (start, opt.init(start)))
        before, after = activations(config, start, TOKENS), activations(config, end, TOKENS)
        return {name: jnp.sqrt(jnp.mean(jnp.square(after[name] - before[name]))) for name in before}

    moved = [jax.device_get(measure(initial(config, seed))) for seed in range(SEEDS)]
    return {name: float(np.mean([m[name] for m in moved])) for name in moved[0]}


def slopes(widths, parametrisation: str = "mup", n_layers: int = 1) -> dict[str, float]:
    """Least-squares slope of log change against log width, per activation."""
    sizes = [changes(model(width, parametrisation, n_layers)) for width in widths]
    return {name: float(np.polyfit(np.log(widths), np.log([s[name] for s in sizes]), 1)[0]) for name in sizes[0]}


@pytest.mark.slow
def test_activations_move_equally_far_at_every_width():
    found = slopes([32, 64, 128, 256, 512], n_layers=2)
    assert len(found) == 6
    assert all(abs(slope) < FLAT for slope in found.values()), found


@pytest.mark.slow
def test_the_standard_parametrisation_moves_wide_models_further():
    found = slopes([32, 256], "standard")
    assert max(found.values()) > STEEP, found


def constant_std(stream: Stream, fan_in: int) -> float:
    return BASE**-0.5


PARTS = {
    "hidden learning rate": (optimizer, "learning_rate_multiplier", lambda weight, model: 1.0),
    "output multiplier": (transformer, "output_multiplier", lambda config: 1.0),
    "attention scale": (Attention, "scale", lambda mixer, stream: stream.head_dim**-0.5),
    "hidden init": (Stream, "hidden_std", constant_std),
}


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_the_check_fails_when_one_part_of_mup_is_removed(part, monkeypatch):
    monkeypatch.setattr(*PARTS[part])
    found = slopes([32, 256])
    assert max(found.values()) > STEEP, found


def test_multipliers_are_one_over_width_for_hidden_matrices_and_one_elsewhere():
    wide = dataclasses.replace(
        model(4 * BASE), tied_embeddings=False, positions="learned", bias="all", scan_layers=True
    )
    for path, weight in walk(transformer.weights(wide)):
        assert learning_rate_multiplier(weight, wide) == (0.25 if weight.role == "matrix" else 1.0), path
        assert learning_rate_multiplier(weight, model(4 * BASE, "standard")) == 1.0


def test_a_matrix_whose_inputs_do_not_grow_keeps_its_learning_rate():
    narrow = Weight((3, 64), ("position", "embed"), "matrix")
    assert learning_rate_multiplier(narrow, model(64)) == 1.0


def test_a_given_initial_spread_also_falls_with_the_width():
    narrow, wide = (dataclasses.replace(model(width), init_std=0.02) for width in (BASE, 4 * BASE))
    stds = [{path: w.std for path, w in walk(transformer.weights(c)) if w.role == "matrix"} for c in (narrow, wide)]
    assert all(stds[1][path] == pytest.approx(stds[0][path] / 2) for path in stds[0])
    assert transformer.weights(wide)["tokens"].std == 0.02
    assert mup.__doc__
