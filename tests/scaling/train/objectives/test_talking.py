"""Messages between hidden states: a loop's losses, silence between equals, and gradients that cross the teacher."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import counts, transformer
from models.errors import ConfigError
from models.weight import walk
from scaling.train.config import TrainConfig
from scaling.train.objectives import Distillation, Frozen, Talking
from scaling.train.objectives.objective import BESIDE
from scaling.train.objectives.talking import LOSSES, States, talk
from scaling.train.placement import QUICK_COMPILE
from scaling.train.step import measured_gradient
from tests.scaling.train.objectives.test_isolated import BATCH, MODEL
from tests.scaling.train.objectives.test_objectives import far

STUDENT = dataclasses.replace(MODEL, n_layers=2)
TEACHER = dataclasses.replace(MODEL, d_model=12, d_ff=16)
WORDS = Talking(teacher="there", teacher_width=12, message=5, teacher_layer=2, share=0.3)


def drawn(model: Any, tree: Any, seed: int) -> Any:
    params = jax.jit(partial(transformer.drawn, model, tree))(jax.random.key(seed))
    return jax.tree.map(lambda x: 2 * x if x.ndim > 1 else x, params)


def test_losses_are_those_of_a_loop_over_positions() -> None:
    rng = np.random.default_rng(0)
    widths = (("student", 4), ("teacher", 6))
    shapes = {f"{name}_encoder": (d, 3) for name, d in widths} | {f"{name}_decoder": (3, d) for name, d in widths}
    w = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    states = States(*(rng.normal(size=(2, 3, d)).astype(np.float32) for d in (4, 4, 6, 6)))
    found = talk(States(*map(jnp.asarray, states)), lambda x: jnp.tanh(x[..., ::-1]), w)

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.mean(x**2) + 1e-6)

    for place in np.ndindex(2, 3):
        low, high, below, above = (unit(x[place].astype(np.float64)) for x in states)
        asked = low @ w["student_encoder"] @ w["teacher_decoder"] * np.sqrt(np.mean(states[2][place] ** 2) + 1e-6)
        answer = unit(np.tanh(asked[::-1])) @ w["teacher_encoder"] @ w["student_decoder"]
        told = above @ w["teacher_encoder"] @ w["student_decoder"]
        pairs = (("student", low), ("student", high), ("teacher", below), ("teacher", above))
        kept = [np.mean((x @ w[f"{name}_encoder"] @ w[f"{name}_decoder"] - x) ** 2) for name, x in pairs]
        expected = {"interaction": np.mean((answer - high) ** 2), "transfer": np.mean((told - high) ** 2),
                    "consistency": np.mean(kept)}  # fmt: skip
        assert {name: float(x[place]) for name, x in found.items()} == pytest.approx(expected, rel=1e-5)


def test_a_teacher_who_is_the_student_has_nothing_to_say_through_maps_that_copy() -> None:
    same = Talking(teacher="there", teacher_width=8, message=8)
    train = TrainConfig(batch_size=4, seq_len=5, objective=same)
    params = drawn(STUDENT, train.weights(STUDENT), 0)
    own = {name: x for name, x in params.items() if name != BESIDE}
    params |= {BESIDE: dict.fromkeys(params[BESIDE], jnp.eye(8))}
    run = jax.jit(partial(measured_gradient, STUDENT, train), compiler_options=QUICK_COMPILE)
    found = run(params, BATCH, {"teacher": Frozen(STUDENT, own)})
    assert all(float(found.measured[name]) == pytest.approx(0, abs=1e-10) for name in LOSSES)
    assert float(found.loss) == pytest.approx(float(found.measured["text_loss"]), rel=1e-6)


def test_without_words_it_is_distillation_and_with_them_their_gradients_cross_the_teacher() -> None:
    train = TrainConfig(batch_size=4, seq_len=5, objective=WORDS)
    params, teacher = drawn(STUDENT, train.weights(STUDENT), 0), drawn(TEACHER, transformer.weights(TEACHER), 1)
    frozen = {"teacher": Frozen(TEACHER, teacher)}
    weights = jnp.asarray([1.0, 0.5, 0.25])

    @partial(jax.jit, compiler_options=QUICK_COMPILE)
    def talking(params: Any, weights: jax.Array) -> Any:
        """With traced weights, so that one program serves."""
        objective = dataclasses.replace(WORDS)
        for name, weight in zip(LOSSES, weights, strict=True):
            object.__setattr__(objective, name, weight)
        return measured_gradient(STUDENT, dataclasses.replace(train, objective=objective), params, BATCH, frozen)

    plain = dataclasses.replace(train, objective=Distillation(teacher="there", share=0.3))
    own = {name: x for name, x in params.items() if name != BESIDE}
    expected = jax.jit(partial(measured_gradient, STUDENT, plain), compiler_options=QUICK_COMPILE)(own, BATCH, frozen)
    silent = talking(params, 0 * weights)
    assert float(silent.loss) == pytest.approx(float(expected.loss), rel=1e-6)
    assert far(expected.gradient, {name: x for name, x in silent.gradient.items() if name != BESIDE}) < 1e-6
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(silent.gradient[BESIDE])) == 0
    spoken, rng = talking(params, weights), np.random.default_rng(2)
    way = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
    way |= {name: jax.tree.map(np.zeros_like, way[name]) for name in ("block_1", "final_norm", "head")}
    step = 2e-3  # of float32 losses of about 5: rounding 1e-4, curvature 1e-4
    moved = [
        float(talking(jax.tree.map(lambda x, v, s=sign: x + s * step * v, params, way), weights).loss)
        for sign in (1, -1)
    ]
    slope = sum(float(jnp.vdot(g, v)) for g, v in zip(*map(jax.tree.leaves, (spoken.gradient, way)), strict=True))
    assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(slope, rel=2e-2)
    below = spoken.gradient["block_0"], silent.gradient["block_0"]
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), *below))) > 1e-3


def test_flops_count_the_maps_and_the_teachers_upper_layers_again() -> None:
    own = Distillation(teacher="there").flops(STUDENT, 20, 5, {"teacher": TEACHER})
    weights = walk(transformer.block_weights(TEACHER, TEACHER.layers[0]))
    block = 2 * sum(weight.size for _, weight in weights if weight.role == "matrix")
    attention = counts.attention_flops(dataclasses.replace(TEACHER, n_layers=1), 5)
    maps = 7 * 2 * 5 * (8 + 12)
    assert WORDS.flops(STUDENT, 20, 5, {"teacher": TEACHER}) == own + 20 * (2 * block + 3 * maps) + 4 * 3 * attention


def test_models_that_cannot_talk_are_refused() -> None:
    for changes, model, words in (
        ({"teacher_width": 9}, STUDENT, "teacher_width: is 9, and the teacher's d_model is 12: set it to 12"),
        ({"student_layer": 2}, STUDENT, "student_layer: is 2 of 2 layers"),
        ({}, dataclasses.replace(STUDENT, scan_layers=True), r"model: \(student\) has no states"),
    ):
        with pytest.raises(ConfigError, match=words):
            dataclasses.replace(WORDS, **changes).check(model, {"teacher": TEACHER})  # type: ignore[arg-type]
