"""What one accelerator can do: dense bf16 peak, memory, bandwidth, from the makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """Per chip (per device where a chip has two): FLOP/s dense bf16, bytes of memory, bytes/s of memory."""

    flops: float
    memory: float
    bandwidth: float


DEVICES: dict[str, Device] = {
    "a100": Device(312e12, 80e9, 2.04e12),
    "h100": Device(989e12, 80e9, 3.35e12),
    "h200": Device(989e12, 141e9, 4.8e12),
    "b200": Device(2250e12, 192e9, 8.0e12),
    "v4": Device(275e12, 32e9, 1.23e12),
    "v5e": Device(197e12, 16e9, 0.82e12),
    "v5p": Device(459e12, 95e9, 2.77e12),
    "v6e": Device(918e12, 32e9, 1.64e12),
}
ALIASES = {"v5 lite": "v5e", "v5litepod": "v5e", "v6 lite": "v6e", "v5": "v5p"}


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
