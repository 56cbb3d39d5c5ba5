"""Ranks by one threshold on normalised spectra, against every threshold there is; and what truncation leaves."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from scaling.train.adaptation.ranks import compress, parameters, threshold_ranks, truncated, uniform_ranks

SHAPES = [(6, 8), (10, 5), (4, 4), (7, 7)]


def planted(seed: int = 0) -> list[np.ndarray]:
    """Matrices whose spectra fall at different speeds."""
    rng = np.random.default_rng(seed)
    found = []
    for (rows, columns), speed in zip(SHAPES, (0.1, 0.5, 1.0, 2.0)):
        left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (rows, columns))
        values = np.exp(-speed * np.arange(min(rows, columns))) * rng.uniform(1, 9)
        found.append((left[:, : len(values)] * values) @ right[: len(values)])
    return found


@pytest.mark.parametrize("share", [0.35, 0.5, 0.8, 1.0])
def test_ranks_are_those_of_the_lowest_threshold_that_fits(share: float) -> None:
    spectra = [np.linalg.svd(matrix, compute_uv=False) for matrix in planted()]
    room = share * sum(rows * columns for rows, columns in SHAPES)
    best = None
    for threshold in sorted({value / s[0] for s in spectra for value in s}, reverse=True):
        ranks = [max(1, int((s / s[0] >= threshold).sum())) for s in spectra]
        if sum(parameters(r, shape) for r, shape in zip(ranks, SHAPES)) > room:
            break
        best = ranks
    assert threshold_ranks(spectra, SHAPES, share) == best
    if share in (0.5, 0.8):
        assert best[0] > best[3]  # a flat spectrum is spared, a steep one is cut
    scaled = [s * 10.0**i for i, s in enumerate(spectra)]
    assert threshold_ranks(scaled, SHAPES, share) == best  # each is measured by its own largest


def test_equal_ranks_leave_every_matrix_its_share() -> None:
    for share in (0.5, 0.7):
        for rank, shape in zip(uniform_ranks([], SHAPES, share), SHAPES):
            assert parameters(rank, shape) <= share * shape[0] * shape[1] < parameters(rank + 1, shape) + 1e-9


def test_what_truncation_leaves_out_is_the_tail_of_the_spectrum() -> None:
    *_, square, last = planted()
    for matrix in (*planted()[:2], last):
        values = np.linalg.svd(matrix, compute_uv=False)
        for rank in (1, 2):
            left_out = np.linalg.norm(matrix - truncated(matrix, rank))
            assert left_out == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-9)
            assert np.linalg.matrix_rank(truncated(matrix, rank), tol=1e-9 * values[0]) == rank
    assert truncated(square, 2) is square  # 2 x (4 + 4) parameters are those of the matrix


def test_a_model_keeps_what_is_no_hidden_matrix_and_its_matrices_get_their_ranks() -> None:
    config = ModelConfig(vocab_size=11, d_model=8, n_layers=2, n_heads=2, d_ff=12, max_seq_len=8).resolved()
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: transformer.init(config, key), jax.random.key(0))
    params: Any = jax.tree.map(lambda x: jax.numpy.asarray(rng.normal(size=x.shape), x.dtype), shapes)
    made, ranks = compress(params, config, 0.5, threshold_ranks)
    np.testing.assert_array_equal(made["tokens"], params["tokens"])
    for path, rank in ranks.items():
        new: Any = made
        for name in path.split("/"):
            new = new[name]
        fan_in = 12 if path.endswith("down") else 8
        assert np.linalg.matrix_rank(np.asarray(new, np.float64).reshape(fan_in, -1), tol=1e-4) <= max(rank, 1)
    whole, _ = compress(params, config, 1.0, threshold_ranks)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), whole, params))


def test_a_share_of_nothing_is_refused() -> None:
    for rule in (threshold_ranks, uniform_ranks):
        with pytest.raises(ConfigError, match="share"):
            rule([np.ones(4)], [(4, 4)], 0.0)
