"""Prototypes: difficulty without labels, the distance of an embedding to the nearest centre of k-means.

What lies far from every prototype is hard (Sorscher et al. 2022, section 5); the labels of the examples are not read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.cluster.vq import kmeans2

from models.errors import require


def prototype_distances(embeddings: ArrayLike, prototypes: int, *, seed: int = 0, starts: int = 4) -> np.ndarray:
    """Euclidean distance [examples] of each embedding [examples, features] to its nearest of `prototypes` centres.

    The centres are those of least total squared distance among `starts` runs of k-means++.
    """
    x = np.asarray(embeddings, dtype=np.float64)
    finite = x.ndim == 2 and bool(np.isfinite(x).all())
    require(finite, "embeddings", "are no finite table", "give [examples, features]")
    fix = f"give 1 to {len(x)}"
    require(1 <= prototypes <= len(x), "prototypes", f"is {prototypes} for {len(x)} examples", fix)
    best = None
    for start in range(starts):
        rng = np.random.default_rng([seed, start])
        centres, nearest = kmeans2(x, prototypes, minit="++", rng=rng, missing="warn")
        distances = np.linalg.norm(x - centres[nearest], axis=1)
        if best is None or (distances**2).sum() < (best**2).sum():
            best = distances
    assert best is not None  # starts is positive
    return best
