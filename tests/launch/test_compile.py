"""Ahead-of-time compiling: collectives read from a program's text, topologies, errors; with libtpu, real TPUs."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from launch import cli
from launch import compile as command
from launch.collectives import by_kind, collectives, first_group, spanned_axes
from launch.topology import Topology, parse_topology
from models.errors import ConfigError
from tests.launch import commands

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu (extra isoflop[tpu]) is not installed"
)

# Three gathers in a loop of 24 trips, one of them cut into three pieces, and a reduce-scatter that the TPU compiler
# writes as an all-reduce and a slice; all over groups of 4.
TPU_PROGRAM = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter (input: f32[1024,32]) -> f32[256,32] {
  %input = f32[1024,32]{1,0:T(8,128)S(1)} parameter(0)
  %all-reduce.1 = f32[1024,32]{1,0:T(8,128)} all-reduce(%input), channel_id=7, GROUPS, to_apply=%add
  ROOT %mine = f32[256,32]{1,0} dynamic-slice(%all-reduce.1, %zero, %zero), dynamic_slice_sizes={256,32}
}

%start (p: bf16[256,8]) -> (bf16[256,8], bf16[1024,8]) {
  %p = bf16[256,8]{1,0} parameter(0)
  %all-gather.1 = bf16[1024,8]{1,0} all-gather(%p), channel_id=3, GROUPS, PIECE
  ROOT %go = (bf16[256,8]{1,0}, bf16[1024,8]{1,0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%piece (p.1: bf16[256,8]) -> bf16[1024,8] {
  %p.1 = bf16[256,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[1024,8]{1,0} all-gather(%p.1), channel_id=3, GROUPS, PIECE
}

%body (carry: (s32[], bf16[256,8])) -> (s32[], bf16[256,8]) {
  %carry = (s32[], bf16[256,8]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %w = bf16[256,8]{1,0} get-tuple-element(%carry), index=1
  %one = s32[] constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %fusion.1 = (bf16[256,8]{1,0}, bf16[1024,8]{1,0}) fusion(%w), kind=kCustom, calls=%start
  %kernel = f32[1024,32]{1,0} custom-call(%w), custom_call_target="tpu_custom_call", frontend_attributes={text={
}}, metadata={op_name="a kernel whose attributes run over lines"}
  %fusion.2 = bf16[1024,8]{1,0} fusion(%w), kind=kCustom, calls=%piece
  %fusion.3 = f32[256,32]{1,0} fusion(%kernel), kind=kCustom, calls=%all-reduce-scatter
  ROOT %out = (s32[], bf16[256,8]{1,0}) tuple(%next, %w)
}

%cond (carry.1: (s32[], bf16[256,8])) -> pred[] {
  %carry.1 = (s32[], bf16[256,8]{1,0}) parameter(0)
  %limit = s32[]{:T(128)} constant(24)
  %i.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (w.1: bf16[256,8]) -> bf16[256,8] {
  %w.1 = bf16[256,8]{1,0} parameter(0)
  %zero.1 = s32[] constant(0)
  %copy.1 = s32[]{:T(128)} copy(%zero.1)
  %init = (s32[], bf16[256,8]{1,0}) tuple(%copy.1, %w.1)
  %loop = (s32[], bf16[256,8]{1,0}) while(%init), condition=%cond, body=%body
  %permuted = bf16[256,8]{1,0} collective-permute(%w.1), channel_id=9, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  ROOT %result = bf16[256,8]{1,0} get-tuple-element(%loop), index=1
}
""".replace("GROUPS", "replica_groups=mesh['a'=4] {'a'}").replace("PIECE", '"async_collective_fusion_config"')


def test_loops_pieces_and_fused_scatters_of_a_tpu_program_are_counted_as_what_they_are():
    found = {c.kind: c for c in collectives(TPU_PROGRAM, {"data": 1, "fsdp": 4})}
    gather, scatter, permute = (found[k] for k in ("all-gather", "reduce-scatter", "collective-permute"))
    assert len(found) == 3
    assert (gather.times, gather.payload, gather.group, gather.axes) == (24, 1024 * 8 * 2, 4, ("fsdp",))
    assert (scatter.times, scatter.payload, scatter.dtype) == (24, 1024 * 32 * 4, "f32")
    assert scatter.sent == 24 * 1024 * 32 * 4 * 3 // 4
    assert (permute.times, permute.sent) == (1, 256 * 8 * 2)
    assert by_kind(found.values())["all-gather"]["bytes"] == 24 * 1024 * 8 * 2


def test_a_gather_that_starts_before_a_loop_and_goes_on_in_it_counts_once():
    start = "  %begun = (bf16[256,8]{1,0}, bf16[1024,8]{1,0}) fusion(%w.1), kind=kCustom, calls=%start\n"
    in_the_loop = "  %fusion.1 = (bf16[256,8]{1,0}, bf16[1024,8]{1,0}) fusion(%w), kind=kCustom, calls=%start\n"
    text = TPU_PROGRAM.replace(in_the_loop, "").replace("  %zero.1 =", f"{start}  %zero.1 =")
    (gather,) = (c for c in collectives(text, {"fsdp": 4}) if c.kind == "all-gather")
    assert (gather.times, gather.payload) == (1, 1024 * 8 * 2)


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,2,4,6},{1,3,5,7}}, x", (0, 2, 4, 6)),
        ("replica_groups=[4,2]<=[8], x", (0, 1)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}, x", (0, 2)),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}, x", (0, 2, 4, 6)),
        ("source_target_pairs={{0,1},{1,0}}, x", (0, 1)),
    ],
)
def test_every_way_to_write_groups_gives_the_first_one(text, group):
    assert first_group(text) == group


def test_groups_are_named_by_the_mesh_axes_that_they_span():
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    assert spanned_axes((0, 1), mesh) == ("tensor",)
    assert spanned_axes((0, 4), mesh) == ("data",)
    assert spanned_axes((0, 2, 4, 6), mesh) == ("data", "fsdp")


def test_collectives_of_a_compiled_scan_equal_what_it_does():
    mesh = Mesh(np.array(jax.devices()[:4]), ("x",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec("x")), NamedSharding(mesh, PartitionSpec())

    def f(w):
        def body(total, _):
            return jax.lax.with_sharding_constraint(jnp.sin(w + total[0, 0]), whole), None  # nothing to hoist

        return jax.lax.scan(body, jnp.zeros((64, 8)), None, length=5)[0]

    text = jax.jit(f, out_shardings=whole).lower(jax.device_put(jnp.ones((64, 8)), split)).compile().as_text()
    (gather,) = collectives(text, {"x": 4})
    assert (gather.kind, gather.times, gather.payload, gather.axes) == ("all-gather", 5, 64 * 8 * 4, ("x",))


@pytest.mark.parametrize(
    ("text", "chips", "devices"),
    [("v5e:16x16", 256, 256), ("v5p:8x8x8", 512, 512), ("v6e:4x4", 16, 16), ("tpu7x:4x4x4", 64, 128), ("h200:8", 8, 8)],
)
def test_a_topology_has_so_many_chips_and_devices(text, chips, devices):
    topology = parse_topology(text)
    assert (topology.chips, topology.devices, topology.name) == (chips, devices, text)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("v5q:4x4", "did you mean v5p:4x4x4?"),
        ("v5p:4x4x5", "near it: v5p:4x4x4"),
        ("v5e:3x3", "near it: v5e:2x4"),
        ("v5e", "write it as v5e:16x16"),
        ("h200:2x2", "write it as h200:8"),
        ("toaster", "write one such as v5e:16x16"),
    ],
)
def test_an_unknown_topology_is_refused_with_near_names(text, fix):
    with pytest.raises(ConfigError) as raised:
        parse_topology(text)
    assert raised.value.field == "--topology" and fix in raised.value.fix


def test_every_known_slice_is_a_known_slice():
    from launch import topology

    for family in (*topology.TPU_SHAPES, *topology.LARGEST_SLICE):
        shapes = topology._shapes_of(family)
        assert len(set(shapes)) == len(shapes) > 5
        assert all(parse_topology(Topology(family, shape).name).chips == math.prod(shape) for shape in shapes)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compile")
    body = """
    from models.sharding import MeshConfig
    shape = dict(vocab_size=64, d_model=32, n_layers=2, n_heads=4, d_ff=64, tied_embeddings=False)
    model = ModelConfig(**shape, scan_layers=True)
    return Trial(model, DATA, TrainConfig(batch_size=8, seq_len=32), MeshConfig(fsdp=-1))
    """
    commands.write_config(root, "sharded", body)
    return root


def state_is_exact(report, arguments: int | None = None) -> bool:
    """The arguments are state and batch, and some scalars: hyper-parameters and the run's books."""
    estimate = report["memory_estimate"]
    arguments = report["memory"]["arguments"] if arguments is None else arguments
    return 0 < arguments - estimate["state"] - estimate["batch"] < 128


# such as `%p = f32[2,64,8]{2,0,1:T(8,128)} parameter(4)`: dims, their order from the fastest, and the tile of the last
PARAMETER = re.compile(r"= [a-z]+(\d+)\[([\d,]*)\]\{([\d,]*):T\(([\d,]+)\)[^}]*\} parameter\(")


def argument_bytes(hlo: str) -> tuple[int, int]:
    """Bytes of a TPU program's arguments: of what they hold, and of the whole tiles in which they lie."""
    held = tiled = 0
    for line in hlo[hlo.index("\nENTRY") :].splitlines():
        if " parameter(" in line:
            match = PARAMETER.search(line)
            assert match, line
            dims, order, tile = ([int(n) for n in group.split(",") if n] for group in match.group(2, 3, 4))
            sides = [1] * (len(dims) - len(tile)) + tile
            whole = [-(-dims[dim] // side) * side for dim, side in zip(reversed(order), sides, strict=True)]
            held += int(match[1]) // 8 * math.prod(dims)
            tiled += int(match[1]) // 8 * math.prod(whole)
    return held, tiled


@pytest.mark.slow
def test_the_real_step_compiles_for_virtual_devices_and_reports_its_needs(root):
    done = commands.run("compile", f"--config={root}/sharded.py", "--topology=cpu:4", "--config.mesh.tensor=2")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["mesh"] == {"fsdp": 2, "tensor": 2} and report["devices"] == 4 and report["fits"]
    assert state_is_exact(report)
    assert report["flops_per_step"] == 4 * report["flops_per_device"]
    assert report["collectives"]["all-gather"]["axes"].keys() == {"fsdp", "tensor"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--topology=v5z:4x4"], "error: --topology: 'v5z:4x4' is no known kind of device: did you mean v5"),
        (["--topology=cpu:4", "--config.mesh.fsdp=8"], "error: mesh: fsdp=8 does not make 4 devices: choose axes"),
        (
            ["--topology=cpu:8", "--config.mesh.fsdp=1", "--config.mesh.tensor=8"],
            "error: mesh.tensor: 8 does not divide",
        ),
        (["--topology=cpu:4", "--config.mesh.fsdp=1", "--config.mesh.stage=4"], "error: mesh.stage: 4 stages for 2"),
        (
            ["--topology=cpu:2", "--config.mesh.fsdp=1", "--config.mesh.stage=2", "--config.train.microbatches=3"],
            "error: train.microbatches: 3 micro-batches do not divide the 8 sequences",
        ),
        (["--topology=h200:4"], "error: --topology: h200:4 cannot be compiled without the GPUs: "),
        (["--topology=cpu:4", "--device_table=/nowhere.json"], "error: /nowhere.json: No such file"),
    ],
)
def test_bad_input_is_one_line_before_any_compile(root, arguments, line, capsys):
    given = [f"--config={root}/sharded.py", *arguments]
    assert cli.execute(command.main, command.FLAGS, command.__doc__, given, command.kinds) == 2
    error = capsys.readouterr().err
    assert error.startswith(line) and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_the_error_names_the_extra(root):
    done = commands.run("compile", f"--config={root}/sharded.py", "--topology=v5e:2x2")
    assert (done.returncode, done.stderr) == (2, "error: libtpu: is not installed: pip install 'isoflop[tpu]'\n")


@needs_libtpu
@pytest.mark.slow
def test_a_step_compiles_for_a_tpu_topology_and_its_arguments_are_the_state_in_tiles(root):
    arguments = ["--topology=v5e:2x2", "--config.model.dtype=bfloat16", f"--hlo={root}/hlo.txt"]
    done = commands.run("compile", f"--config={root}/sharded.py", *arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["collectives"]["all-gather"]["axes"].keys() == {"fsdp"}
    held, tiled = argument_bytes((root / "hlo.txt").read_text())
    assert state_is_exact(report, held) and report["memory"]["arguments"] == tiled


@needs_libtpu
@pytest.mark.slow
def test_a_step_that_does_not_fit_a_tpu_says_how_much_is_missing_and_what_to_divide(root):
    arguments = ["--topology=v5e:2x2", "--config.train.batch_size=64", "--config.train.seq_len=32768"]
    arguments += ["--config.mesh.fsdp=1", "--config.mesh.data=4", "--config.model.remat=none"]
    done = commands.run("compile", f"--config={root}/sharded.py", *arguments)
    report = json.loads(done.stdout)
    assert done.returncode == 1 and not report["fits"]
    assert report["missing"] > 0 and "the largest part is" in report["advice"]
