"""Which kind of device the program being traced will run on."""

from __future__ import annotations

import jax


def target_platform() -> str:
    """ "cpu", "tpu" or "gpu" (for every GPU maker): of the current mesh's devices, else of jax's default backend.

    The mesh decides first because a program can be compiled ahead of time for devices that this host does not have.
    """
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    platform = getattr(device, "platform", None) or jax.default_backend()
    return "gpu" if platform in ("cuda", "rocm") else platform


def on_cpu() -> bool:
    """Whether the program being traced will run on a CPU."""
    return target_platform() == "cpu"
