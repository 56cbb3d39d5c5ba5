"""When samples should read their prompt's cache together: a cost model of one tile of attention."""

from __future__ import annotations

from dataclasses import dataclass

from models.config import ModelConfig
from models.platform import on_cpu
from search.engine.config import EngineConfig


@dataclass(frozen=True)
class DeviceCosts:
    """What attention over one page costs on one kind of device: a fixed part, bytes from memory, products."""

    seconds_per_tile: float  # of starting its products
    bytes_per_second: float
    flops_per_second: float  # of products with few rows

    def together(self, model: ModelConfig, page_size: int, rows: int) -> float:
        """Seconds for a group of `rows` rows over one page of keys and values in one layer."""
        c = model.resolved()
        assert c.head_dim
        flops = 4 * rows * page_size * c.n_heads * c.head_dim
        return self.seconds_per_tile + max(self.alone(model, page_size), flops / self.flops_per_second)

    def alone(self, model: ModelConfig, page_size: int) -> float:
        """Seconds for one row over a page's worth of its own copy: what reading it from memory takes."""
        c = model.resolved()
        assert c.n_kv_heads and c.head_dim
        size = 2 if c.dtype == "bfloat16" else 4
        return 2 * page_size * c.n_kv_heads * c.head_dim * size / self.bytes_per_second


CPU = DeviceCosts(1.2e-5, 25e9, 60e9)  # one core: measured at 64 keys of 6 heads of 64 dims and 1, 8, 16, 64 rows
ACCELERATOR = DeviceCosts(1e-5, 3e12, 100e12)


def shares(samples: int, model: ModelConfig, config: EngineConfig) -> bool:
    """Whether `samples` samples of one prompt should read it in groups, or each have a copy of it.

    It depends on the request and the engine's sizes alone, never on what else is running, because the two ways round
    differently. model: as it runs.
    """
    if config.share != "model":
        return config.share == "always"
    device = CPU if on_cpu() else ACCELERATOR
    lanes = min(config.share_rows, config.slots)
    groups = -(-samples // lanes)
    together = groups * device.together(model, config.page_size, lanes)
    return together < samples * device.alone(model, config.page_size)


def sharing_pays(model: ModelConfig, config: EngineConfig) -> bool:
    """Whether any request can gain: a full group does before any other number of samples."""
    return shares(min(config.share_rows, config.slots), model, config)
