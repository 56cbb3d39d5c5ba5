"""Topology strings such as v5p:4x4x4: how many chips and devices of which kind, and their handles for compiling.

    v5e:16x16    256 chips, 1 device a chip         tpu7x:4x4x4  64 chips, 2 devices a chip
    h200:8       8 GPUs behind one switch            cpu:8        8 virtual devices of this machine

TPU handles come from libtpu, which compiles for chips that are not there; CPU handles are this process's own. GPUs
have figures, so that a mesh can be chosen for them, but no compiler away from them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from models.devices import DEVICES, Device
from models.errors import ConfigError, nearest, require

_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
TPU_SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {"v5e": _FLAT, "v6e": _FLAT}
LARGEST_SLICE = {"v5p": (16, 20, 28), "tpu7x": (16, 24, 24)}  # 8,960 and 9,216 chips
GPUS = ("a100", "h100", "h200", "b200")
CPU = Device(flops=5e10, memory=8e9, bandwidth=1e10, link=2e9, reach=2**20, efficiency=1.0, latency=3e-5, overlap=0.0)
NO_CHIPS = {  # keeps libtpu from asking a metadata server, from complaining of its answer, and from locking chips
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # of this machine, not of the topology
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
EXAMPLES = ("v5e:16x16", "v5p:4x4x4", "v6e:16x16", "tpu7x:4x4x4", "h200:8", "cpu:8")


@dataclass(frozen=True)
class Topology:
    """Chips of one family and how they lie: `shape` is the torus of chips, or the number of GPUs or CPU devices."""

    family: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As it is written: v5p:4x4x4."""
        return f"{self.family}:{'x'.join(map(str, self.shape))}"

    @property
    def device(self) -> Device:
        """The figures of one jax device."""
        return CPU if self.family == "cpu" else DEVICES[self.family]

    @property
    def chips(self) -> int:
        """Chips, GPUs, or virtual CPU devices."""
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """Devices as jax counts them: two on each TPU7x chip."""
        return self.chips * self.device.per_chip

    @property
    def is_tpu(self) -> bool:
        """Whether libtpu compiles for it."""
        return self.family not in GPUS and self.family != "cpu"

    @property
    def can_compile(self) -> bool:
        """Whether there is a compiler for it away from its chips."""
        return self.family not in GPUS


def parse_topology(text: str) -> Topology:
    """The topology that a string names; ConfigError with near names where there is none."""
    family, _, rest = text.strip().lower().partition(":")
    if family not in (*TPU_SHAPES, *LARGEST_SLICE, *GPUS, "cpu"):
        families = (*TPU_SHAPES, *LARGEST_SLICE, *GPUS, "cpu")
        guess = nearest(family, families)
        fix = f"did you mean {example(guess)}?" if guess else f"write one such as {', '.join(EXAMPLES)}"
        raise ConfigError("--topology", f"{text!r} is no known kind of device", fix)
    parts = rest.split("x")
    if not all(part.isdigit() and 0 < int(part) < 10**5 for part in parts):
        raise ConfigError("--topology", f"{text!r} has no shape", f"write it as {example(family)}")
    topology = Topology(family, tuple(int(part) for part in parts))
    known = _shapes_of(family)
    require(
        topology.shape in known if topology.is_tpu else len(parts) == 1,
        "--topology",
        f"{family} has no slice {rest}",
        f"near it: {', '.join(_near(topology, known))}" if topology.is_tpu else f"write it as {example(family)}",
    )
    return topology


def example(family: str) -> str:
    """A topology string of this family."""
    return next(name for name in (*EXAMPLES, f"{family}:8") if name.startswith(f"{family}:"))


def _shapes_of(family: str) -> tuple[tuple[int, ...], ...]:
    """The slices that a TPU family is sold in: up to 64 chips even sides, from there on multiples of 4."""
    if family in TPU_SHAPES:
        return TPU_SHAPES[family]
    if family not in LARGEST_SLICE:
        return ()
    most = LARGEST_SLICE[family]
    small = [(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)]
    sides = [range(4, side + 1, 4) for side in most]
    return (*small, *((x, y, z) for x in sides[0] for y in sides[1] for z in sides[2] if x <= y <= z))


def _near(topology: Topology, known: Iterable[tuple[int, ...]]) -> list[str]:
    """The slices closest in number of chips."""

    def distance(shape: tuple[int, ...]) -> float:
        return abs(math.log(math.prod(shape) / topology.chips))

    return [Topology(topology.family, shape).name for shape in sorted(known, key=distance)[:3]]


def require_compiler(topology: Topology) -> None:
    """ConfigError where a topology cannot be compiled for at all; ModuleNotFoundError, which command lines turn into
    the name of the extra, where libtpu is missing."""
    fix = "give a TPU topology, or --choose_mesh --verify=0"
    problem = f"{topology.name} cannot be compiled without the GPUs"
    require(topology.can_compile, "--topology", problem, fix)
    if topology.is_tpu and importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError("No module named 'libtpu'", name="libtpu")


def find_devices(topology: Topology) -> list[Any]:
    """jax device handles to compile for; raises as `require_compiler` does."""
    require_compiler(topology)
    return _tpu_devices(topology) if topology.is_tpu else _cpu_devices(topology.devices)


def _tpu_devices(topology: Topology) -> list[Any]:
    for name, value in NO_CHIPS.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    bounds = {"chips_per_host_bounds": (1, 1, 1)} if topology.chips == 1 else {}
    return list(topologies.get_topology_desc(topology.name, platform="tpu", **bounds).devices)


def _cpu_devices(count: int) -> list[Any]:
    import jax

    with contextlib.suppress(RuntimeError):  # once jax has started, their number stands
        jax.config.update("jax_num_cpu_devices", max(count, int(os.environ.get("JAX_NUM_CPU_DEVICES") or 1)))
    devices = jax.devices("cpu")
    fix = f"set JAX_NUM_CPU_DEVICES={count}, or give cpu:{len(devices)}"
    require(len(devices) >= count, "--topology", f"cpu:{count} needs {count} devices, jax has {len(devices)}", fix)
    return devices[:count]
