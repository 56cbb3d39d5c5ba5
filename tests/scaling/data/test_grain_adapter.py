from __future__ import annotations

import sys

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.data import Batches, TokenFile
from scaling.data.grain_adapter import BatchSource, grain_dataset

BATCHES = Batches.of(TokenFile.from_array(np.arange(1, 1002, dtype=np.uint16)), 10, 4)


def test_a_grain_dataset_holds_the_batches_in_their_order():
    grain = pytest.importorskip("grain", reason="grain is not installed (pip install 'isoflop[grain]')")
    dataset = grain_dataset(BATCHES, steps=30)
    assert isinstance(dataset, grain.MapDataset) and len(dataset) == 30
    for step in (0, 7, 29):
        assert np.array_equal(dataset[step]["tokens"], BATCHES.batch(step)["tokens"])
    iterator = iter(dataset.to_iter_dataset())
    for step in range(5):
        assert np.array_equal(next(iterator)["tokens"], BATCHES.batch(step)["tokens"])


def test_hosts_read_their_rows_through_the_source():
    source = BatchSource(BATCHES.for_hosts(1, 2), steps=3)
    assert len(source) == 3
    assert np.array_equal(source[2]["tokens"], BATCHES.batch(2)["tokens"][2:])


def test_without_grain_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "grain", raising=False)
    with pytest.raises(ConfigError, match=r"grain: is not installed: pip install 'isoflop\[grain\]'"):
        grain_dataset(BATCHES, 3)
