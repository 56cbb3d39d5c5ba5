"""The tensors of a Hugging Face checkpoint: which part of which weight each one holds, and the files they lie in."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from models.config import ModelConfig
from models.errors import ConfigError, require
from models.huggingface.family import Family
from models.huggingface.files import read_json
from models.transformer import block_weights, stacked_layers
from models.weight import Stacked, Weight, walk

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
AGAIN = "copy the checkpoint again"
PARTS = {"qkv": 3, "gate": 2}  # of a dim along which weights are fused; the first part takes what the others leave
Span = Sequence[tuple[int, int]]  # a box: (start, stop) along every dim


@dataclass(frozen=True)
class Piece:
    """What one tensor of a checkpoint holds of a weight (of one layer): all of it, or one part of a fused one.

    weight: the declaration of the layer's whole weight. part: the stretch of its fused dim ("qkv" or "gate"); None: all
    of it, in our own order. expert: the one of a weight of experts; None: the weight has none. offset, outputs: where
    among the tensor's outputs the part begins, and how many the tensor has (None: those of the part). step: how far
    apart its outputs lie there, where those of gate and up take turns. experts: of how many the tensor is, its first
    dim (0: of the one). linear: matrices lie as `[out, in]` (torch's Linear), else as `[in, out]`; convolutions always
    as `[channels, 1, width]`. paired: so many dims of each head lie as pairs that rotate together, where ours lie as
    halves.
    """

    name: str
    weight: Weight
    linear: bool
    part: tuple[int, int] | None = None
    expert: int | None = None
    offset: int = 0
    outputs: int | None = None
    paired: int = 0
    step: int = 1
    experts: int = 0

    @property
    def order(self) -> np.ndarray:
        """The dim of a head in the tensor that each of ours is."""
        rest = np.arange(self.paired, self.weight.shape[-1])
        return np.concatenate([np.arange(0, self.paired, 2), np.arange(1, self.paired, 2), rest])

    @property
    def index(self) -> tuple[int | slice, ...]:
        """Where the tensor's values lie in the weight."""
        lead = () if self.expert is None else (self.expert,)
        if self.part is None:
            return lead
        return (*lead, *(slice(None),) * (fused_dim(self.weight) - len(lead)), slice(*self.part))

    @property
    def _ours(self) -> tuple[int, ...]:
        """Shape of the values in our order."""
        shape = list(self.weight.shape)
        if self.part is not None:
            shape[fused_dim(self.weight)] = self.part[1] - self.part[0]
        return tuple(shape if self.expert is None else shape[1:])

    @property
    def _inputs(self) -> int:
        return _inputs(self.weight)

    @property
    def transposed(self) -> bool:
        """Whether the tensor is the matrix `[in, out]` transposed; a head is always a Linear."""
        return self.weight.role in ("head", "conv") or (self.weight.role == "matrix" and self.linear)

    @property
    def _convolves(self) -> bool:
        return self.weight.role == "conv"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the checkpoint."""
        ours, n = self._ours, self._inputs
        fan_in, fan_out = math.prod(ours[:n]), self.outputs or math.prod(ours[n:])
        lead = (self.experts,) if self.experts else ()
        if n == 0:
            return (*lead, fan_out)
        if self._convolves:
            return fan_out, 1, fan_in
        return (*lead, fan_out, fan_in) if self.transposed else (*lead, fan_in, fan_out)

    @property
    def size(self) -> int:
        """Number of elements that the tensor holds of the weight."""
        return math.prod(self._ours)

    def put(self, tensor: np.ndarray, whole: np.ndarray) -> None:
        """Write into the tensor what it holds of the layer's whole weight."""
        place = tensor[self.expert] if self.experts else tensor
        values = self._taken(whole)
        axis = 0 if self.transposed else -1
        last = self.offset + (values.shape[axis] - 1) * self.step + 1
        outputs = slice(self.offset, last, self.step)
        place[(outputs,) if axis == 0 else (..., outputs)] = values

    def _taken(self, whole: np.ndarray) -> np.ndarray:
        n = self._inputs
        values = whole[self.index]
        if self.paired:
            values = values[..., np.argsort(self.order)]
        values = values.reshape((-1,) if n == 0 else (math.prod(self._ours[:n]), -1))
        values = values.T if self.transposed else values
        return values[:, None] if self._convolves else values

    def fill(self, shard: np.ndarray, span: Span, read: Callable[..., np.ndarray]) -> None:
        """Write what the tensor holds of a box of the layer's whole weight into `shard`, the array of that box.

        span: the box. read(name, *slices) gives a block of the tensor; only blocks inside the box are asked for.
        """
        box: list[tuple[int, int]] = list(span)
        place: list[int | slice] = [slice(None)] * len(span)
        if self.part is not None:
            fused = fused_dim(self.weight)
            start, stop = max(span[fused][0], self.part[0]), min(span[fused][1], self.part[1])
            if start >= stop:
                return
            box[fused] = start - self.part[0], stop - self.part[0]
            place[fused] = slice(start - span[fused][0], stop - span[fused][0])
        if self.expert is not None:
            start, stop = box.pop(0)
            if not start <= self.expert < stop:
                return
            place[0] = self.expert - start
        n, ours, head = self._inputs, self._ours, box[-1]
        if self.paired:  # a stretch of ours lies scattered in the tensor
            box[-1] = (0, ours[-1])
        at, step = self.offset, self.step
        outputs = [(at + step * start, at + step * (stop - 1) + 1) for start, stop in stretches(ours[n:], box[n:])]
        one = (slice(self.expert, (self.expert or 0) + 1),) if self.experts else ()

        def block(*slices: slice) -> np.ndarray:
            values = read(self.name, *one, *slices)
            return values[0] if one else values

        if n == 0:
            values = np.concatenate([block(slice(*o))[::step] for o in outputs])
        else:
            inputs = stretches(ours[:n], box[:n])
            rows, columns = (outputs, inputs) if self.transposed else (inputs, outputs)
            middle = (slice(None),) if self._convolves else ()
            blocks = [[block(slice(*r), *middle, slice(*c)) for c in columns] for r in rows]
            thin = (slice(None, None, step),) if self.transposed else (slice(None), slice(None, None, step))
            matrix = np.block([[b.reshape(len(b), -1)[thin] for b in row] for row in blocks])
            values = matrix.T if self.transposed else matrix
        values = values.reshape([stop - start for start, stop in box])
        shard[tuple(place)] = values[..., self.order[slice(*head)]] if self.paired else values


def joined(pieces: Sequence[tuple[Piece, np.ndarray]]) -> np.ndarray:
    """One tensor: the pieces, each out of the layer's whole weight that it is of."""
    first, whole = pieces[0]
    tensor = np.empty(first.shape, whole.dtype)
    for piece, whole in pieces:
        piece.put(tensor, whole)
    return tensor


def fused_dim(weight: Weight) -> int:
    """The dim along which a weight is fused of parts: q, k, v or gate, up."""
    return next(i for i, axis in enumerate(weight.axes) if axis in PARTS)


def stretches(shape: Sequence[int], box: Span) -> list[tuple[int, int]]:
    """The (start, stop) of the runs of a flattened array of `shape` that make up a box of it, in order."""
    split = [i for i, (size, span) in enumerate(zip(shape, box, strict=True)) if span != (0, size)]
    last = max(split, default=0)
    inner = math.prod(shape[last + 1 :])
    starts = [0]
    for size, (start, stop) in zip(shape[:last], box[:last], strict=True):
        starts = [before * size + i for before in starts for i in range(start, stop)]
    start, stop = box[last]
    return [((before * shape[last] + start) * inner, (before * shape[last] + stop) * inner) for before in starts]


def pieces_of(
    config: ModelConfig, family: Family, path: tuple[str, ...], weight: Weight, prefix: str | None = None
) -> list[list[Piece]]:
    """The tensors of one weight: for each of its layers (one, unless the weight is of all layers) the pieces.

    prefix: what the base model's tensors start with in place of the family's own.
    """
    if isinstance(weight, Stacked):
        inside = path[2:] if path[1].isdigit() else path[1:]
        name, layers, declared = "/".join(inside), stacked_layers(config, path), weight.layer()
    elif path[0].startswith("block_"):
        at = int(path[0].removeprefix("block_"))
        name, layers, declared = "/".join(path[1:]), range(at, at + 1), weight
    else:
        return [_pieces(family, family.tensors("/".join(path), 0, prefix), weight, 0)]
    paired = int((config.head_dim or 0) * config.partial_rotary_factor) if family.pairs else 0
    beside, experts = _beside(config, family, name, layers[0]), bool(declared.experts_used)
    return [
        [
            replace(piece, offset=beside[0] + piece.offset, outputs=beside[1]) if beside else piece
            for piece in _pieces(family, family.tensors(name, layer, prefix, experts), declared, paired)
        ]
        for layer in layers
    ]


def _beside(config: ModelConfig, family: Family, name: str, layer: int) -> tuple[int, int] | None:
    """(outputs that come before those of weight `name` in its tensor, all of them) where other weights of the layer lie
    in the same tensor, one after another in the order of the family's names; None where the tensor is its own."""
    tensors = family.names.get(name)
    names = [other for other, tensor in family.names.items() if tensor == tensors]
    if len(names) <= 1:
        return None
    declared = {"/".join(path): weight for path, weight in walk(block_weights(config, config.layers[layer]))}
    names = [other for other in names if other in declared]  # not those of other kinds of layers
    if len(names) == 1:
        return None
    sizes = [math.prod(declared[other].shape[_inputs(declared[other]) :]) for other in names]
    return sum(sizes[: names.index(name)]), sum(sizes)


def _inputs(weight: Weight) -> int:
    """How many leading dims of a weight (of one expert) are inputs: none where it is no product."""
    return 0 if weight.role in ("vector", "gate", "balance") else weight.inputs


def _pieces(family: Family, names: tuple[str, ...], weight: Weight, paired: int) -> list[Piece]:
    """The pieces of one layer's weight, those of one tensor one after another."""
    parts = _parts(family, names, weight)
    if "qkv" in weight.axes:
        parts = [replace(part, paired=paired) for part in parts[:2]] + parts[2:]
    if not weight.experts_used:
        return parts
    if "{expert}" not in names[0]:  # one tensor of all, `[experts, in, out]`, gate and up by turns
        n = len(parts)
        together = [replace(part, linear=False, offset=i, step=n) for i, part in enumerate(parts)]
        experts = weight.shape[0]
        return [replace(part, expert=e, experts=experts) for e in range(experts) for part in together]
    return [
        replace(part, name=part.name.replace("{expert}", str(expert)), expert=expert)
        for expert in range(weight.shape[0])
        for part in parts
    ]


def _parts(family: Family, names: tuple[str, ...], weight: Weight) -> list[Piece]:
    linear = family.linear
    axis = next((axis for axis in weight.axes if axis in PARTS), None)
    if axis is None or (axis == "qkv" and family.by_head):
        return [Piece(names[0], weight, linear)]
    n, width = PARTS[axis], weight.shape[weight.axes.index(axis)]
    parts = list(itertools.pairwise([0, *range(width - n + 1, width + 1)]))
    if len(names) == n:
        return [Piece(name, weight, linear, part) for name, part in zip(names, parts)]
    # one tensor: all heads of q, then those of k, then those of v; all of gate, then all of up
    inputs = (0 if weight.role == "vector" else weight.inputs) + bool(weight.experts_used)
    outputs = math.prod(weight.shape[inputs:])
    return [Piece(names[0], weight, linear, part, offset=outputs // width * part[0], outputs=outputs) for part in parts]


def leaf(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """The leaf of a tree of params at a path; ConfigError when it is missing."""
    for name in path:
        require(name in tree, "params", f"{'/'.join(path)} is missing", "give the config that belongs to them")
        tree = tree[name]
    return tree


class Checkpoint:
    """The safetensors files of a folder, as one mapping from name to tensor; a context manager that closes them."""

    def __init__(self, folder: Path):
        self._stack = contextlib.ExitStack()
        self._files: dict[str, tuple[Path, Any]] = {}
        mapped = self._mapped(folder)
        for path in dict.fromkeys(mapped.values()) if mapped else [folder / SINGLE]:
            handle = self._open(path)
            self._files |= dict.fromkeys(handle.keys(), (path, handle))
        for name, path in mapped.items():
            require(name in self._files, str(path), f"tensor {name} is missing, which {INDEX} puts there", AGAIN)

    def _mapped(self, folder: Path) -> dict[str, Path]:
        """Tensor -> file of a checkpoint in several files; empty for one in a single file."""
        if (folder / SINGLE).is_file():
            return {}
        index = folder / INDEX
        if not index.is_file():
            pickled = sorted(file.name for file in folder.glob("*.bin"))
            if pickled:
                fix = "convert it with transformers: model.save_pretrained(folder, safe_serialization=True)"
                raise ConfigError(str(folder / pickled[0]), "is a pickle, which can run code when it is read", fix)
            raise ConfigError(str(folder / SINGLE), "does not exist", "give a folder with the model's safetensors")
        files = read_json(index).get("weight_map")
        fine = isinstance(files, Mapping) and all(isinstance(f, str) and Path(f).name == f for f in files.values())
        require(fine and bool(files), str(index), "has no weight_map of tensors to files beside it", AGAIN)
        assert files is not None
        return {name: folder / file for name, file in files.items()}

    def _open(self, path: Path) -> Any:
        require(path.is_file(), str(path), f"does not exist, but {INDEX} names it", AGAIN)
        try:
            return self._stack.enter_context(safetensors.safe_open(path, framework="np"))
        except (safetensors.SafetensorError, OSError) as error:
            raise ConfigError(str(path), f"is damaged ({error})", AGAIN) from None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self._files

    def file(self, name: str) -> str:
        """The file that holds a tensor."""
        return str(self._files[name][0])

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the file's header."""
        return tuple(self._files[name][1].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Type of a tensor as safetensors spells it: F32, BF16, ..."""
        return self._files[name][1].get_slice(name).get_dtype()

    def read(self, name: str, *block: slice) -> np.ndarray:
        """One tensor, or the block of it that one slice for each dim names; nothing else is read from the file."""
        file = self._files[name][1]
        try:
            return file.get_slice(name)[block if len(block) > 1 else block[0]] if block else file.get_tensor(name)
        except (safetensors.SafetensorError, OSError) as error:
            raise ConfigError(self.file(name), f"tensor {name} is damaged ({error})", AGAIN) from None
