"""The leaves of a state on their way to and from orbax: named by path, small ones packed, each checked and placed.

Orbax spends about a millisecond per leaf, which would make the checkpoint of a small model cost more than the training
between two of them. So leaves of up to PACK_BYTES share one array on disk, and the manifest says where each one is.
Orbax also casts dtypes silently and joins keys with ".", so names, shapes and dtypes are checked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from models.errors import ConfigError, nearest, require
from scaling.train.manifest import Leaf, Manifest

PACK_BYTES = 1 << 20  # where copying a leaf costs as much as orbax's bookkeeping for it


def context() -> ocp.Context:
    """Orbax's settings for our checkpoints; reusable, but a fresh one per call keeps threads apart."""
    settings = ocp.Context()
    settings.array.saving.use_compression = False  # zstd takes 5 times as long and saves 8 % on float32 weights
    settings.array.saving.enable_write_sharding_file = False  # whoever restores says where arrays go
    settings.array.saving.min_slice_bytes_for_replica_parallel = PACK_BYTES  # a slice costs a program of its own
    settings.pytree.loading.partial_load = True
    return settings


def named(tree: Any) -> dict[str, Any]:
    """Leaves by path ("params/layer_0/w"), in tree order; ConfigError for what is no array and for ambiguous names."""
    leaves: dict[str, Any] = {}
    seen: dict[str, str] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise ConfigError(name or "state", f"is {type(leaf).__name__}, not an array", "wrap it in numpy.asarray")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ConfigError(name, "is a typed random key", "save jax.random.key_data of it")
        if not (jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == np.bool_):
            raise ConfigError(name, f"has dtype {leaf.dtype}, which is no number", "put it into the metadata")
        twin = seen.setdefault(name.replace(".", "/"), name)
        if name in leaves or twin != name:
            raise ConfigError(name, f"cannot be told from leaf {twin}", "use keys without '/' and '.'")
        leaves[name] = leaf
    return leaves


def pack(leaves: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Leaf]]:
    """The tree that orbax writes, {"small": uint8 [bytes], "large": nested leaves}, and where each leaf is in it.

    Small leaves are copied before this returns; large ones are still the caller's.
    """
    require(bool(leaves) and "" not in leaves, "state", "has no named leaves", "save a dict or NamedTuple of arrays")
    whole = [name for name, leaf in leaves.items() if _nbytes(leaf) <= PACK_BYTES and _is_whole(leaf)]
    small = {name: _native(x) for name, x in zip(whole, jax.device_get([leaves[name] for name in whole]))}
    buffer = np.zeros(max(1, sum(x.nbytes for x in small.values())), np.uint8)
    table: dict[str, Leaf] = {}
    large: dict[str, Any] = {}
    offset = 0
    for name, leaf in leaves.items():
        if name in small:
            x = small[name]
            buffer[offset : offset + x.nbytes] = x.reshape(-1).view(np.uint8)
            table[name] = Leaf(x.shape, x.dtype.name, offset)
            offset += x.nbytes
        else:
            # Of several processes orbax takes global arrays, and numpy arrays from process 0.
            local = jax.process_count() > 1 and _is_whole(leaf)
            large[name] = leaf if isinstance(leaf, jax.Array) and not local else _native(leaf)
            table[name] = Leaf(tuple(leaf.shape), leaf.dtype.name, None)
    return ({"small": buffer} if small else {}) | ({"large": nest(large)} if large else {}), table


def read(path: Path, found: Manifest, wanted: Mapping[str, jax.sharding.Sharding | None]) -> dict[str, Any]:
    """Leaves of the step in `path` by name, each onto its sharding, or as a numpy array where that is None."""
    small = [name for name in wanted if found.leaves[name].offset is not None]
    large = [name for name in wanted if found.leaves[name].offset is None]
    request: dict[str, Any] = {}
    if large:
        request["large"] = nest({name: _abstract(found.leaves[name], wanted[name]) for name in large})
    if small:
        packed = sum(leaf.nbytes for leaf in found.leaves.values() if leaf.offset is not None)
        request["small"] = _abstract(Leaf((max(1, packed),), "uint8", None), None)
    with context():
        tree = ocp.load(path, request)
    values = {name: _descend(tree["large"], name) for name in large}
    for name in small:
        host = _unpack(tree["small"], found.leaves[name])
        sharding = wanted[name]
        values[name] = (
            host if sharding is None else jax.make_array_from_callback(host.shape, sharding, host.__getitem__)
        )
    return values


def read_like(path: Path, found: Manifest, abstract_state: Any, subtree: str) -> Any:
    """The part `subtree` ("" for all) of the step in `path`, in the form of abstract_state; nothing is cast."""
    targets = {_join(subtree, name): leaf for name, leaf in named(abstract_state).items()}
    _check(path, found, targets, subtree)
    values = read(path, found, {name: _sharding(target) for name, target in targets.items()})
    # Popped one by one, so that the host never holds the state twice.
    state = [jnp.array(values.pop(n)) if _on_default_device(x) else values.pop(n) for n, x in targets.items()]
    return jax.tree.unflatten(jax.tree.structure(abstract_state), state)


def read_nested(path: Path, found: Manifest, subtree: str) -> Any:
    """The part `subtree` ("" for all) of the step in `path` as nested dicts of numpy arrays."""
    names = [name for name in found.leaves if _inside(name, subtree)]
    if not names:
        raise _no_such_leaf(subtree, path, found)
    values = read(path, found, dict.fromkeys(names))
    return nest({name[len(subtree) :].removeprefix("/"): value for name, value in values.items()})


def below(table: Mapping[str, Leaf], subtree: str) -> dict[str, Leaf]:
    """The entries of `table` inside `subtree`, by their path there."""
    return {name[len(subtree) :].removeprefix("/"): leaf for name, leaf in table.items() if _inside(name, subtree)}


def nest(leaves: Mapping[str, Any]) -> Any:
    """{"a/b": x} -> {"a": {"b": x}}; a leaf called "" stands for itself."""
    if "" in leaves:
        return leaves[""]
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _descend(tree: Any, name: str) -> Any:
    for key in name.split("/"):
        tree = tree[key]
    return tree


def _inside(name: str, subtree: str) -> bool:
    return not subtree or name == subtree or name.startswith(subtree + "/")


def _join(subtree: str, name: str) -> str:
    return f"{subtree}/{name}" if subtree and name else subtree or name


def _nbytes(leaf: Any) -> int:
    return int(np.prod(leaf.shape, dtype=np.int64)) * leaf.dtype.itemsize


def _is_whole(leaf: Any) -> bool:
    """Whether this process holds all of the leaf."""
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def _native(leaf: Any) -> np.ndarray:
    """As a contiguous numpy array of this machine's byte order."""
    x = np.asarray(leaf, order="C")
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def _unpack(buffer: np.ndarray, leaf: Leaf) -> np.ndarray:
    """A leaf of the packed array, copied so that it does not keep all of that alive."""
    dtype = np.dtype(leaf.dtype)
    flat = np.frombuffer(buffer, dtype, leaf.nbytes // dtype.itemsize, leaf.offset or 0)
    return flat.reshape(leaf.shape).copy()


def _abstract(leaf: Leaf, sharding: jax.sharding.Sharding | None) -> Any:
    """What tells orbax how to restore a leaf."""
    if sharding is None:
        return np.broadcast_to(np.zeros((), np.dtype(leaf.dtype)), leaf.shape)  # its shape and dtype without its memory
    return jax.ShapeDtypeStruct(leaf.shape, np.dtype(leaf.dtype), sharding=sharding)


def _sharding(target: Any) -> jax.sharding.Sharding | None:
    """Where orbax restores a leaf to; None means a numpy array."""
    return None if _on_default_device(target) else getattr(target, "sharding", None)


def _on_default_device(target: Any) -> bool:
    """Whether a leaf of the abstract state asks for a jax array but for no place: jit may then move it to any mesh."""
    if isinstance(target, jax.Array):
        return not target.committed
    return not isinstance(target, np.ndarray | np.generic) and getattr(target, "sharding", None) is None


def _check(path: Path, found: Manifest, targets: dict[str, Any], subtree: str) -> None:
    """Refuse a checkpoint whose tree, shapes or dtypes are not those asked for."""
    fix = "use the config it was saved with, or another directory"
    for name, target in targets.items():
        if name not in found.leaves:
            raise _no_such_leaf(name, path, found)
        saved, wanted = found.leaves[name], Leaf(tuple(target.shape), target.dtype.name, None)
        if (saved.shape, saved.dtype) != (wanted.shape, wanted.dtype):
            raise ConfigError(name, f"is {saved} in {path} but {wanted} in this run", fix)
        is_numpy = isinstance(target, np.ndarray | np.generic)
        if not is_numpy and jax.dtypes.canonicalize_dtype(target.dtype) != target.dtype:
            raise ConfigError(name, f"is {saved}, which jax would narrow", "set jax_enable_x64 or restore it as numpy")
        try:
            if (sharding := _sharding(target)) is not None:
                sharding.shard_shape(saved.shape)
        except ValueError as error:
            raise ConfigError(name, f"{saved} does not divide over the mesh ({error})", "change the mesh") from None
    if surplus := [name for name in found.leaves if _inside(name, subtree) and name not in targets]:
        raise ConfigError(surplus[0], f"is in {path} but not in this run", fix)


def _no_such_leaf(name: str, path: Path, found: Manifest) -> ConfigError:
    close = nearest(name, _paths(found.leaves))
    hint = f" (it has {close})" if close else ""
    return ConfigError(name, f"is not in {path}{hint}", "use the config it was saved with, or another directory")


def _paths(names: Iterable[str]) -> set[str]:
    """Leaves and the subtrees they are in."""
    return {"/".join(parts[:i]) for parts in (name.split("/") for name in names) for i in range(1, len(parts) + 1)}
