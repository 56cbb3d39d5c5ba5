"""Which kind of device the program being traced will run on, and what is chosen differently there.

What a process starts with (XLA flags, memory, caches) is chosen in launch/environment.py, and figures of devices are in
models/devices.py. Kernels whose choice also depends on shapes ask `target_platform` where they are: attention
(models/causal_attention.py), products (models/contraction.py), chunks of logits (models/cross_entropy.py).
docs/accelerators.md lists them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax


@dataclass(frozen=True)
class Choices:
    """What depends on the platform alone.

    batch_mode: how trials of one stack run, all at once ("vmap") or one after the other in one program ("map").
    """

    batch_mode: Literal["map", "vmap"]


CHOICES: dict[str, Choices] = {
    # One model fills a core; side by side their operands leave its cache: 57 ms against 63 for eight `micro`
    # (benchmarks/sweep_step.py, benchmarks/NOTES.md).
    "cpu": Choices(batch_mode="map"),
    # A small model leaves most of an accelerator idle and pays a launch for every operation, which a stack shares; not
    # measured by us yet (stage `many` of benchmarks/accelerator.py).
    "gpu": Choices(batch_mode="vmap"),
    "tpu": Choices(batch_mode="vmap"),
}


def choices() -> Choices:
    """The current platform's; of one that is not in the table, an accelerator's."""
    return CHOICES.get(target_platform(), CHOICES["gpu"])


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
