"""Estimates without compiling: the state to the byte, and what grows with what."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from launch.overrides import load_config
from models import presets
from models.channels.experts import Experts
from models.config import Layer, ModelConfig
from models.devices import DEVICES
from models.mixers import Attention, Mamba2
from models.sharding import MeshConfig, make_mesh
from scaling.sweep.trial import Trial
from scaling.train import memory
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.memory import Share, estimate_memory
from scaling.train.placement import Placement
from scaling.train.step import init_state
from scaling.train.step_time import elementwise_bytes, estimate_step, executed_flops
from scaling.train.traffic import expected_traffic

MODEL = ModelConfig(
    vocab_size=64, d_model=32, n_layers=4, n_heads=4, d_ff=48, tied_embeddings=False, scan_layers=True, remat="full"
)
MOE = dataclasses.replace(MODEL, moe=Experts(experts=4, top_k=2, d_ff=16))
TRAIN = TrainConfig(batch_size=16, seq_len=32)


def state_bytes(model: ModelConfig, train: TrainConfig, mesh: MeshConfig) -> int:
    """Bytes of parameters and moments on one device, from the shardings that training uses."""
    hyper = jax.tree.map(lambda x: np.stack([x]), hyperparameters(train))
    state = jax.eval_shape(jax.vmap(partial(init_state, model, train)), np.zeros(1, np.uint32), hyper)
    placement = Placement(model, make_mesh(mesh), state, zero=train.zero)
    leaves = zip(
        jax.tree.leaves((state.params, state.opt_state)),
        jax.tree.leaves((placement.state.params, placement.state.opt_state)),
        strict=True,
    )
    return sum(math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in leaves) - 4  # the optimiser's step


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("model", "mesh"),
    [
        (MODEL, MeshConfig(data=8)),
        (MODEL, MeshConfig(data=2, fsdp=4)),
        (MODEL, MeshConfig(fsdp=2, tensor=2, context=2)),
        (MODEL, MeshConfig(stage=4, fsdp=2)),
        (MOE, MeshConfig(expert=4, data=2)),
    ],
)
def test_the_state_is_exact(model, mesh, zero, optimizer):
    train = dataclasses.replace(TRAIN, zero=zero, optimizer=optimizer)
    assert estimate_memory(model, train, mesh).state == state_bytes(model.resolved(), train, mesh)


def test_offloaded_moments_rest_on_the_host():
    there = estimate_memory(MODEL, dataclasses.replace(TRAIN, offload="optimizer"), MeshConfig(fsdp=8))
    here = estimate_memory(MODEL, TRAIN, MeshConfig(fsdp=8))
    assert there.host > 0 and there.state + there.host == here.state and there.peak == here.peak - there.host


COMPILED = Path(__file__).parents[3] / "benchmarks" / "results" / "compile_tpu.jsonl"


@pytest.mark.parametrize("name", ["ladder_350m", "ladder_1b", "llama3_8b", "llama3_70b", "mixtral_8x7b"])
def test_large_configs_take_what_the_compiler_said(name):
    """Peaks compiled for whole pods (benchmarks/compile_tpu.py); without padding and whole gradients 8B is 23 % low."""
    config = load_config(COMPILED.parents[2] / "configs" / f"{name}.py", (Trial,)).resolved()
    kept = [json.loads(line) for line in COMPILED.read_text().splitlines()]
    (found,) = (row for row in kept if row["case"] == name)
    devices = math.prod(found["mesh"].values())
    mesh = config.mesh.resolve(devices)
    assert {axis: size for axis, size in mesh.sizes.items() if size > 1} == found["mesh"]
    assert estimate_memory(config.model, config.train, mesh).peak == pytest.approx(found["peer"], rel=0.1)


PIPELINES = [
    "pipeline", "pipeline 1F1B", "350m fsdp stage dots", "350m fsdp stage gpipe", "350m stage gpipe dots",
    "350m stage tensor", "350m circular", "1b fsdp stage", "1b fsdp stage gpipe", "8b fsdp stage", "8b fsdp stage dots",
]  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_take_what_the_compiler_said(name, monkeypatch):
    """All schedules, with and without fsdp, two rematerialisations (benchmarks/compile_tpu.py)."""
    monkeypatch.syspath_prepend(COMPILED.parents[1])
    _, trial = importlib.import_module("compile_tpu").case(name)
    (found,) = (row for row in map(json.loads, COMPILED.read_text().splitlines()) if row["case"] == name)
    assert {axis: size for axis, size in trial.mesh.sizes.items() if size > 1} == found["mesh"]
    assert estimate_memory(trial.model, trial.train, trial.mesh).peak == pytest.approx(found["peer"], rel=0.1)


def test_recomputing_more_saves_less_and_costs_more():
    def both(remat):
        model = dataclasses.replace(MODEL, remat=remat)
        mesh = MeshConfig(fsdp=8)
        device = dataclasses.replace(DEVICES["v5e"], bandwidth=0.0)  # no limit: products alone
        time = estimate_step(model, TRAIN, mesh, device, (2, 4))
        return estimate_memory(model, TRAIN, mesh).saved, time.compute

    saved, seconds = zip(*map(both, ("none", "dots", "full")), strict=True)
    assert saved[0] > saved[1] > saved[2] and seconds[0] < seconds[1] < seconds[2]


def test_scores_that_no_kernel_fuses_pass_through_memory():
    """A TPU's kernel keeps the scores of gathered positions, a ring's or a GPU's are written: 24 passes in float32."""
    mesh, kept = MeshConfig(context=4), dataclasses.replace(MODEL, remat="none")

    def work(fused, model):
        return elementwise_bytes(Share.of(model, TRAIN, mesh), fused=fused)

    ring = dataclasses.replace(kept, context="ring")
    positions = TRAIN.batch_size * TRAIN.seq_len // 4
    scores = 4 * positions * kept.n_heads * TRAIN.seq_len * kept.n_layers
    assert work(False, kept) - work(True, kept) == 24 * scores
    assert work(True, ring) == work(False, ring) == work(False, kept)


def test_dividing_more_needs_less():
    peaks = [estimate_memory(MODEL, TRAIN, MeshConfig(fsdp=n)).peak for n in (1, 2, 4, 8)]
    assert peaks == sorted(peaks, reverse=True)


def test_a_pipeline_by_1f1b_keeps_less_than_gpipe():
    def saved(kind):
        return estimate_memory(
            MODEL, dataclasses.replace(TRAIN, pipeline=kind, microbatches=8), MeshConfig(stage=4)
        ).saved

    assert saved("1f1b") < saved("gpipe")


def test_one_device_sends_nothing():
    assert expected_traffic(MODEL, TRAIN, MeshConfig()) == []


def test_zero_3_gathers_parameters_twice_and_scatters_gradients_once():
    found = {t.purpose: t for t in expected_traffic(MODEL, TRAIN, MeshConfig(fsdp=4))}
    matrices = 32 * 4 * 3 * 8 + 4 * 8 * 32 + 32 * 2 * 48 + 48 * 32 + 2 * 32  # qkv, out, gate and up, down, two norms
    assert found["parameters of blocks"].bytes == 2 * 4 * matrices * 4
    assert found["gradients of blocks"].bytes == 4 * matrices * 4


@pytest.mark.parametrize("remat", ["none", "full"])
def test_megatron_moves_two_all_reduces_forwards_and_two_backwards(remat):
    model = dataclasses.replace(MODEL, remat=remat)
    found = {t.purpose: t for t in expected_traffic(model, TRAIN, MeshConfig(tensor=4))}
    activation = 16 * 32 * 32 * 4  # batch, positions, d_model, float32
    again = {"none": (0, 0), "full": (2, 1)}[remat]
    assert found["positions of blocks"].bytes == (4 + again[0]) * 4 * activation
    assert found["partial sums of blocks"].bytes == (4 + again[1]) * 4 * activation


def test_a_pipeline_sends_every_boundary_once_each_way_in_each_tick():
    train = dataclasses.replace(TRAIN, microbatches=8)
    found = expected_traffic(MODEL, train, MeshConfig(stage=4))
    (traffic,) = (t for t in found if t.kind == "collective-permute")
    boundary = 16 // 8 * 32 * 32 * 4
    assert traffic.bytes == 2 * (8 + 4 - 1) * boundary


def test_1f1b_runs_every_block_forwards_once_more():
    from scaling.train.memory import Share

    def flops(kind):
        train = dataclasses.replace(TRAIN, pipeline=kind, microbatches=8)
        return executed_flops(Share.of(MODEL, train, MeshConfig(stage=4)), train.tokens_per_step)

    assert flops("1f1b") > flops("gpipe")


def test_layers_of_other_parts_are_measured_by_what_their_vjp_keeps():
    train, mesh = TrainConfig(batch_size=8, seq_len=256), MeshConfig(fsdp=2)
    model = dataclasses.replace(presets.LLAMA_1B, n_layers=4)
    share = memory.Share.of(model, train, mesh)
    fitted = memory._layer(share, share.model.layers[0], "cpu")
    assert memory.residual_bytes(share, model.layers[0]) == pytest.approx(fitted, rel=0.004)
    mixed = dataclasses.replace(model, pattern=(Layer(Mamba2()), Layer(Attention())))
    other = memory.Share.of(mixed, train, mesh)
    want = 2 * fitted + 2 * memory.residual_bytes(other, mixed.layers[0])
    assert memory._tick(other, "cpu") == want != memory._tick(share, "cpu")
    assert estimate_memory(mixed, train, mesh).peak > 0
