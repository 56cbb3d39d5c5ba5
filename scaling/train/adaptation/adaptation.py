"""Adaptation: which weights train. A run's parameters are those that do; what they change is a frozen model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import jax
from flax.traverse_util import unflatten_dict

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.weight import Stacked, Weight, WeightTree, walk

Path = tuple[str, ...]


@dataclass(frozen=True)
class Adaptation:
    """What every way of training has; a part is a frozen dataclass that says what differs.

    The trained weights are declared as a model's are, so that placement, optimiser state, checkpoints and counts follow
    from the declarations.
    """

    based: ClassVar[bool] = True  # whether it changes a model that train.init_from names
    linear: ClassVar[bool] = True  # whether the result is a model as its config declares it

    def weights(self, model: ModelConfig) -> WeightTree:
        """The declarations of what trains; `model` is resolved. ConfigError where that is nothing."""
        raise NotImplementedError

    def before(self, model: ModelConfig) -> ModelConfig:
        """The model whose params the base has, of the one that is trained."""
        return model

    def begun(self, model: ModelConfig, base: Any) -> Any:
        """What the trained weights start from, of the base's params; None: as they are declared."""
        return None

    def join(self, model: ModelConfig, trained: Any, base: Any) -> Any:
        """The params of the forward pass, of the trained ones and the base's; differentiable in the former."""
        raise NotImplementedError

    def merge(self, model: ModelConfig, trained: Any, base: Any) -> Any:
        """The same as the model declares them, where it is `linear`."""
        return self.join(model, trained, base)

    def flops(self, model: ModelConfig, tokens: int) -> int:
        """FLOPs of training on `tokens` beside those of training every weight: gradients of frozen weights are not
        computed, weights beside the model's pass three times."""
        frozen, trained = dict(walk(transformer.weights(model))), dict(walk(self.weights(model)))
        own = [weight for path, weight in trained.items() if path not in frozen]
        still = [weight for path, weight in frozen.items() if path not in trained]
        head = 2 * model.d_model * model.vocab_size if model.tied_embeddings and ("tokens",) not in trained else 0
        return tokens * (3 * sum(w.flops_per_token for w in own) - sum(w.flops_per_token for w in still) - head)


def chosen(model: ModelConfig, patterns: Sequence[str], field: str, products: bool = False) -> dict[Path, Weight]:
    """The declared weights whose path ("block_0/attention/qkv") a pattern matches, as in a shell: * is any text.

    products: only hidden matrices that `models.contraction.contract` multiplies by.

    Raises:
      ConfigError: none does.
    """
    every = dict(walk(transformer.weights(model)))
    found = {path: w for path, w in every.items() if not products or is_product(w)}
    names = sorted("/".join(path) for path in found if not any(map(_is_number, path)))
    found = {path: w for path, w in found.items() if any(fnmatchcase("/".join(path), p) for p in patterns)}
    if not found:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        problem = f"trains nothing: no weight is called {' or '.join(patterns)}"
        raise ConfigError(field, problem, f"match some of {shown}")
    return found


def is_product(weight: Weight) -> bool:
    """Whether a weight is a hidden matrix that `contract` multiplies by."""
    return weight.role == "matrix" and not weight.unpacked and not weight.experts_used


def beside(path: Path, weight: Weight, parts: Mapping[str, Weight]) -> Iterator[tuple[Path, Weight]]:
    """Declarations of one weight's parts, under its own path; stacked where it is."""
    for name, part in parts.items():
        yield (*path, name), part.stacked(weight.shape[0]) if isinstance(weight, Stacked) else part


def one_layer(weight: Weight) -> Weight:
    """The declaration of one layer of a weight that may be stacked."""
    return weight.layer() if isinstance(weight, Stacked) else weight


def replaced(tree: Any, changes: Mapping[Path, Any]) -> Any:
    """A copy of nested dicts with the leaves at these paths replaced."""

    def copy(node: Any, path: Path) -> Any:
        if path in changes:
            return changes[path]
        return {name: copy(child, (*path, name)) for name, child in node.items()} if isinstance(node, dict) else node

    return copy(tree, ())


def at(tree: Any, path: Path) -> Any:
    """The node of nested dicts at a path."""
    for name in path:
        tree = tree[name]
    return tree


def of_paths(found: Mapping[Path, Any]) -> dict[str, Any]:
    """Nested dicts of what lies at these paths."""
    return unflatten_dict(dict(found))


def per_layer(f: Any, weight: Weight, tree: Any) -> Any:
    """f of one layer's tree, over the layers of a weight that may be stacked."""
    return jax.vmap(f)(tree) if isinstance(weight, Stacked) else f(tree)


def _is_number(part: str) -> bool:
    return part.isdigit() or (part.removeprefix("block_").isdigit() and part != "block_0")
