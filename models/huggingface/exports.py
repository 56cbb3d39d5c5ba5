"""export_model: config, params and tokenizer -> a folder that `transformers` and `import_model` read."""

from __future__ import annotations

import os
import shutil
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import tokenizers

from models.config import ModelConfig
from models.errors import require
from models.huggingface.config import write_config
from models.huggingface.family import Family
from models.huggingface.files import write_json
from models.huggingface.tensors import INDEX, SINGLE, Piece, joined, leaf, pieces_of
from models.transformer import Params, weights
from models.weight import Stacked, Weight, walk

# path of our weight, its place in the stack (where it is of several layers), and what one tensor holds of it
Slot = tuple[tuple[str, ...], int | None, Piece]
SHARD_BYTES = 5 * 10**9  # of one file of an export


class SavedTokenizer(Protocol):
    """What an export asks of a tokenizer."""

    @property
    def end_of_document(self) -> int:
        """The id that ends a text."""

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json at `path`, and what belongs to it beside it."""


def export_model(
    folder: str | Path,
    config: ModelConfig,
    params: Params,
    tokenizer: SavedTokenizer | None = None,
    *,
    model_type: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a folder that `transformers` and `import_model` read; it appears whole, or not at all.

    The tensors have the dtype of `config.param_dtype`, gates float32; each file holds at most `shard_bytes` of them (or
    one tensor). model_type: the family to write; None takes the first that can express the config. All of `params` must
    be addressable from this host.

    Raises:
      ConfigError: a field that the family cannot express, params of another config, a tokenizer that cannot be written,
        or a folder that is not empty.
    """
    family, written = write_config(config, model_type)
    for place, weight in walk(weights(config)):
        shape, name = np.shape(leaf(params, place)), "/".join(place)
        problem = f"{name} has shape {list(shape)}, where the config declares {list(weight.shape)}"
        require(shape == weight.shape, "params", problem, "give the config that belongs to them")
    path = Path(folder)
    empty = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    require(empty, str(folder), "is not empty", "give a new folder")
    fix = "give None, and write the tokenizer yourself"
    require(tokenizer is None or hasattr(tokenizer, "save"), "tokenizer", "cannot be written as tokenizer.json", fix)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        keys = _write_tokenizer(partial, tokenizer)
        _write_tensors(partial, config, family, params, shard_bytes)
        # some families' own padding token lies beyond a smaller vocabulary
        written |= {"torch_dtype": config.param_dtype, "pad_token_id": None}
        write_json(partial / "config.json", written | keys)
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_tensors(path: Path, config: ModelConfig, family: Family, params: Params, shard_bytes: int) -> None:
    """Write the safetensors, and where they are several their index."""
    shards = _shards(config.resolved(), family, shard_bytes)
    n = len(shards)
    files = [SINGLE] if n == 1 else [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
    for file, shard in zip(files, shards):
        host = lru_cache(maxsize=2)(partial(_host, params, config))  # once for all parts of a fused weight
        tensors = {
            name: joined([(piece, host(place, at, piece.weight)) for place, at, piece in slots])
            for name, slots in shard.items()
        }
        safetensors.numpy.save_file(tensors, path / file, metadata={"format": "pt"})
    if n > 1:
        total = sum(_bytes(config, slots) for shard in shards for slots in shard.values())
        weight_map = {name: file for file, shard in zip(files, shards) for name in shard}
        write_json(path / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shards(config: ModelConfig, family: Family, shard_bytes: int) -> list[dict[str, list[Slot]]]:
    """Every tensor of an export by name, file by file; `config` is resolved."""
    tensors: dict[str, list[Slot]] = {}
    for place, weight in walk(weights(config)):
        for at, pieces in enumerate(pieces_of(config, family, place, weight)):
            for piece in pieces:
                slot = place, at if isinstance(weight, Stacked) else None, piece
                tensors.setdefault(piece.name, []).append(slot)
    shards: list[dict[str, list[Slot]]] = [{}]
    size = 0
    for name, slots in tensors.items():
        more = _bytes(config, slots)
        if shards[-1] and size + more > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = slots
        size += more
    return shards


def _bytes(config: ModelConfig, slots: list[Slot]) -> int:
    """Bytes of one tensor."""
    return sum(piece.size * _dtype(config, piece.weight).itemsize for *_, piece in slots)


def _dtype(config: ModelConfig, weight: Weight) -> np.dtype:
    """What a weight is written in: `param_dtype`, or float32 where it is that in every model."""
    return jnp.dtype("float32" if weight.exact else config.param_dtype)


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
        write_json(folder / "tokenizer_config.json", settings)
    return {"eos_token_id": ends if len(ends) > 1 else ends[0]}


def _host(params: Params, config: ModelConfig, path: tuple[str, ...], at: int | None, weight: Weight) -> np.ndarray:
    """A parameter, or one layer of it, on this host, as it is written."""
    value = leaf(params, path)
    return np.asarray(value if at is None else value[at], _dtype(config, weight))
