"""What one accelerator can do, as jax counts devices: peak, memory, and what its links and its network carry.

A TPU7x chip is two jax devices and its entry is half a chip; every other entry is a whole chip. Peaks, memory and
bandwidths are the makers' data sheets (dense bf16); `usable` is what the TPU compiler itself says it may fill; links
and network are those of Google's published system tables and of NVIDIA's, one way.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2.0**30


@dataclass(frozen=True)
class Device:
    """One jax device. Zero means unknown, and costs nothing in an estimate.

    flops: FLOP/s, dense bf16. memory: bytes. bandwidth: bytes/s of its memory.
    usable: bytes that a program may fill; 0: 92 % of memory.
    link: bytes/s, one way, over one link of a torus, or over all links into a switch.
    torus: dims of the torus of links; 0: a switch. reach: devices that links join; beyond, `network`.
    network: bytes/s, one way and per device, between islands of links.
    per_chip: jax devices on one chip.
    efficiency: share of `flops` that a training step's products reach. latency: seconds of one step of a collective.
    overlap: share of the parameter gathers and gradient reductions that compute hides.
    overhead: seconds that a layer costs on top of its work, each time it runs.
    matrix: measured bytes/s from each device to each other, in mesh order; overrules links and network.
    """

    flops: float
    memory: float
    bandwidth: float
    usable: float = 0.0
    link: float = 0.0
    torus: int = 0
    reach: int = 1
    network: float = 0.0
    per_chip: int = 1
    efficiency: float = 0.65
    latency: float = 1e-6
    overlap: float = 0.9
    overhead: float = 0.0
    matrix: tuple[tuple[float, ...], ...] = ()

    @property
    def capacity(self) -> float:
        """Bytes that one program may fill."""
        return self.usable or 0.92 * self.memory


DEVICES: dict[str, Device] = {
    "a100": Device(312e12, 80e9, 2.04e12, link=300e9, reach=8, network=25e9),
    "h100": Device(989e12, 80e9, 3.35e12, link=450e9, reach=8, network=50e9),
    "h200": Device(989e12, 141e9, 4.8e12, link=450e9, reach=8, network=50e9),
    "b200": Device(2250e12, 192e9, 8.0e12, link=900e9, reach=8, network=50e9),
    "v4": Device(275e12, 32e9, 1.23e12, link=45e9, torus=3, reach=4096, network=6.25e9),
    "v5e": Device(197e12, 16e9, 0.82e12, 15.75 * GIB, link=45e9, torus=2, reach=256, network=3.125e9),
    "v5p": Device(459e12, 95e9, 2.77e12, 95.74 * GIB, link=90e9, torus=3, reach=8960, network=6.25e9),
    "v6e": Device(918e12, 32e9, 1.64e12, 31.25 * GIB, link=90e9, torus=2, reach=256, network=12.5e9),
    "tpu7x": Device(1153e12, 96e9, 3.69e12, 94.75 * GIB, link=50e9, torus=3, reach=18432, network=6.25e9, per_chip=2),
}
ALIASES = {"v5 lite": "v5e", "v5litepod": "v5e", "v6 lite": "v6e", "v5": "v5p", "7x": "tpu7x"}


def find_device(kind: str) -> Device | None:
    """The table's entry for a jax `device_kind` such as "NVIDIA H200" or "TPU v5 lite"; None when unknown."""
    words = kind.lower()
    for name, device in DEVICES.items():
        if name in words:
            return device
    return next((DEVICES[name] for alias, name in ALIASES.items() if alias in words), None)


def peak_flops(kind: str) -> float | None:
    """Dense bf16 FLOP/s of one device of this kind, or None (a CPU, an unknown chip)."""
    device = find_device(kind)
    return device.flops if device else None
