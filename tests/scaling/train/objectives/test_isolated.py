"""Gradient-isolated layers: each gradient is that of plain backpropagation in a model that ends in the layer's net."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import counts, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.weight import walk
from scaling.train.config import TrainConfig
from scaling.train.loop import Interrupted
from scaling.train.objectives import Isolated
from scaling.train.objectives.isolated import trained_here
from scaling.train.objectives.objective import BESIDE
from scaling.train.placement import QUICK_COMPILE
from scaling.train.step import measured_gradient
from tests.scaling.sweep import tiny
from tests.scaling.train.objectives.test_objectives import far

MODEL = ModelConfig(
    vocab_size=7, d_model=8, n_layers=3, n_heads=2, d_ff=12, logit_softcap=3.0, tied_embeddings=False
).resolved()
TRAIN = TrainConfig(batch_size=4, seq_len=5, objective=Isolated(depth=2))
BATCH = {
    "tokens": np.random.default_rng(0).integers(0, 7, (4, 6)).astype(np.int32),
    "weights": np.random.default_rng(1).integers(0, 2, (4, 5)).astype(np.float32),
}


def drawn() -> Any:
    params = jax.jit(partial(transformer.drawn, MODEL, TRAIN.weights(MODEL)))(jax.random.key(0))
    return jax.tree.map(lambda x: 2 * x if x.ndim > 1 else x, params)


def test_every_gradient_is_that_of_the_models_own_layers_below_and_the_net_behind() -> None:
    """Layers 0 and 1 have nets of two layers and of one, so that every path from token to loss is a model of three."""
    assert TRAIN.objective.sampled(3) == [[1, 2], [2]]  # type: ignore[union-attr]
    params = drawn()
    own = {name: x for name, x in params.items() if name != BESIDE}

    def plain(params: Any) -> jax.Array:
        total, weight = transformer.loss(MODEL, params, BATCH["tokens"], loss_weights=BATCH["weights"])
        return total / weight

    backprop = jax.jit(jax.value_and_grad(plain), compiler_options=QUICK_COMPILE)
    losses, expected = [], {}
    for at in (0, 1, 2):
        path = dict(own)
        if at < 2:
            net = params[BESIDE][str(at)]
            path |= {f"block_{at + 1 + i}": net[str(i)] for i in range(2 - at)}
            path |= {"final_norm": net["norm"], "head": net["head"]}
        loss, gradient = backprop(path)
        losses.append(float(loss))
        mine = {f"block_{at}": gradient[f"block_{at}"]} | ({"tokens": gradient["tokens"]} if at == 0 else {})
        if at < 2:
            layers = {str(i): gradient[f"block_{at + 1 + i}"] for i in range(2 - at)}
            end = {"norm": gradient["final_norm"], "head": gradient["head"]}
            mine[BESIDE] = expected.get(BESIDE, {}) | {str(at): layers | end}
        else:
            mine |= {"final_norm": gradient["final_norm"], "head": gradient["head"]}
        expected |= mine
    train = dataclasses.replace(TRAIN, accumulate=2)  # of whole batches above
    found = jax.jit(partial(measured_gradient, MODEL, train), compiler_options=QUICK_COMPILE)(params, BATCH)
    assert float(found.loss) == pytest.approx(losses[2], rel=1e-6)
    assert float(found.measured["local_loss"]) == pytest.approx(np.mean(losses[:2]), rel=1e-6)
    assert jax.tree.structure(found.gradient) == jax.tree.structure(expected)
    assert far(expected, found.gradient) < 1e-6
    moved = jnp.abs(expected["block_0"]["attention"]["qkv"]).max()
    assert moved > 1e-3  # nothing is equal because it is 0


@pytest.mark.parametrize("depth", [0, 2])
def test_flops_are_those_of_the_model_and_of_models_as_deep_as_the_nets(depth: int) -> None:
    objective, model = Isolated(depth=depth), dataclasses.replace(MODEL, n_layers=6)
    depths = [len(net) for net in objective.sampled(6)]
    assert depths == ([0] * 5 if depth == 0 else [2, 2, 2, 1, 1])
    head = 2 * 5 * 8 * 7
    nets = [counts.forward_flops(dataclasses.replace(MODEL, n_layers=n), 5) if n else head for n in depths]
    assert objective.flops(model, 20, 5, {}) == 4 * 3 * (counts.forward_flops(model, 5) + sum(nets))
    assert Isolated(depth=9, shrink=0).sampled(4) == [[1, 2, 3], [2, 3], [3]]
    assert Isolated(depth=2, shrink=0).sampled(9)[:2] == [[4, 8], [5, 8]]  # evenly, the last among them


def test_what_is_left_of_a_run_is_the_model_alone_and_it_resumes_with_the_same_bits(tmp_path: Path) -> None:
    changes = {"model.n_layers": 2, "model.tied_embeddings": False, "train.objective": Isolated(depth=1)}
    one = tiny.override(tiny.trial(tmp_path, train__steps=6, train__checkpoint_every=3), changes)
    tiny.run(tmp_path / "whole", [one])
    with pytest.raises(Interrupted):
        tiny.run(tmp_path / "stopped", [one], stop_requested=lambda: True)
    tiny.run(tmp_path / "stopped", [one])
    expected = tiny.outcome(tmp_path / "whole", [one])
    assert tiny.outcome(tmp_path / "stopped", [one]) == expected
    names = {"/" + "/".join(path) for path, _ in walk(transformer.weights(one.model.resolved()))}
    assert expected["params"][one.id].keys() == names
    assert "local_loss" in expected["metrics"][one.id][-1]


def test_models_whose_layers_are_no_modules_are_refused() -> None:
    for change, words in (
        ({"tied_embeddings": True}, "model.tied_embeddings: is set: the head's gradient"),
        ({"scan_layers": True}, "model.scan_layers: is set, but every layer trains by itself"),
    ):
        with pytest.raises(ConfigError, match=words):
            Isolated().check(dataclasses.replace(MODEL, **change), {})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"objective\.shrink: is 2"):
        Isolated(shrink=2.0)


def test_more_modules_hold_no_more_at_once() -> None:
    """Bytes of compiled programs of 2 and of 6 modules, each of which keeps three arrays for its backward pass."""
    rows, width = 4096, 8

    def module(w: jax.Array, x: jax.Array, given: None) -> tuple[jax.Array, jax.Array]:
        y = x = jnp.tanh(x @ w)
        for _ in range(3):
            y = jnp.sin(y @ w)
        return y.sum(), x

    def bytes_of(modules: int) -> int:
        def loss(ws: list[jax.Array], x: jax.Array) -> jax.Array:
            total = jnp.float32(0)
            for w in ws:
                x, _, push = trained_here(module)(w, x, None)  # type: ignore[arg-type]
                total += push
            return total

        ws = [jax.ShapeDtypeStruct((width, width), np.float32)] * modules
        program = jax.jit(jax.grad(loss)).lower(ws, jax.ShapeDtypeStruct((rows, width), np.float32)).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert bytes_of(6) - bytes_of(2) < 2 * 4 * rows * width  # of 4 x 4 arrays or more where all are held
