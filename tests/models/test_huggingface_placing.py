"""A Hugging Face checkpoint on a mesh: each weight where the rules put it, and no process reads what others hold."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

import jax
import pytest

from models import transformer
from models.huggingface import import_weights, imports
from models.huggingface.tensors import Checkpoint
from models.sharding import DEFAULT_RULES, MeshConfig, make_mesh, weight_shardings
from tests.models import write_huggingface_golden as golden
from tests.models.test_huggingface import assert_equal


@pytest.fixture
def reads(monkeypatch) -> Counter[str]:
    """Elements read of each tensor, from now on."""
    found: Counter[str] = Counter()
    read = Checkpoint.read

    def counted(self, name, *block):
        values = read(self, name, *block)
        found[name] += values.size
        return values

    monkeypatch.setattr(Checkpoint, "read", counted)
    return found


def sizes(name: str) -> Counter[str]:
    """Elements of each tensor of a golden checkpoint."""
    with Checkpoint(golden.GOLDEN / name) as checkpoint:
        return Counter({tensor: math.prod(checkpoint.shape(tensor)) for tensor in checkpoint})


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_with_a_mesh_every_weight_is_read_once_and_placed_by_the_rules(name, scan_layers, reads):
    whole = import_weights(golden.GOLDEN / name, scan_layers=scan_layers)[1]
    mesh = make_mesh(MeshConfig(data=2, tensor=4) if name == "gpt2" else MeshConfig(fsdp=2, tensor=2, stage=2))
    reads.clear()
    config, params = import_weights(golden.GOLDEN / name, scan_layers=scan_layers, mesh=mesh)
    assert reads == Counter({tensor: size for tensor, size in sizes(name).items() if tensor in reads})
    shardings = weight_shardings(transformer.weights(config), DEFAULT_RULES, mesh)
    assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding == s, params, shardings)))
    assert_equal(params, whole)
    block = params["blocks"] if scan_layers else params["block_0"]
    assert len(block["attention"]["qkv"].addressable_shards) == 8
    ways = 8 if scan_layers and name == "llama" else 4
    assert block["attention"]["qkv"].addressable_shards[0].data.size == whole_size(block) // ways


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("phi3", MeshConfig(fsdp=4, tensor=2)),
        ("gpt_neox", MeshConfig(fsdp=2, tensor=4)),
        ("glm", MeshConfig(fsdp=4, tensor=2)),
        ("qwen3_moe", MeshConfig(data=2, expert=4)),
        ("qwen3_moe", MeshConfig(fsdp=2, tensor=2, expert=2)),
    ],
)
def test_parts_of_tensors_experts_and_pairs_are_placed_as_whole_tensors_are(name, mesh, reads):
    whole = import_weights(golden.GOLDEN / name)[1]
    reads.clear()
    params = import_weights(golden.GOLDEN / name, mesh=make_mesh(mesh))[1]
    assert_equal(params, whole)
    assert reads == sizes(name)


class OneOfEight:
    """The sharding of a process that has one of the mesh's devices."""

    def __init__(self, sharding, number: int):
        self.sharding, self.device = sharding, sharding.mesh.devices.flat[number]

    def addressable_devices_indices_map(self, shape):
        return {self.device: self.sharding.devices_indices_map(shape)[self.device]}


@pytest.mark.parametrize("number", [0, 5])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_process_reads_what_its_own_devices_hold_and_nothing_else(name, number, reads, monkeypatch):
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=4) if name == "gpt2" else MeshConfig(fsdp=2, tensor=2, stage=2))
    config, whole = import_weights(golden.GOLDEN / name, scan_layers=True)
    shardings = weight_shardings(transformer.weights(config), DEFAULT_RULES, mesh)
    own = jax.tree.map(partial(OneOfEight, number=number), shardings)
    monkeypatch.setattr(imports, "weight_shardings", lambda *_: own)
    monkeypatch.setattr(jax, "make_array_from_single_device_arrays", lambda shape, sharding, arrays: arrays[0])
    reads.clear()
    _, mine = import_weights(golden.GOLDEN / name, scan_layers=True, mesh=mesh)
    device = mesh.devices.flat[number]
    held = jax.tree.map(lambda x, s: x[s.devices_indices_map(x.shape)[device]], whole, shardings)
    assert_equal(mine, held)
    assert sum(reads.values()) == sum(x.size for x in jax.tree.leaves(held))
    assert sum(reads.values()) < 0.3 * sum(x.size for x in jax.tree.leaves(whole))


def whole_size(block) -> int:
    return block["attention"]["qkv"].size
