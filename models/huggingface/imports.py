"""import_model: the folder of a Hugging Face model -> config, params, tokenizer.

Weights are read one at a time and placed as they come, and of each a host reads the parts that its own devices hold:
no host holds the model. Names and shapes follow from the weight declarations and from the family.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from models.config import ModelConfig
from models.errors import ConfigError, require
from models.huggingface.config import family_of, read_config
from models.huggingface.family import Family
from models.huggingface.files import read_json
from models.huggingface.tensors import AGAIN, SINGLE, Checkpoint, Piece, leaf, pieces_of
from models.huggingface.tokenizer import CheckpointTokenizer, load_checkpoint_tokenizer
from models.limits import check_sizes
from models.sharding import DEFAULT_RULES, Rules, weight_shardings
from models.transformer import Params, weights
from models.weight import Stacked, Weight, walk

Dtype = Literal["float32", "bfloat16"]
# tensors that some checkpoints carry and no computation needs: rotary tables and masks of older releases
UNUSED = re.compile(r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias)$|^mtp\.")  # mtp: guesses further tokens
ROWS = 4096  # of a table that are compared at once
CLASSIFIER = re.compile(r"^(score|classifier)\.(weight|bias)$")
VISION = re.compile(r"^(model\.)?(vision_tower|multi_modal_projector)\.")


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
    trunk: bool = False,
) -> tuple[ModelConfig, Params]:
    """`import_model` of a folder that need not hold a tokenizer.

    trunk: of a model that ends in a classifier (ForSequenceClassification, ForTokenClassification): all but that.
    """
    path = _existing(folder)
    family, config = _config(path)
    config = replace(config, dtype=dtype, scan_layers=scan_layers)
    if trunk:  # it has no head over the vocabulary
        config = replace(config, tied_embeddings=True)
    with Checkpoint(path) as checkpoint:
        prefix = _prefix(family, checkpoint)
        table = family.tensors("tokens", 0, prefix)[0]
        kept: Dtype = "bfloat16" if checkpoint.has(table) and checkpoint.dtype(table) == "BF16" else "float32"
        config = replace(config, param_dtype=param_dtype or kept)
        slots = {path: pieces_of(config, family, path, weight, prefix) for path, weight in walk(weights(config))}
        every = [piece for layers in slots.values() for pieces in layers for piece in pieces]
        _check(checkpoint, config, [_beyond(family, config, prefix), *([CLASSIFIER] if trunk else [])], every)
        shardings = weight_shardings(weights(config), rules, mesh) if mesh is not None else None
        params: Params = {}
        for place, weight in walk(weights(config)):
            sharding = SingleDeviceSharding(jax.local_devices()[0]) if shardings is None else leaf(shardings, place)
            dtype_of = "float32" if weight.exact else config.param_dtype
            _set(params, place, _place(checkpoint, weight, slots[place], sharding, jnp.dtype(dtype_of)))
    return config, params


def import_classifier(folder: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """(weight [labels, d_model], bias [labels]) float32 of the classifier that a folder's model ends in.

    Raises:
      ConfigError: it has none.
    """
    with Checkpoint(_existing(folder)) as checkpoint:
        names = [name for name in checkpoint if CLASSIFIER.match(name) and name.endswith("weight")]
        fix = "give a model for sequence or token classification, of one linear layer"
        require(len(names) == 1, str(folder), "has no tensor score.weight or classifier.weight", fix)
        weight, bias = checkpoint.read(names[0]), names[0].replace("weight", "bias")
        shift = checkpoint.read(bias) if checkpoint.has(bias) else np.zeros(len(weight))
    return np.asarray(weight, np.float32), np.asarray(shift, np.float32)


def import_config(folder: str | Path) -> ModelConfig:
    """The model of a local Hugging Face folder, without reading its weights."""
    return _config(_existing(folder))[1]


def _config(path: Path) -> tuple[Family, ModelConfig]:
    file = path / "config.json"
    family, text = family_of(read_json(file), str(file))
    check_sizes(text, str(file))
    return family, read_config(family, text, str(file))


def _existing(folder: str | Path) -> Path:
    require(Path(folder).is_dir(), str(folder), "is no directory", "give the folder of a Hugging Face model")
    return Path(folder)


def _prefix(family: Family, checkpoint: Checkpoint) -> str:
    """What the base model's tensors start with here: saved alone, or inside a model that also sees."""
    options = (family.prefix, "", f"language_model.{family.prefix}", "model.language_model.")
    return next((o for o in options if checkpoint.has(family.tensors("tokens", 0, o)[0])), family.prefix)


def _check(checkpoint: Checkpoint, config: ModelConfig, beyond: list[re.Pattern[str]], pieces: list[Piece]) -> None:
    """ConfigError when the files' headers do not hold exactly the tensors of the config, and those `beyond` it."""
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
        if tied:
            _check_tied(checkpoint, name, pieces[0].name)
        unread = UNUSED.search(name) or VISION.search(name) or any(pattern.match(name) for pattern in beyond)
        if name not in known and not (tied or unread):
            problem = f"tensor {name} has no place in this model"
            raise ConfigError(checkpoint.file(name), problem, "use the config.json that belongs to these tensors")


def _beyond(family: Family, config: ModelConfig, prefix: str) -> re.Pattern[str]:
    """The tensors of layers behind the last, where the family leaves them out."""
    if family.beyond is None:
        return re.compile(r"(?!)")
    last = "|".join(map(str, range(config.n_layers)))
    return re.compile(rf"{re.escape(prefix + family.beyond)}(?!(?:{last})\.)\d+\.")


def _check_tied(checkpoint: Checkpoint, head: str, table: str) -> None:
    """ConfigError when a head that config.json ties to the table of embeddings is another matrix."""
    same = checkpoint.shape(head) == checkpoint.shape(table)
    n = checkpoint.shape(table)[0]
    blocks = [(slice(i, min(i + ROWS, n)), slice(None)) for i in range(0, n, ROWS)]
    same = same and all(
        np.array_equal(checkpoint.read(head, *block), checkpoint.read(table, *block)) for block in blocks
    )
    problem = f"tensor {head} differs from {table}, to which config.json ties it"
    fix = "set tie_word_embeddings to false in config.json, or remove the tensor"
    require(same, checkpoint.file(head), problem, fix)


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


def _set(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
