"""When samples should read their prompt's cache together: a cost model of one tile of attention."""

from __future__ import annotations

from dataclasses import dataclass

from models.config import ModelConfig
from models.platform import on_cpu


@dataclass(frozen=True)
class DeviceCosts:
    """What a tile of attention costs on one kind of device: a fixed part, bytes from memory, products."""

    seconds_per_tile: float  # of starting its products
    bytes_per_second: float
    flops_per_second: float  # of products with few rows

    def tile(self, model: ModelConfig, page_size: int, rows: int) -> float:
        """Seconds for `rows` rows over one page of `page_size` keys and values in one layer."""
        c = model.resolved()
        assert c.n_kv_heads and c.head_dim
        size = 2 if c.dtype == "bfloat16" else 4
        moved = 2 * page_size * c.n_kv_heads * c.head_dim * size
        flops = 4 * rows * page_size * c.n_heads * c.head_dim
        return self.seconds_per_tile + max(moved / self.bytes_per_second, flops / self.flops_per_second)


CPU = DeviceCosts(1.2e-5, 25e9, 60e9)  # one core: measured at 64 keys of 6 heads of 64 dims and 1, 8, 16, 64 rows
ACCELERATOR = DeviceCosts(1e-5, 3e12, 100e12)


def shares(samples: int, model: ModelConfig, page_size: int, lanes: int) -> bool:
    """Whether `samples` samples of one prompt should read its pages in groups of `lanes` rows, or each for itself.

    It depends on the request and the engine's sizes alone, never on what else is running, because the two ways round
    differently. The prompt is stored once either way.
    """
    device = CPU if on_cpu() else ACCELERATOR
    groups = -(-samples // lanes)
    return groups * device.tile(model, page_size, lanes) < samples * device.tile(model, page_size, 1)
