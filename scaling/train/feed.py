"""Feed: the batches of a stack on its mesh. A process reads only the rows that its own devices work on.

Which rows make up a batch is a function of the step alone, so the global batch is the same for any number of
processes and any mesh; only who reads which row changes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np

from scaling.data import Batches
from scaling.train.placement import Placement


class Feed:
    """Draws the batches of every run of a stack, `chunk` steps at a time."""

    def __init__(self, batches: Sequence[Batches], chunk: int, placement: Placement):
        self.batches, self.chunk, self.placement = list(batches), chunk, placement
        self.template = batches[0].batches(0, 1, range(1))  # names, dtypes and lengths; leaves [1, 1, ...]
        self._own = self._own_part((len(self.batches), chunk, batches[0].batch_size, 1))

    def _own_part(self, shape: tuple[int, ...]) -> tuple[range, range]:
        """The runs and the rows of a batch that this process's devices work on, as the ranges that hold them all."""
        if jax.process_count() == 1:
            return range(shape[0]), range(shape[2])
        places = self.placement.batch_sharding(len(shape)).addressable_devices_indices_map(shape).values()

        def span(dim: int) -> range:
            parts = [place[dim].indices(shape[dim]) for place in places if place is not None]
            return range(min(start for start, _, _ in parts), max(stop for _, stop, _ in parts))

        return span(0), span(2)

    def gather(self, step: int, active: Collection[int]) -> dict[str, Any]:
        """Batches of `chunk` steps from `step`, leaves `[runs, chunk, batch, ...]`; zeros for runs not `active`."""
        runs, rows = self._own
        shape = (len(runs), self.chunk, len(rows))
        own = {name: np.zeros((*shape, *x.shape[2:]), x.dtype) for name, x in self.template.items()}
        for i in runs:
            if i in active:
                for name, x in self.batches[i].batches(step, self.chunk, rows).items():
                    own[name][i - runs.start] = x
        if jax.process_count() == 1:
            return self.placement.put_batches(own)
        return {name: self._assemble(x) for name, x in own.items()}

    def _assemble(self, own: np.ndarray) -> jax.Array:
        """The global array of which this process holds the part `own`."""
        runs, rows = self._own
        shape = (len(self.batches), self.chunk, self.batches[0].batch_size, *own.shape[3:])

        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            mine = (_shift(index[0], runs, shape[0]), index[1], _shift(index[2], rows, shape[2]), *index[3:])
            return own[mine]

        return jax.make_array_from_callback(shape, self.placement.batch_sharding(own.ndim), shard)


def _shift(part: slice, own: range, size: int) -> slice:
    """A slice of the whole dim as a slice of the range that is held."""
    start, stop, _ = part.indices(size)
    return slice(start - own.start, stop - own.start)
