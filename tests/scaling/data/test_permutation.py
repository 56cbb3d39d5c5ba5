from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from scaling.data.permutation import permute

SEEDS = st.integers(0, 2**63 - 1)


@given(size=st.integers(1, 5000), seed=SEEDS, epoch=st.integers(0, 2**40), stream=st.integers(0, 2**33))
def test_every_index_is_hit_exactly_once(size, seed, epoch, stream):
    image = permute(np.arange(size), size, seed=seed, epoch=epoch, stream=stream)
    assert (np.sort(image) == np.arange(size)).all()


@given(size=st.integers(50, 5000), seed=SEEDS, epoch=st.integers(0, 1000))
def test_seeds_epochs_and_streams_have_permutations_of_their_own(size, seed, epoch):
    base = permute(np.arange(size), size, seed=seed, epoch=epoch)
    for other in ({"seed": seed ^ 1, "epoch": epoch}, {"seed": seed, "epoch": epoch + 1}):
        assert (permute(np.arange(size), size, **other) != base).any()
    assert (permute(np.arange(size), size, seed=seed, epoch=epoch, stream=1) != base).any()


@given(size=st.integers(1, 2**62), seed=SEEDS, indices=st.lists(st.integers(0, 2**62), min_size=1, max_size=20))
def test_an_index_is_sent_alone_where_it_is_sent_in_company(size, seed, indices):
    index = np.asarray([i % size for i in indices])
    epoch = np.arange(len(index))
    together = permute(index, size, seed=seed, epoch=epoch)
    assert [int(permute(i, size, seed=seed, epoch=e)) for i, e in zip(index, epoch, strict=True)] == together.tolist()
    assert (together >= 0).all() and (together < size).all()


@pytest.mark.parametrize("size", [2, 3, 7, 64, 100])
def test_over_epochs_an_index_is_sent_everywhere_equally_often(size):
    epochs = 400 * size
    for index in (0, size - 1):
        image = permute(np.full(epochs, index), size, seed=1, epoch=np.arange(epochs))
        assert chisquare(np.bincount(image, minlength=size)).pvalue > 1e-4


def test_neighbours_are_sent_apart_independently():
    size, epochs = 8, 20_000
    index = np.arange(2)[:, None].repeat(epochs, 1)
    first, second = permute(index, size, seed=2, epoch=np.arange(epochs))
    pairs = np.bincount(first * size + second, minlength=size * size).reshape(size, size)
    assert (np.diag(pairs) == 0).all()
    assert chisquare(pairs[~np.eye(size, dtype=bool)]).pvalue > 1e-4
