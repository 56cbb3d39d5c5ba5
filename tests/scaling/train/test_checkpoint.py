"""A checkpoint comes back bit for bit, or is refused with a message that names the file or the leaf."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.errors import ConfigError
from scaling.train import checkpoint, leaves, manifest
from scaling.train.checkpoint import AllDamaged, Checkpoints, DiskFull, NoCheckpoint, load, load_like, load_params


class State(NamedTuple):
    """Stands for a TrainState: a NamedTuple that holds optax's own."""

    step: jax.Array
    params: Any
    opt_state: Any
    order: np.ndarray


def make_state(seed: int = 0, width: int = 8) -> State:
    key = jax.random.key(seed)
    params = {
        "embed": jax.random.normal(key, (16, width)),
        "layers": [
            {"w": jax.random.normal(jax.random.fold_in(key, i), (width, width), jnp.bfloat16)} for i in range(2)
        ],
        "large": jax.random.normal(key, (600, 512)),  # above leaves.PACK_BYTES: stored by orbax on its own
    }
    return State(jnp.int32(seed), params, optax.adamw(1e-3).init(params), np.arange(5, dtype=np.int64) + seed)


def assert_identical(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert type(x) is type(y) and x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def abstract(state: Any) -> Any:
    return jax.tree.map(lambda x: x if isinstance(x, np.ndarray) else jax.ShapeDtypeStruct(x.shape, x.dtype), state)


@pytest.fixture
def two_steps(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "run", asynchronous=False)
    checkpoints.save(1, make_state(1), {"data": "one"})
    checkpoints.save(2, make_state(2), {"data": "two"})
    return checkpoints


# -- round trips ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_restored_state_is_bit_identical(tmp_path: Path, asynchronous: bool):
    state = make_state(3)
    with Checkpoints(tmp_path, asynchronous=asynchronous) as checkpoints:
        checkpoints.save(7, state, {"data": {"hash": "abc", "files": [1, 2]}})
        restored = checkpoints.restore(abstract(state))
    assert restored.step == 7 and restored.metadata == {"data": {"hash": "abc", "files": [1, 2]}}
    assert_identical(restored.state, state)
    assert not restored.state.params["large"].committed  # free to be moved onto any mesh


DTYPES = [np.float32, np.float16, np.int8, np.uint16, np.int32, np.int64, np.float64, np.bool_]
DTYPES += [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4]


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    raw = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2, size=shape)
    return raw.astype(dtype)


KEYS = st.text("abxyz_09", min_size=1, max_size=3)
TREES = st.dictionaries(
    KEYS, st.recursive(arrays(), lambda t: st.lists(t, max_size=3) | st.dictionaries(KEYS, t, max_size=3)), min_size=1
)


@settings(max_examples=25)
@given(tree=TREES, pack_bytes=st.sampled_from([-1, 8, 1 << 20]))
def test_any_tree_of_any_dtype_comes_back(tmp_path_factory: pytest.TempPathFactory, tree: Any, pack_bytes: int):
    directory = tmp_path_factory.mktemp("tree")
    with pytest.MonkeyPatch.context() as patch:
        # An empty array has no bytes for orbax to write, so those are always packed.
        patch.setattr(leaves, "PACK_BYTES", pack_bytes if all(x.size for x in jax.tree.leaves(tree)) else 1 << 20)
        with Checkpoints(directory) as checkpoints:
            if not jax.tree.leaves(tree):
                with pytest.raises(ConfigError, match="has no named leaves"):
                    checkpoints.save(0, tree)
                return
            checkpoints.save(0, tree)
            assert_identical(checkpoints.restore(tree).state, tree)


def test_state_may_be_donated_or_overwritten_right_after_an_asynchronous_save(tmp_path: Path):
    state = {"device": jnp.arange(2_000_000.0), "host": np.arange(2_000_000), "small": jnp.ones(3), "n": np.ones(3)}
    expected = jax.tree.map(lambda x: np.array(x), state)
    destroy = jax.jit(lambda xs: [x * 0 for x in xs], donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        jax.block_until_ready(destroy([state["device"], state["small"]]))
        state["host"][:] = 0
        state["n"][:] = 0
    assert_identical(load(tmp_path).state, expected)


def test_restored_arrays_may_be_donated(tmp_path: Path):
    state = {"a": jnp.arange(4096.0), "b": jnp.arange(4096.0) + 1, "large": jnp.arange(600_000.0)}
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        restored = checkpoints.restore(abstract(state)).state
        for _ in range(3):
            restored = advance(restored)
    assert_identical(restored, jax.tree.map(lambda x: x + 3, state))


def test_arrays_of_the_other_byte_order_keep_their_values(tmp_path: Path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": np.arange(4, dtype=">f4")})
    np.testing.assert_array_equal(load(tmp_path).state["x"], np.arange(4, dtype=np.float32))


def test_saving_a_step_again_replaces_it(two_steps: Checkpoints):
    two_steps.save(2, make_state(22), {"data": "new"})
    assert two_steps.steps() == [1, 2]
    restored = two_steps.restore(abstract(make_state()))
    assert restored.metadata == {"data": "new"}
    assert_identical(restored.state, make_state(22))


# -- which steps there are --------------------------------------------------------------------------------------


def test_newest_and_every_nth_step_are_kept(tmp_path: Path):
    with Checkpoints(tmp_path, keep=2, keep_every=30) as checkpoints:
        for step in range(0, 100, 10):
            checkpoints.save(step, {"x": np.array(step)})
        checkpoints.wait()
        assert checkpoints.steps() == [0, 30, 60, 80, 90] and checkpoints.latest() == 90


def test_step_just_saved_is_kept_even_when_newer_ones_exist(tmp_path: Path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (100, 200, 50):
            checkpoints.save(step, {"x": np.array(step)})
        checkpoints.wait()
        assert checkpoints.steps() == [50, 100, 200]


def test_chosen_step_and_metadata_can_be_read(two_steps: Checkpoints):
    assert two_steps.metadata(1) == {"data": "one"} and two_steps.metadata() == {"data": "two"}
    assert_identical(two_steps.restore(abstract(make_state()), step=1).state, make_state(1))
    with pytest.raises(NoCheckpoint, match=r"has no step 5: choose from \[1, 2\]"):
        two_steps.restore(abstract(make_state()), step=5)
    with pytest.raises(NoCheckpoint, match=r"manifest.json: is missing: choose another step: \[1, 2\]"):
        two_steps.metadata(5)


def test_empty_directory_holds_no_checkpoint(tmp_path: Path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.steps() == [] and checkpoints.latest() is None
        for attempt in (checkpoints.metadata, lambda: checkpoints.restore({"x": np.zeros(1)})):
            with pytest.raises(NoCheckpoint, match="new: holds no checkpoint"):
                attempt()
    with pytest.raises(NoCheckpoint, match="absent: holds no checkpoint"):
        load(tmp_path / "absent")


def test_leftovers_are_removed_when_the_directory_is_opened(two_steps: Checkpoints):
    directory = two_steps.directory
    for name in ("3.saving", "3.saving.orbax-checkpoint-tmp", "0.deleting"):
        shutil.copytree(directory / "1", directory / name)
    os.rename(directory / "2", directory / "2.replaced")  # killed between the renames that replace step 2
    shutil.copytree(directory / "1", directory / "1.replaced")
    (directory / "notes.txt").write_text("mine")
    reopened = Checkpoints(directory)
    assert sorted(p.name for p in directory.iterdir()) == ["1", "2", "notes.txt"]
    assert_identical(reopened.restore(abstract(make_state())).state, make_state(2))


# -- damage -----------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
    path.write_bytes(content or b"x")


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] if content else b"x")


@pytest.mark.parametrize("damage", [flip, truncate, os.unlink])
def test_damage_to_any_file_is_noticed_and_the_step_before_is_used(
    two_steps: Checkpoints, tmp_path: Path, damage: Callable, caplog: pytest.LogCaptureFixture
):
    files = [p.relative_to(two_steps.directory) for p in (two_steps.directory / "2").rglob("*") if p.is_file()]
    assert {"manifest.json", "commit_success.txt", "_CHECKPOINT_METADATA"} <= {p.name for p in files}
    for i, file in enumerate(files):
        copy = Path(shutil.copytree(two_steps.directory, tmp_path / f"copy{i}"))
        damage(copy / file)
        caplog.clear()
        read = load(copy)  # another process's view: passes the step over and leaves it alone
        assert read.step == 1 and (copy / "2").is_dir()
        restored = Checkpoints(copy).restore(abstract(make_state()))
        assert restored.step == 1 and restored.metadata == {"data": "one"}
        assert_identical(restored.state, make_state(1))
        assert sorted(p.name for p in copy.iterdir()) == ["1", "2.corrupt"]
        passed_over, renamed = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert str(copy / file) in passed_over and "step 2 was passed over, using step 1" in passed_over
        assert str(copy / file) in renamed and "step 2 was renamed 2.corrupt, using step 1" in renamed


def test_every_byte_of_the_manifest_is_protected(two_steps: Checkpoints):
    path = two_steps.directory / "2" / manifest.NAME
    content = path.read_bytes()
    for i in range(0, len(content), 7):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        with pytest.raises(manifest.Damaged):
            manifest.read(path.parent)


def test_no_checkpoint_is_left_when_all_are_damaged(two_steps: Checkpoints):
    flip(next((two_steps.directory / "1" / "state").rglob("_METADATA")))
    (two_steps.directory / "2" / manifest.NAME).unlink()
    with pytest.raises(NoCheckpoint, match=r"2/manifest.json: is missing; step 2 was renamed 2.corrupt, and no other"):
        two_steps.restore(abstract(make_state()))
    assert sorted(p.name for p in two_steps.directory.iterdir()) == ["1.corrupt", "2.corrupt"]
    two_steps.save(2, make_state(2))
    (two_steps.directory / "2" / manifest.NAME).unlink()
    with pytest.raises(NoCheckpoint):
        two_steps.restore(abstract(make_state()))
    assert (two_steps.directory / "2.corrupt.1").is_dir()


def test_a_pipe_in_place_of_a_file_is_damage_and_is_not_waited_for(two_steps: Checkpoints):
    for step, name in ((2, manifest.NAME), (1, "commit_success.txt")):
        path = next((two_steps.directory / str(step)).rglob(name))
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(AllDamaged, match=r"2/manifest.json: is no regular file; step 2 was renamed 2.corrupt, and no"):
        two_steps.restore(abstract(make_state()))
    assert sorted(p.name for p in two_steps.directory.iterdir()) == ["1.corrupt", "2.corrupt"]


def test_a_step_that_was_asked_for_is_not_replaced_by_another(two_steps: Checkpoints):
    (two_steps.directory / "2" / manifest.NAME).unlink()
    with pytest.raises(NoCheckpoint, match=r"is missing; step 2 was renamed 2.corrupt: choose from \[1\]"):
        two_steps.restore(abstract(make_state()), step=2)


def test_a_checkpoint_that_cannot_be_read_just_now_is_not_taken_for_damaged(
    two_steps: Checkpoints, monkeypatch: pytest.MonkeyPatch
):
    def refuse(path: Path) -> manifest.Manifest:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path / "d"))

    monkeypatch.setattr(manifest, "verify", refuse)
    with pytest.raises(ConfigError, match=r"2/d: cannot be read \(Permission denied\)"):
        two_steps.restore(abstract(make_state()))
    assert two_steps.steps() == [1, 2]


def test_manifest_of_another_format_is_refused_and_kept(two_steps: Checkpoints, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(manifest, "FORMAT", manifest.FORMAT + 1)
    with pytest.raises(ConfigError, match="has format 1, not 2"):
        two_steps.restore(abstract(make_state()))
    assert two_steps.steps() == [1, 2]


# -- what does not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(params=s.params | {"embed": jnp.zeros((16, 9))}),
         r"^params/embed: is float32\[16,8\] in .*/2 but float32\[16,9\] in this run: "),
        (lambda s: s._replace(params=s.params | {"embed": jnp.zeros((16, 8), jnp.float16)}),
         r"^params/embed: is float32\[16,8\] in .*/2 but float16\[16,8\] in this run: "),
        (lambda s: s._replace(params=s.params | {"large": jnp.zeros((600, 512), jnp.bfloat16)}),
         r"^params/large: is float32\[600,512\] in .*/2 but bfloat16\[600,512\]"),
        (lambda s: s._replace(params=s.params | {"embedd": jnp.zeros(3)}),
         r"^params/embedd: is not in .*/2 \(it has params/embed\): "),
        (lambda s: s._replace(params={k: v for k, v in s.params.items() if k != "embed"}),
         r"^params/embed: is in .*/2 but not in this run: "),
        (lambda s: s._replace(order=jax.ShapeDtypeStruct((5,), np.int64)),
         r"^order: is int64\[5\], which jax would narrow: set jax_enable_x64 or restore it as numpy$"),
    ],
)  # fmt: skip
def test_another_model_is_refused_by_the_name_of_the_leaf(two_steps: Checkpoints, change: Callable, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        two_steps.restore(change(abstract(make_state())))
    assert not isinstance(caught.value, NoCheckpoint) and two_steps.steps() == [1, 2]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"n": 3}}, "a/n: is int, not an array"),
        ({"a": np.array(["x"])}, "a: has dtype <U1, which is no number"),
        ({"key": jax.random.key(0)}, "key: is a typed random key: save jax.random.key_data of it"),
        ({"a.b": np.ones(1), "a": {"b": np.zeros(1)}}, "cannot be told from leaf"),
        ({"a/b": np.ones(1), "a": {"b": np.zeros(1)}}, "a/b: cannot be told from leaf a/b"),
        (np.ones(3), "state: has no named leaves"),
        ({}, "state: has no named leaves"),
    ],
)
def test_what_cannot_be_saved_is_refused_at_once(tmp_path: Path, state: Any, message: str):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ConfigError, match=message):
        checkpoints.save(1, state)
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_are_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for make, message in (
        (lambda: Checkpoints(tmp_path, keep=0), "keep: 0 checkpoints would keep nothing"),
        (lambda: Checkpoints(tmp_path, keep_every=0), "keep_every: 0 is no interval"),
        (lambda: Checkpoints(tmp_path / "file"), r"file: cannot be made \(File exists\)"),
        (lambda: Checkpoints(tmp_path / "file" / "x"), r"cannot be made \(Not a directory\)"),
        (lambda: Checkpoints(tmp_path).save(-1, {"x": np.ones(1)}), "step: -1 is negative"),
        (lambda: Checkpoints(tmp_path).save(1, {"x": np.ones(1)}, {"f": print}), "metadata: cannot be written as JSON"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


# -- parts, and other runs' checkpoints -------------------------------------------------------------------------


def test_parameters_are_read_as_numpy_without_an_abstract_state(tmp_path: Path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(4, make_state(4))
    params = load_params(tmp_path)
    expected = make_state(4).params
    assert sorted(params) == ["embed", "large", "layers"] and sorted(params["layers"]) == ["0", "1"]
    assert_identical(params["layers"]["1"]["w"], np.asarray(expected["layers"][1]["w"]))
    assert_identical(params["large"], np.asarray(expected["large"]))
    assert params["large"].flags.writeable and params["embed"].flags.writeable
    assert params["embed"].base is None, "a small leaf must not keep the whole packed array alive"
    assert load(tmp_path / "checkpoints", subtree="step").state == 4
    assert "0" in load(tmp_path / "checkpoints").state["opt_state"]
    with pytest.raises(ConfigError, match=r"parms: is not in .* \(it has params\)"):
        load(tmp_path / "checkpoints", subtree="parms")


def test_run_starts_from_the_parameters_of_another(two_steps: Checkpoints):
    expected = make_state(2).params
    before = sorted(two_steps.directory.rglob("*"))
    assert_identical(load_like(two_steps.directory, abstract(expected), subtree="params").state, expected)
    assert sorted(two_steps.directory.rglob("*")) == before
    assert_identical(two_steps.restore(abstract(expected), subtree="params").state, expected)
    assert_identical(two_steps.restore(abstract(expected["embed"]), subtree="params/embed").state, expected["embed"])
    with pytest.raises(ConfigError, match="^params/large: is in .* but not in this run"):
        two_steps.restore(abstract({k: v for k, v in expected.items() if k != "large"}), subtree="params")


# -- meshes -----------------------------------------------------------------------------------------------------


def sharding(shape: tuple[int, ...], *spec: str | None) -> jax.sharding.NamedSharding:
    size = int(np.prod(shape))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:size]).reshape(shape), ("data", "tensor"))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))


def test_state_saved_on_one_mesh_is_restored_on_others(tmp_path: Path):
    values = {
        "large": np.arange(512 * 1024, dtype=np.float32).reshape(512, 1024),
        "small": np.arange(64, dtype=np.int32).reshape(8, 8),
        "replicated": np.arange(8).astype(ml_dtypes.bfloat16),
    }
    specs = {"large": ("data", "tensor"), "small": (None, "data"), "replicated": ()}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {name: jax.device_put(x, sharding((8, 1), *specs[name])) for name, x in values.items()})
        for shape in ((4, 2), (1, 8), (2, 1), (1, 1)):
            wanted = {name: sharding(shape, *specs[name]) for name in values}
            target = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=wanted[n]) for n, x in values.items()}
            restored = checkpoints.restore(target).state
            assert {name: x.sharding for name, x in restored.items()} == wanted
            assert_identical({name: np.asarray(x) for name, x in restored.items()}, values)
        assert_identical(checkpoints.restore(values).state, values)
        assert_identical(checkpoints.restore(abstract(jax.tree.map(jnp.asarray, values))).state["large"],
                         jnp.asarray(values["large"]))  # fmt: skip


def test_leaf_that_does_not_divide_over_the_mesh_is_named(tmp_path: Path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": np.ones((6, 3), np.float32)})
        target = {"x": jax.ShapeDtypeStruct((6, 3), np.float32, sharding=sharding((4, 2), "data"))}
        with pytest.raises(ConfigError, match=r"^x: float32\[6,3\] does not divide over the mesh"):
            checkpoints.restore(target)
        assert checkpoints.steps() == [1]


# -- a full disk ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def save_and_wait(checkpoints: Checkpoints, step: int, state: Any) -> None:
    checkpoints.save(step, state)
    checkpoints.wait()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", ["small", "large"])
def test_full_disk_is_reported_and_costs_no_step(small_disk: Path, asynchronous: bool, kind: str):
    per_leaf = 1 << 19 if kind == "small" else 2 << 20
    state = {f"w{i}": np.full(per_leaf, i, np.uint8) for i in range((2 << 20) // per_leaf)}
    with Checkpoints(small_disk / "run", keep=1, asynchronous=asynchronous) as checkpoints:
        checkpoints.save(1, state, {"n": 1})
        checkpoints.wait()
        free = shutil.disk_usage(small_disk).free
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(free - (2 << 20) - 8192))  # room for the arrays, not for the files around them
        for _ in range(2):  # full once is not broken for ever
            with pytest.raises(DiskFull, match=r"run: disk full: step 2 needs 2,097,152 bytes and .* step 1 is safe"):
                save_and_wait(checkpoints, 2, state)
        assert [p.name for p in checkpoints.directory.iterdir()] == ["1"]
        assert_identical(load(checkpoints.directory).state, state)
        ballast.unlink()
        save_and_wait(checkpoints, 2, state)
        assert checkpoints.steps() == [2]
        assert_identical(checkpoints.restore(state).state, state)


def test_save_that_cannot_fit_is_refused_before_anything_is_written(small_disk: Path):
    with Checkpoints(small_disk) as checkpoints:
        with pytest.raises(DiskFull, match=r"step 3 needs 9,000,000 bytes and [\d,]+ are free; no step is saved yet"):
            checkpoints.save(3, {"w": np.zeros(9_000_000, np.uint8)})
        assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_disk_that_fills_up_under_the_manifest_is_reported(
    two_steps: Checkpoints, monkeypatch: pytest.MonkeyPatch, code: int
):
    def fill(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(manifest, "write", fill)
    with pytest.raises(DiskFull, match="step 3 needs .* step 2 is safe"):
        two_steps.save(3, make_state(3))
    monkeypatch.undo()
    assert sorted(p.name for p in two_steps.directory.iterdir()) == ["1", "2"]


def test_other_errors_of_a_save_say_what_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("no more luck")

    monkeypatch.setattr(manifest, "write", fail)
    with pytest.raises(RuntimeError, match="no more luck") as caught, Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, {"x": np.ones(2)})
    assert "while saving step 3 in" in caught.value.__notes__[0]


def test_error_of_the_training_loop_is_not_hidden_by_one_of_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(manifest, "write", lambda *_: 1 / 0)

    def train() -> None:
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(3, {"x": np.ones(2)})
            raise KeyError("loop")

    with pytest.raises(KeyError, match="loop"):
        train()


# -- the files --------------------------------------------------------------------------------------------------


def test_manifest_is_plain_json_that_lists_leaves_and_files(two_steps: Checkpoints):
    content = json.loads((two_steps.directory / "2" / "manifest.json").read_text())["manifest"]
    assert content["step"] == 2 and content["metadata"] == {"data": "two"}
    assert content["leaves"]["params/large"] == {"shape": [600, 512], "dtype": "float32", "offset": None}
    assert content["leaves"]["params/layers/0/w"]["dtype"] == "bfloat16"
    assert "_CHECKPOINT_METADATA" in content["files"]


def test_many_small_leaves_cost_no_more_files_than_one(tmp_path: Path):
    for name, count in (("one", 1), ("many", 300)):
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(0, {f"w{i}": np.full(99, i, np.int32) for i in range(count)})
    one, many = (sum(p.is_file() for p in (tmp_path / name).rglob("*")) for name in ("one", "many"))
    assert many <= one
    assert checkpoint.load(tmp_path / "many").state["w299"][0] == 299
