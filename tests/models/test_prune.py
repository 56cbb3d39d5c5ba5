"""Pruned matrices lose exactly their smallest entries, layer by layer; nothing else changes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.prune import prune
from models.weight import Stacked, walk

TINY = ModelConfig(vocab_size=11, d_model=8, n_layers=3, n_heads=2, d_ff=12, max_seq_len=8).resolved()


def drawn() -> Any:
    """Random values of every declared weight, without a compile."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: transformer.init(TINY, key), jax.random.key(0))
    return jax.tree.map(lambda x: jax.numpy.asarray(rng.normal(size=x.shape), x.dtype), shapes)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_the_smallest_entries_of_each_matrix_of_each_layer_are_zero(share: float) -> None:
    params = drawn()
    before, after = (flatten_dict(tree) for tree in (params, prune(params, TINY, share)))
    declared = dict(walk(transformer.weights(TINY)))
    assert before.keys() == after.keys() == declared.keys()
    pruned = 0
    for path, weight in declared.items():
        old, new = np.asarray(before[path]), np.asarray(after[path])
        if weight.role != "matrix":
            np.testing.assert_array_equal(new, old)
            continue
        for w, found in zip(old, new) if isinstance(weight, Stacked) else [(old, new)]:
            count = int(share * w.size)
            limit = np.sort(np.abs(w), axis=None)[count]
            np.testing.assert_array_equal(found, np.where(np.abs(w) < limit, 0, w))
            assert (found == 0).sum() == count
            pruned += count
    assert (pruned > 0) == (share > 0)


def test_a_share_that_leaves_nothing_is_refused() -> None:
    for share in (1.0, -0.1):
        with pytest.raises(ConfigError, match="prune.share"):
            prune({}, TINY, share)
