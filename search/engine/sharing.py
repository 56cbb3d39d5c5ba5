"""When samples should read their prompt's cache together: a cost model of one tile of attention."""

from __future__ import annotations

from dataclasses import dataclass

from models import counts
from models.config import ModelConfig
from models.platform import on_cpu
from search.engine.config import EngineConfig


@dataclass(frozen=True)
class DeviceCosts:
    """What attention over one page costs on one kind of device: a fixed part, bytes from memory, products."""

    seconds_per_tile: float  # of starting its products
    bytes_per_second: float
    flops_per_second: float  # of products with few rows

    def together(self, model: ModelConfig, config: EngineConfig, rows: int) -> float:
        """Seconds for a group of `rows` rows over one page of keys and values in one layer."""
        pairs = counts.decode_flops(model, 2) - counts.decode_flops(model, 1)  # one more key, in all layers
        flops = rows * config.page_size * pairs // model.n_layers
        return self.seconds_per_tile + max(self.alone(model, config), flops / self.flops_per_second)

    def alone(self, model: ModelConfig, config: EngineConfig) -> float:
        """Seconds for one row over a page's worth of its own copy in one layer: what reading it from memory takes."""
        per_token = counts.kv_cache_bytes_per_token(model, config.quantized_cache) / model.n_layers
        return config.page_size * per_token / self.bytes_per_second


CPU = DeviceCosts(1.2e-5, 25e9, 60e9)  # one core: measured at 64 keys of 6 heads of 64 dims and 1, 8, 16, 64 rows
ACCELERATOR = DeviceCosts(1e-5, 3e12, 100e12)


def widths(config: EngineConfig) -> tuple[int, ...]:
    """The group sizes that a program has room for: a product over a group costs its size, however few rows it has."""
    most = min(config.share_rows, config.slots)
    return (most // 4, most) if most >= 4 else (most,)


def lanes(samples: int, model: ModelConfig, config: EngineConfig) -> int:
    """In groups of how many `samples` samples of one prompt should read it; 0: each should have a copy of its own.

    It depends on the request and the engine's sizes alone, never on what else is running, because every way rounds
    differently. model: as it runs.
    """
    if config.share == "never":
        return 0
    device = CPU if on_cpu() else ACCELERATOR
    seconds = {width: -(-samples // width) * device.together(model, config, width) for width in widths(config)}
    best = min(seconds, key=lambda width: seconds[width])
    pays = config.share == "always" or seconds[best] < samples * device.alone(model, config)
    return best if pays else 0


def all_lanes(model: ModelConfig, config: EngineConfig) -> list[int]:
    """The group sizes that some number of samples asks for, ascending."""
    return sorted({lanes(samples, model, config) for samples in range(1, 4 * max(widths(config)) + 1)} - {0})
