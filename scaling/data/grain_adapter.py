"""The batches as a grain dataset, for pipelines that are built on grain (extra `[grain]`)."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np

from models.errors import ConfigError
from scaling.data.batches import Batches

if TYPE_CHECKING:
    import grain


@dataclass(frozen=True)
class BatchSource:
    """grain's random-access protocol over the first `steps` batches; element `step` is `batches.batch(step)`."""

    batches: Batches
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: SupportsIndex) -> dict[str, np.ndarray]:
        return self.batches.batch(int(step))


def grain_dataset(batches: Batches, steps: int) -> grain.MapDataset:
    """A grain.MapDataset of batches; do not shuffle it: the order is already the seeded one.

    Raises:
      ConfigError: grain is not installed.
    """
    if importlib.util.find_spec("grain") is None:
        raise ConfigError("grain", "is not installed", "pip install 'isoflop[grain]'")
    import grain

    return grain.MapDataset.source(BatchSource(batches, steps))
