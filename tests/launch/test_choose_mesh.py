"""Choosing a mesh: only legal ones, pruned by memory, ranked by time, and never one that the compiler refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.choose_mesh import (
    as_json,
    as_table,
    choose_mesh,
    factorizations,
    nearest_fit,
    peak_bytes,
    read_device_table,
)
from launch.program import CompilerFailed, DoesNotFit, compile_step
from launch.topology import parse_topology
from models import presets
from models.config import ModelConfig
from models.devices import DEVICES, Device
from models.errors import ConfigError
from models.sharding import MeshConfig
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig
from scaling.train.memory import estimate_memory
from scaling.train.step_time import axis_bandwidths

SMALL = ModelConfig(vocab_size=64, d_model=64, n_layers=4, n_heads=4, d_ff=128, tied_embeddings=False, scan_layers=True)
TRIAL = Trial(SMALL, train=TrainConfig(batch_size=16, seq_len=128))


@given(st.integers(1, 96), st.integers(1, 4))
def test_every_ordered_factorisation_comes_once(n, parts):
    found = list(factorizations(n, parts))
    assert len(set(found)) == len(found)
    assert all(math.prod(sizes) == n and len(sizes) == parts for sizes in found)
    by_search = sum(1 for sizes in _tuples(n, parts) if math.prod(sizes) == n)
    assert len(found) == by_search


def _tuples(n, parts):
    if parts == 0:
        return [()]
    return [(i, *rest) for i in range(1, n + 1) if n % i == 0 for rest in _tuples(n, parts - 1)]


def test_all_ranked_meshes_are_legal_multiply_to_the_devices_and_get_slower():
    choice = choose_mesh(TRIAL, parse_topology("cpu:8"), sensible=False)
    settings = [tuple(candidate.settings.values()) for candidate in choice.ranked]
    assert len(set(settings)) == len(settings) > 50
    for candidate in choice.ranked:
        candidate.trial.__post_init__()  # refuses what is not legal
        assert math.prod(candidate.trial.mesh.sizes.values()) == 8
        assert candidate.settings["expert"] == 1 and candidate.settings["stage"] <= 4
    times = [candidate.time.total for candidate in choice.ranked]
    assert times == sorted(times)
    assert "mesh.expert: the model has no experts" in choice.illegal
    assert choice.best is choice.ranked[0] and not choice.verified


def test_what_does_not_fit_is_left_out_and_the_rest_fits():
    trial = Trial(dataclasses.replace(presets.LLAMA_1B, remat="full"), train=TrainConfig(batch_size=64, seq_len=2048))
    topology = parse_topology("v5e:2x4")
    choice = choose_mesh(trial, topology)
    assert sum(choice.too_large.values()) > 0 and choice.ranked
    assert all(c.memory.peak < topology.device.capacity for c in choice.ranked)
    assert choice.smallest.memory.peak <= min(c.memory.peak for c in choice.ranked)
    small = dataclasses.replace(topology.device, usable=1e6)
    nothing = choose_mesh(trial, topology, device=small)
    assert nothing.best is None and nothing.smallest is not None and as_json(nothing, 3)["chosen"] is None


def test_the_compiler_has_the_last_word():
    topology = parse_topology("cpu:4")
    plain = choose_mesh(TRIAL, topology)
    refused = [c.settings for c in plain.ranked[:3]]
    compiled = []

    def compile_one(trial, topology):
        compiled.append(trial.mesh)
        if len(compiled) <= 3:
            raise DoesNotFit(2 * 2**30, 2**30)
        if len(compiled) == 4:
            raise CompilerFailed("F1121 check failed")
        return 12345

    choice = choose_mesh(TRIAL, topology, verify=2, compile_one=compile_one)
    assert len(compiled) == 6 and choice.verified
    assert [c.settings for c in choice.ranked[:3]] == refused
    assert all("needs 2.00 GiB on a device that has 1.00 GiB" in c.rejected for c in choice.ranked[:3])
    assert choice.ranked[3].rejected == "the compiler: F1121 check failed"
    assert choice.best is choice.ranked[4] and choice.best.compiled == 12345
    assert "compiler" in as_table(choice, 5) and json.dumps(as_json(choice, 5))


@pytest.mark.slow
def test_a_compiler_that_ends_its_process_is_an_error_and_another_gives_what_it_says(tmp_path, monkeypatch):
    topology = parse_topology("cpu:2")
    option = choose_mesh(TRIAL, topology).ranked[0].trial
    assert peak_bytes(option, topology) == compile_step(option, topology).footprint.peak
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'F1121 check failed' >&2\nkill -ABRT $$\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(CompilerFailed, match="F1121 check failed"):
        peak_bytes(option, topology)


def test_if_the_compiler_refuses_all_nothing_is_chosen():
    def compile_one(trial, topology):
        raise DoesNotFit(2, 1)

    assert choose_mesh(TRIAL, parse_topology("cpu:2"), verify=1, compile_one=compile_one).best is None


def test_no_legal_mesh_is_an_error_that_names_a_reason():
    trial = dataclasses.replace(TRIAL, model=dataclasses.replace(SMALL, n_heads=1, d_model=62, d_ff=62, n_layers=1))
    trial = dataclasses.replace(trial, train=TrainConfig(batch_size=1, seq_len=127))
    with pytest.raises(ConfigError, match="no way to divide the run over cpu:7 is legal"):
        choose_mesh(trial, parse_topology("cpu:7"))


def test_the_nearest_fit_changes_the_fewest_settings():
    choice = choose_mesh(TRIAL, parse_topology("cpu:4"), sensible=False)
    for candidate in choice.ranked[::7]:
        assert nearest_fit(candidate.trial, choice).settings == candidate.settings


def test_the_flags_of_a_candidate_make_its_config():
    from launch.overrides import apply_overrides

    choice = choose_mesh(TRIAL, parse_topology("cpu:8"), sensible=False)
    for candidate in choice.ranked[::11]:
        flags = dict(flag.removeprefix("--config.").split("=") for flag in candidate.flags.split())
        made = apply_overrides(TRIAL, flags)
        assert (made.mesh, made.train) == (candidate.trial.mesh, candidate.trial.train)


def test_a_slow_network_moves_the_choice_away_from_what_crosses_it():
    trial = Trial(dataclasses.replace(presets.LLAMA3_8B, remat="full"), train=TrainConfig(batch_size=64, seq_len=4096))
    topology = parse_topology("h200:16")
    slow = choose_mesh(trial, topology, device=dataclasses.replace(topology.device, network=1e8)).best.trial.mesh
    fast = choose_mesh(trial, topology, device=dataclasses.replace(topology.device, network=1e13)).best.trial.mesh
    assert fast.fsdp == 16 and slow.fsdp * slow.context * slow.tensor <= 8  # 8 GPUs share a switch


def test_a_measured_matrix_overrules_links_and_a_ring_is_as_fast_as_its_slowest_pair(tmp_path):
    matrix = [[1e9 if i // 2 == j // 2 else 1e6 for j in range(4)] for i in range(4)]
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"matrix": matrix, "flops": 1e12}))
    device = read_device_table(path, DEVICES["h200"])
    assert (device.flops, device.memory) == (1e12, 141e9)
    rates = axis_bandwidths(MeshConfig(data=2, tensor=2), device)
    assert rates["tensor"] == 1e9 and rates["data"] == 1e6


def test_a_table_of_a_few_figures_leaves_the_others_as_they_are(tmp_path):
    path = tmp_path / "table.json"
    path.write_text('{"link": 4.0e11, "efficiency": 0.5}')
    assert read_device_table(path, DEVICES["h200"]) == dataclasses.replace(DEVICES["h200"], link=4e11, efficiency=0.5)


@pytest.mark.parametrize("text", ["[1]", "{", '{"speed": 3}', '{"flops": "fast"}'])
def test_a_bad_device_table_is_refused(tmp_path, text):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_device_table(path, Device(1.0, 1.0, 1.0))


def test_axes_take_the_sides_of_the_torus_from_the_inside():
    v5e, v5p = DEVICES["v5e"], DEVICES["v5p"]
    rates = axis_bandwidths(MeshConfig(fsdp=16, tensor=16), v5e, (16, 16))
    assert rates["tensor"] == rates["fsdp"] == 2 * v5e.link
    assert axis_bandwidths(MeshConfig(fsdp=256), v5e, (16, 16))["fsdp"] == 4 * v5e.link
    assert axis_bandwidths(MeshConfig(fsdp=4, tensor=2), v5p, (2, 2, 2))["tensor"] == v5p.link
    assert axis_bandwidths(MeshConfig(data=16), DEVICES["h200"])["data"] == DEVICES["h200"].network


@pytest.mark.parametrize("name", ["llama3_8b", "llama3_70b", "mixtral_8x7b", "ladder_1b", "ladder_350m"])
def test_shipped_configs_fit_their_topology_by_estimate(name):
    from launch.overrides import load_config
    from tests.launch.commands import REPOSITORY

    path = REPOSITORY / "configs" / f"{name}.py"
    topology = parse_topology(path.read_text().partition("Intended topology: ")[2].split()[0].rstrip(".,;"))
    trial = load_config(path, (Trial,))
    assert trial.mesh.resolve(topology.devices) == trial.mesh
    assert estimate_memory(trial.model, trial.train, trial.mesh).peak < topology.device.capacity
