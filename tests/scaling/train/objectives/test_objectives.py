"""Every objective against NumPy: its loss, its gradient by finite differences, padding, micro-batches and meshes."""

from __future__ import annotations

import dataclasses
import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import counts, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.sharding import MeshConfig, make_mesh
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.objectives import (
    Completions,
    Coverage,
    Distillation,
    Frozen,
    NextToken,
    Objective,
    PolicyGradient,
    Preference,
    check_batch,
)
from scaling.train.placement import QUICK_COMPILE, check_mesh
from scaling.train.step import advance, init_state, loss_and_gradient, measured_gradient
from tests.scaling.train.objectives import oracle

VOCAB, SEQ, ROWS = 7, 5, 4
MODEL = ModelConfig(vocab_size=VOCAB, d_model=8, n_layers=1, n_heads=2, d_ff=12, logit_softcap=3.0, positions="none")
MODEL = MODEL.resolved()
OTHER = dataclasses.replace(MODEL, d_model=4, d_ff=8, logit_softcap=None).resolved()  # a teacher of another width
OBJECTIVES: dict[str, Objective] = {
    "next_token": NextToken(),
    "completions": Completions(normalize="sequence"),
    "distillation": Distillation(teacher="there", divergence="reverse", temperature=1.5, share=0.7),
    "dpo": Preference(smoothing=0.1, beta=0.5, reference="there"),
    "coverage": Coverage(samples=16),
    "grpo": PolicyGradient(group=3, kl=0.02, kl_estimate="k3", reference="there", temperature=0.8, mask_truncated=True),
    "hot": PolicyGradient(group=3, temperature=1.2, entropy=0.1),
    "dapo": PolicyGradient(group=3, normalize="token", clip_high=0.28, old="batch", correction="truncate"),
}


@functools.cache
def params_of(model: ModelConfig, seed: int) -> Any:
    """Larger than at the start of training, so that no distribution is flat."""
    drawn = jax.jit(partial(transformer.init, model))(jax.random.key(seed))
    return jax.tree.map(lambda x: 2 * x if x.ndim > 1 else x, drawn)


def frozen_for(objective: Objective) -> dict[str, Frozen]:
    return {name: Frozen(OTHER, params_of(OTHER, 1)) for name in objective.reads}


def train_for(objective: Objective, **changes: Any) -> TrainConfig:
    return TrainConfig(batch_size=ROWS, seq_len=SEQ, objective=objective, **changes)


@functools.cache
def program(objective: Objective, accumulate: int = 1) -> Any:
    train = train_for(objective, accumulate=accumulate)
    return jax.jit(partial(measured_gradient, MODEL, train), compiler_options=QUICK_COMPILE)


def found(objective: Objective, batch: dict[str, np.ndarray], accumulate: int = 1) -> Any:
    return program(objective, accumulate)(params_of(MODEL, 0), batch, frozen_for(objective))


@functools.cache
def _logits(model: ModelConfig) -> Any:
    return jax.jit(partial(transformer.apply, model), compiler_options=QUICK_COMPILE)


def logits_of(model: ModelConfig, seed: int, batch: dict[str, np.ndarray]) -> np.ndarray:
    tokens = batch["tokens"]
    flat = tokens.reshape(-1, tokens.shape[-1])[:, :-1]
    z = _logits(model)(params_of(model, seed), flat)
    return np.asarray(z, np.float64).reshape(*tokens.shape[:-1], -1, VOCAB)


@functools.cache
def carried() -> Any:
    """The gradient in the params of what has this slope in the logits."""

    def back(params: Any, tokens: Any, slope: Any) -> Any:
        return jax.vjp(lambda p: transformer.apply(MODEL, p, tokens), params)[1](slope)[0]

    return jax.jit(back, compiler_options=QUICK_COMPILE)


def far(a: Any, b: Any) -> float:
    """The largest difference of two trees, relative to the largest number of the first or to 1: advantages and weights
    of that size cancel in the sums that a gradient is."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    size = max(1.0, *(float(jnp.abs(x).max()) for x, _ in pairs))
    return max(float(jnp.abs(x - y).max()) for x, y in pairs) / size


@pytest.fixture(params=OBJECTIVES)
def objective(request: pytest.FixtureRequest) -> Objective:
    return OBJECTIVES[request.param]


def test_loss_and_gradient_are_those_of_a_loop_over_tokens(objective: Objective) -> None:
    """The oracle's slope in every logit, by central differences, carried back through the model."""
    batch = oracle.batch_of(objective, ROWS, SEQ, VOCAB)
    z = logits_of(MODEL, 0, batch)
    frozen = logits_of(OTHER, 1, batch) if objective.reads else None

    def mean(logits: np.ndarray) -> float:
        total, weight = oracle.loss(objective, logits, batch, frozen, z)
        return total / weight

    slope, step = np.zeros(z.shape), 1e-5
    for place in np.ndindex(*z.shape):
        moved = [z.copy(), z.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        slope[place] = (mean(moved[0]) - mean(moved[1])) / (2 * step)
    flat = batch["tokens"].reshape(-1, SEQ + 1)[:, :-1]
    expected = carried()(params_of(MODEL, 0), flat, slope.reshape(-1, SEQ, VOCAB).astype(np.float32))
    measured = found(objective, batch)
    assert float(measured.loss) == pytest.approx(mean(z), rel=1e-5)
    assert far(expected, measured.gradient) < 2e-6  # float32 through one layer
    assert measured.measured.keys() == set(objective.metrics)


def test_micro_batches_change_nothing(objective: Objective) -> None:
    batch = oracle.batch_of(objective, ROWS, SEQ, VOCAB, seed=1)
    whole = found(objective, batch)
    for accumulate in (2, 4) if objective is OBJECTIVES["dapo"] else (4,):
        split = found(objective, batch, accumulate)
        assert float(split.loss) == pytest.approx(float(whole.loss), rel=1e-6, abs=1e-6)
        assert far(whole.gradient, split.gradient) < 1e-6
        assert far(whole.measured, split.measured) < 1e-6 if whole.measured else True


def test_a_mean_of_the_means_of_micro_batches_would_be_another_loss() -> None:
    """What is divided twice, or once per micro-batch, is seen by the test above: weights are uneven enough."""
    objective = OBJECTIVES["dapo"]
    batch = oracle.batch_of(objective, ROWS, SEQ, VOCAB, seed=1)
    halves = [{name: x[i : i + 2] for name, x in batch.items()} for i in (0, 2)]
    wrong = jax.tree.map(lambda *parts: sum(parts) / 2, *[found(objective, half).gradient for half in halves])
    assert far(found(objective, batch).gradient, wrong) > 1e-3


def test_padding_and_the_order_of_rows_change_nothing(objective: Objective) -> None:
    """What is masked may hold anything: other tokens after the last scored one, numbers that are none."""
    batch = oracle.batch_of(objective, ROWS, SEQ, VOCAB, seed=2)
    whole = found(objective, batch)
    other = {name: x[::-1].copy() for name, x in batch.items()}
    after = np.cumsum(other["weights"][..., ::-1], -1)[..., ::-1] == 0  # behind the last scored target
    other["tokens"][..., 1:][after] = (other["tokens"][..., 1:][after] + 1) % VOCAB
    for name in ("sampled_logprobs", "old_logprobs", "advantages"):
        if name in other:
            other[name][other["weights"] == 0] = np.nan
    changed = found(objective, other)
    assert float(changed.loss) == pytest.approx(float(whole.loss), rel=1e-6, abs=1e-6)
    assert far(whole.gradient, changed.gradient) < 1e-6


@pytest.mark.parametrize("name", ["distillation", "dpo", "grpo"])
def test_a_mesh_of_data_changes_nothing(name: str) -> None:
    objective = OBJECTIVES[name]
    batch = oracle.batch_of(objective, ROWS, SEQ, VOCAB, seed=3)
    whole = found(objective, batch)
    mesh = make_mesh(MeshConfig(data=4), jax.devices()[:4])
    with jax.set_mesh(mesh):
        rows = jax.NamedSharding(mesh, jax.P("data"))
        given = {name: jax.device_put(x, rows) for name, x in batch.items()}
        params, frozen = jax.device_put(
            (params_of(MODEL, 0), frozen_for(objective)), jax.NamedSharding(mesh, jax.P())
        )
        step = jax.jit(partial(loss_and_gradient, MODEL, train_for(objective)), compiler_options=QUICK_COMPILE)
        loss, gradient = step(params, given, frozen)
    assert float(loss) == pytest.approx(float(whole.loss), rel=1e-6, abs=1e-6)
    assert far(whole.gradient, jax.device_get(gradient)) < 1e-6


def test_a_batch_that_lacks_a_field_is_refused_in_one_line(objective: Objective) -> None:
    batch = oracle.batch_of(objective, ROWS, SEQ, VOCAB)
    check_batch(objective, batch)
    for name in objective.needs:
        with pytest.raises(ConfigError, match=f"needs {name} .*which holds"):
            check_batch(objective, {other: x for other, x in batch.items() if other != name})
        with pytest.raises(ConfigError, match=f"needs {name}"):
            check_batch(objective, batch | {name: batch[name][..., None]})


def test_frozen_models_are_read_by_every_trial_and_their_metrics_are_kept() -> None:
    objective = OBJECTIVES["dpo"]
    train = train_for(objective, steps=4, warmup_steps=1, log_every=2)
    start = jax.jit(partial(init_state, MODEL, train), compiler_options=QUICK_COMPILE)
    state = start(np.uint32(0), hyperparameters(train))
    assert state.measured.keys() == set(objective.metrics)
    batch = oracle.batch_of(objective, ROWS, SEQ, VOCAB)
    batches = {name: np.stack([x] * 2) for name, x in batch.items()}
    reference = {"reference": Frozen(MODEL, state.params)}
    run = jax.jit(partial(advance, MODEL, train), compiler_options=QUICK_COMPILE)
    after, metrics = run(state, batches, hyperparameters(train), np.int32(0), np.int32(1), reference)
    expected = 0.9 * np.log(2) + 0.1 * np.log(2)  # the run starts from its reference
    assert float(metrics.last_loss) == pytest.approx(expected, rel=1e-6)
    assert float(after.measured["margin"]) == pytest.approx(0, abs=1e-6)


def test_flops_count_every_sequence_of_a_row_and_every_frozen_pass() -> None:
    for objective in OBJECTIVES.values():
        train = train_for(objective, steps=3)
        sequences = 3 * ROWS * objective.sequences
        read = dict.fromkeys(objective.reads, OTHER)
        forward = counts.forward_flops(MODEL, SEQ), counts.forward_flops(OTHER, SEQ)
        expected = sequences * (3 * forward[0] + len(read) * forward[1])
        assert objective.flops(MODEL, train.tokens, SEQ, read) == expected
    assert OBJECTIVES["next_token"].flops(MODEL, 60, SEQ, {}) == counts.train_flops(MODEL, 60, SEQ)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.objective\.teacher: has 9 tokens and the trained model 7"):
        OBJECTIVES["distillation"].check(MODEL, {"teacher": dataclasses.replace(MODEL, vocab_size=9)})
    with pytest.raises(ConfigError, match=r"train\.objective\.teacher: is not set"):
        Distillation()
    with pytest.raises(ConfigError, match=r"objective\.reference: is what the run starts from"):
        TrainConfig(objective=Preference())
    layers = dataclasses.replace(MODEL, n_layers=2, scan_layers=True)
    with pytest.raises(ConfigError, match="Coverage does not pass through 2 stages"):
        check_mesh(layers, train_for(Coverage()), MeshConfig(stage=2).sizes)
    with pytest.raises(ConfigError, match=r"objective\.group: is 1"):
        PolicyGradient(group=1)
    with pytest.raises(ConfigError, match=r"objective\.correction"):
        PolicyGradient(correction="drop")
