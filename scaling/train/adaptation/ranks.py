"""Ranks of a trained model's matrices: each its own, by one threshold on their spectra, or all the same share.

WeLore (Jaiswal et al. 2024, arXiv:2407.11239): matrices whose normalised singular values fall fast (a heavy tail of
small ones) are cut to low ranks and the others are spared, at the same number of parameters in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from models.config import ModelConfig
from models.errors import require
from models.weight import Stacked
from scaling.train.adaptation.adaptation import Path, at, chosen, replaced

Shape = tuple[int, int]
Rule = Callable[[Sequence[np.ndarray], Sequence[Shape], float], list[int]]


def parameters(rank: int, shape: Shape) -> int:
    """Of a matrix as a product of this rank, or whole where that is no more."""
    rows, columns = shape
    return min(rank * (rows + columns), rows * columns)


def threshold_ranks(spectra: Sequence[np.ndarray], shapes: Sequence[Shape], share: float) -> list[int]:
    """Ranks by the lowest threshold on singular values, over each matrix's largest, that leaves at most `share` of all
    parameters; at least 1 each.

    spectra: of every matrix, from the largest. Of equal normalised values the earlier matrix's count first.
    """
    room = _room(shapes, share)
    ranks = [1] * len(shapes)
    rest = [(-value / s[0], i) for i, s in enumerate(spectra) if s[0] > 0 for value in s[1:]]
    for _, i in sorted(rest):
        ranks[i] += 1
        if sum(map(parameters, ranks, shapes)) > room:
            ranks[i] -= 1
            break
    return ranks


def uniform_ranks(spectra: Sequence[np.ndarray], shapes: Sequence[Shape], share: float) -> list[int]:
    """Ranks that leave each matrix at most `share` of its parameters; at least 1 each."""
    _room(shapes, share)
    return [max(1, int(share * rows * columns / (rows + columns))) for rows, columns in shapes]


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The nearest matrix of this rank `[rows, columns]`, or the matrix itself where a product would save nothing."""
    rows, columns = matrix.shape
    if rank * (rows + columns) >= rows * columns:
        return matrix
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def compress(params: Any, model: ModelConfig, share: float, rule: Rule) -> tuple[Any, dict[str, int]]:
    """(params whose hidden matrices have the ranks of `rule`, those ranks by path); layers are not stacked."""
    found = chosen(model, ("*",), "ranks", products=True)
    fix = "set model.scan_layers=false"
    require(not any(isinstance(w, Stacked) for w in found.values()), "model.scan_layers", "stacks matrices", fix)
    matrices = {
        path: np.asarray(at(params, path), np.float64).reshape(weight.fan_in, -1) for path, weight in found.items()
    }
    spectra = [np.linalg.svd(matrix, compute_uv=False) for matrix in matrices.values()]
    shapes = [(matrix.shape[0], matrix.shape[1]) for matrix in matrices.values()]
    ranks = dict(zip(matrices, rule(spectra, shapes, share), strict=True))
    changes: dict[Path, Any] = {}
    for path, matrix in matrices.items():
        old = at(params, path)
        changes[path] = jnp.asarray(truncated(matrix, ranks[path]).reshape(old.shape), old.dtype)
    return replaced(params, changes), {"/".join(path): rank for path, rank in ranks.items()}


def _room(shapes: Sequence[Shape], share: float) -> float:
    require(0 < share <= 1, "share", f"is {share}", "give a share above 0 and up to 1")
    return share * sum(rows * columns for rows, columns in shapes)
