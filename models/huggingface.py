"""Hugging Face checkpoints in and out: a folder of config.json, safetensors and tokenizer.json <-> config and params.

Weights are read one at a time and placed as they come, and of each a host reads the parts that its own devices hold:
no host holds the model. Names and shapes follow from the weight declarations and from models.huggingface_families.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
import tokenizers
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from models.config import ModelConfig
from models.errors import ConfigError, require
from models.huggingface_families import Family, family_of, read_config, write_config
from models.huggingface_tensors import AGAIN, INDEX, SINGLE, Checkpoint, Piece, pieces_of
from models.huggingface_tokenizer import CheckpointTokenizer, load_checkpoint_tokenizer, read_json
from models.sharding import DEFAULT_RULES, Rules, weight_shardings
from models.transformer import Params, weights
from models.weight import Stacked, Weight, walk

Dtype = Literal["float32", "bfloat16"]
Slot = tuple[tuple[str, ...], int | None, Piece]  # path of our weight, its layer (where it is of all), one tensor
SHARD_BYTES = 5 * 10**9  # of one file of an export
# tensors that some checkpoints carry and no computation needs: rotary tables and masks of older releases
UNUSED = re.compile(r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias)$")
VISION = re.compile(r"^(model\.)?(vision_tower|multi_modal_projector)\.")


class SavedTokenizer(Protocol):
    """What an export asks of a tokenizer."""

    @property
    def end_of_document(self) -> int:
        """The id that ends a text."""

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json at `path`, and what belongs to it beside it."""


def import_model(
    folder: str | Path,
    *,
    dtype: Dtype = "float32",
    param_dtype: Dtype | None = None,
    scan_layers: bool = False,
    mesh: Mesh | None = None,
    rules: Rules = DEFAULT_RULES,
) -> tuple[ModelConfig, Params, CheckpointTokenizer]:
    """A local Hugging Face folder as (config, params, tokenizer).

    dtype: of the computation. param_dtype: of the parameters; None keeps what the files hold (float16 as float32).
    With a mesh every parameter is placed by `rules`, and each process reads the slices of its own devices only; without
    one on the default device.

    Raises:
      ConfigError: an unknown model_type, a missing, extra or misshapen tensor, a damaged or missing file.
    """
    tokenizer = load_checkpoint_tokenizer(_existing(folder))  # first, as it is read in a moment
    config, params = import_weights(
        folder, dtype=dtype, param_dtype=param_dtype, scan_layers=scan_layers, mesh=mesh, rules=rules
    )
    return config, params, tokenizer


def import_weights(
    folder: str | Path,
    *,
    dtype: Dtype = "float32",
    param_dtype: Dtype | None = None,
    scan_layers: bool = False,
    mesh: Mesh | None = None,
    rules: Rules = DEFAULT_RULES,
) -> tuple[ModelConfig, Params]:
    """`import_model` of a folder that need not hold a tokenizer."""
    path = _existing(folder)
    family, config = _config(path)
    config = replace(config, dtype=dtype, scan_layers=scan_layers)
    with Checkpoint(path) as checkpoint:
        prefix = _prefix(family, checkpoint)
        table = prefix + family.prefixed("tokens", 0)[0].removeprefix(family.prefix)
        kept: Dtype = "bfloat16" if checkpoint.has(table) and checkpoint.dtype(table) == "BF16" else "float32"
        config = replace(config, param_dtype=param_dtype or kept)
        slots = {path: pieces_of(config, family, path, weight, prefix) for path, weight in walk(weights(config))}
        _check(checkpoint, config, [piece for layers in slots.values() for pieces in layers for piece in pieces])
        shardings = weight_shardings(weights(config), rules, mesh) if mesh is not None else None
        params: Params = {}
        for place, weight in walk(weights(config)):
            sharding = SingleDeviceSharding(jax.local_devices()[0]) if shardings is None else _leaf(shardings, place)
            _set(params, place, _place(checkpoint, weight, slots[place], sharding, jnp.dtype(config.param_dtype)))
    return config, params


def import_config(folder: str | Path) -> ModelConfig:
    """The model of a local Hugging Face folder, without reading its weights."""
    return _config(_existing(folder))[1]


def _config(path: Path) -> tuple[Family, ModelConfig]:
    file = path / "config.json"
    family, text = family_of(read_json(file), str(file))
    return family, read_config(family, text, str(file))


def _existing(folder: str | Path) -> Path:
    require(Path(folder).is_dir(), str(folder), "is no directory", "give the folder of a Hugging Face model")
    return Path(folder)


def export_model(
    folder: str | Path,
    config: ModelConfig,
    params: Params,
    tokenizer: SavedTokenizer | None = None,
    *,
    model_type: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a folder that `transformers` and `import_model` read; config.json comes last and so marks it complete.

    The tensors keep the dtype of `config.param_dtype`; each file holds at most `shard_bytes` of them (or one tensor).
    model_type: the family to write; None takes the first that can express the config. All of `params` must be
    addressable from this host.

    Raises:
      ConfigError: a field that the family cannot express, params of another config, or a folder that is not empty.
    """
    family, written = write_config(config, model_type)
    for place, weight in walk(weights(config)):
        shape, name = np.shape(_leaf(params, place)), "/".join(place)
        problem = f"{name} has shape {list(shape)}, where the config declares {list(weight.shape)}"
        require(shape == weight.shape, "params", problem, "give the config that belongs to them")
    path = Path(folder)
    empty = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    require(empty, str(folder), "is not empty", "give a new folder")
    path.mkdir(parents=True, exist_ok=True)
    shards = _shards(config.resolved(), family, shard_bytes)
    n = len(shards)
    files = [SINGLE] if n == 1 else [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
    for file, shard in zip(files, shards):
        tensors: dict[str, np.ndarray] = {}
        for (place, layer), slots in itertools.groupby(shard, key=lambda slot: slot[:2]):
            whole = _host(params, place, layer, config)  # once for all parts of a fused weight
            tensors |= {piece.name: piece.take(whole) for _, _, piece in slots}
        safetensors.numpy.save_file(tensors, path / file, metadata={"format": "pt"})
    if n > 1:
        total = jnp.dtype(config.param_dtype).itemsize * sum(piece.size for shard in shards for _, _, piece in shard)
        weight_map = {piece.name: file for file, shard in zip(files, shards) for _, _, piece in shard}
        _write_json(path / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    written["torch_dtype"] = config.param_dtype
    _write_json(path / "config.json", written | _write_tokenizer(path, tokenizer))


def _shards(config: ModelConfig, family: Family, shard_bytes: int) -> list[list[Slot]]:
    """Every tensor of an export, file by file; `config` is resolved."""
    itemsize = jnp.dtype(config.param_dtype).itemsize
    shards: list[list[Slot]] = [[]]
    size = 0
    for place, weight in walk(weights(config)):
        for layer, pieces in enumerate(pieces_of(config, family, place, weight, family.prefix)):
            for piece in pieces:
                if shards[-1] and size + piece.size * itemsize > shard_bytes:
                    shards.append([])
                    size = 0
                shards[-1].append((place, layer if isinstance(weight, Stacked) else None, piece))
                size += piece.size * itemsize
    return shards


def _write_tokenizer(folder: Path, tokenizer: SavedTokenizer | None) -> dict[str, Any]:
    """Write the tokenizer's files; the keys of config.json that name its special tokens."""
    if tokenizer is None:
        return {}
    file = folder / "tokenizer.json"
    tokenizer.save(file)
    ends = list(getattr(tokenizer, "ends", ())) or [tokenizer.end_of_document]
    if not (folder / "tokenizer_config.json").exists():
        name = tokenizers.Tokenizer.from_file(str(file)).id_to_token(ends[0])
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": name}
        _write_json(folder / "tokenizer_config.json", settings)
    return {"eos_token_id": ends if len(ends) > 1 else ends[0]}


def _prefix(family: Family, checkpoint: Checkpoint) -> str:
    """What the base model's tensors start with here: saved alone, or inside a model that also sees."""
    table = family.prefixed("tokens", 0)[0].removeprefix(family.prefix)
    options = (family.prefix, "", f"language_model.{family.prefix}", "model.language_model.")
    return next((option for option in options if checkpoint.has(option + table)), family.prefix)


def _check(checkpoint: Checkpoint, config: ModelConfig, pieces: list[Piece]) -> None:
    """ConfigError when the files' headers do not hold exactly the tensors of the config."""
    for piece in pieces:
        if not checkpoint.has(piece.name):
            where = checkpoint.file(next(iter(checkpoint))) if any(checkpoint) else SINGLE
            raise ConfigError(where, f"tensor {piece.name} is missing", AGAIN)
        shape, file = checkpoint.shape(piece.name), checkpoint.file(piece.name)
        problem = f"tensor {piece.name} has shape {list(shape)}, where config.json asks for {list(piece.shape)}"
        require(shape == piece.shape, file, problem, "use the config.json that belongs to these tensors")
        kind = checkpoint.dtype(piece.name)
        problem = f"tensor {piece.name} is of type {kind}"
        require(kind in ("F32", "F16", "BF16", "F64"), file, problem, "use a checkpoint that is not quantised")
    known = {piece.name for piece in pieces}
    for name in checkpoint:
        tied = config.tied_embeddings and name.endswith("lm_head.weight")
        if name not in known and not (tied or UNUSED.search(name) or VISION.search(name)):
            problem = f"tensor {name} has no place in this model"
            raise ConfigError(checkpoint.file(name), problem, "use the config.json that belongs to these tensors")


def _place(
    checkpoint: Checkpoint, weight: Weight, slots: list[list[Piece]], sharding: Sharding, dtype: Any
) -> jax.Array:
    """One weight on its devices. The host reads and holds what its own devices will hold of it, once for all copies."""
    devices = sharding.addressable_devices_indices_map(weight.shape)
    spans = {d: tuple(s.indices(n)[:2] for s, n in zip(i or (), weight.shape)) for d, i in devices.items()}
    shards = {span: np.empty([stop - start for start, stop in span], dtype) for span in set(spans.values())}
    for span, shard in shards.items():
        if isinstance(weight, Stacked):
            layers = [(slots[layer], shard[layer - span[0][0]], span[1:]) for layer in range(*span[0])]
        else:
            layers = [(slots[0], shard, span)]
        for pieces, part, inner in layers:
            for piece in pieces:
                piece.fill(part, inner, checkpoint.read)
    arrays = [jax.device_put(shards[span], device) for device, span in spans.items()]
    return jax.make_array_from_single_device_arrays(weight.shape, sharding, arrays)


def _leaf(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        require(name in tree, "params", f"{'/'.join(path)} is missing", "give the config that belongs to them")
        tree = tree[name]
    return tree


def _set(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _host(params: Params, path: tuple[str, ...], layer: int | None, config: ModelConfig) -> np.ndarray:
    """A parameter, or one layer of it, on this host in `param_dtype`."""
    value = _leaf(params, path)
    return np.asarray(value if layer is None else value[layer], jnp.dtype(config.param_dtype))


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
