"""Biographies: one row per person, facts that are as uniform as they say, and bits that a table of chances gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.tasks.biographies import Biographies


def test_everyone_has_a_name_of_their_own_that_no_stranger_has() -> None:
    kind = Biographies(people=500, attributes=4, values=8, seed=3)
    data = kind.everyone()
    assert data.tokens.shape == (500, kind.size) == (500, 6) and data.tokens.max() < kind.vocab_size
    names = {tuple(row) for row in data.tokens[:, :3].tolist()}
    assert len(names) == 500 and min(map(min, names)) >= 8
    assert (data.tokens[:, 3:] == data.labels[:, 2:-1]).all() and data.scored.sum() == 500 * 4
    assert not data.scored[:, :2].any() and (kind.everyone().labels == data.labels).all()
    strangers = kind.strangers(np.random.default_rng(0), 300)
    assert names.isdisjoint(tuple(row) for row in strangers.tokens[:, :3].tolist())
    counted = np.bincount(data.labels[data.scored], minlength=8)
    assert len(counted) == 8 and np.abs(counted - 250).max() < 5 * math.sqrt(250)
    assert (Biographies(500, 4, 8, seed=4).everyone().labels != data.labels).any()
    with pytest.raises(ConfigError, match="people"):
        Biographies(people=3000)


def test_known_bits_are_those_of_a_table_that_knows_so_much() -> None:
    """Who knows the first bit of every value is left with 2 of 3 bits; who is wrong for sure knows nothing."""
    kind = Biographies(people=10, attributes=5, values=8)
    scored = kind.everyone().scored
    assert kind.bits == 10 * 5 * 3
    assert kind.known_bits(np.log(4) * scored) == pytest.approx(50)
    assert kind.known_bits(0.0 * scored) == 150 and kind.known_bits(9.0 * scored) == 0
