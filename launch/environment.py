"""The process environment that runs start with: XLA flags, compilation cache, threads, CPUs, memory allocator.

All of it is read when jax starts (the allocator's part when the process starts), so `prepare` comes before the
first import of jax. What the user has set wins; JAX_PLATFORMS is left alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.errors import require

XLA_FLAGS: tuple[str, ...] = ()
"""XLA flags that pay on CPU, each measured by benchmarks/train_step.py (notes in benchmarks/NOTES.md)."""

PLATFORM_FLAGS: dict[str, tuple[str, ...]] = {
    # Collectives move away from what waits for them, so that products hide them; of no effect on one GPU. NVIDIA sets
    # it in its own JAX images (docs.nvidia.com/jax-toolbox/environment-variables). Known to jaxlib 0.10.2 and 0.12.0.1:
    # an unknown flag would end the process. Not taken: xla_gpu_triton_gemm_any (docs.jax.dev, GPU performance tips),
    # until benchmarks/accelerator.py has measured that it pays.
    "gpu": ("--xla_gpu_enable_latency_hiding_scheduler=true",),
    "tpu": (),  # libtpu's defaults are what launch.compile compiles and reports, so what runs is what was checked
}
"""XLA flags by the accelerator that is found, each with its reason and source."""

PLATFORM_VARIABLES: dict[str, dict[str, str]] = {
    # The share of a GPU's memory that is taken at the start and that a program may fill. 0.92 is what
    # `models.devices.Device.capacity` counts with; jax's own 0.75 (docs.jax.dev, GPU memory allocation) would refuse
    # programs that `launch.compile` said would fit. NVIDIA advises 0.8 to 0.9 beside its own libraries' memory.
    "gpu": {"XLA_CLIENT_MEM_FRACTION": "0.92"},
    "tpu": {},  # libtpu takes all of it
}
"""Variables by the accelerator that is found. What is tuned for a GPU (kernels of products and fusions) is kept beside
the compiled programs: jax does so by itself once JAX_COMPILATION_CACHE_DIR is set
(`jax_persistent_cache_enable_xla_caches`; docs.jax.dev, persistent compilation cache)."""

SYNONYMS: dict[str, str] = {"XLA_CLIENT_MEM_FRACTION": "XLA_PYTHON_CLIENT_MEM_FRACTION"}
"""Variable -> its former name; jaxlib refuses to start with both."""

THREADS_PER_CPU_DEVICE = 4
"""Threads of XLA's pool for each of several virtual CPU devices. Each collective blocks a thread until all its devices
have come, and a device may wait in several at once: with a thread each, as by default, seven devices can hold the
threads that the eighth needs (seen with `fsdp=2 stage=4` and `data=2 context=2 stage=2`, jax 0.10.2)."""

MALLOC_TUNABLES: dict[str, str] = {}
"""glibc.malloc.* tunables of training processes; read at process start, so subprocesses and `restart` get them."""

MALLOC_OPTIONS: dict[int, int] = {-4: 0, -1: 2**31 - 1, -8: 1}
"""mallopt settings of this process: no mapped chunks (M_MMAP_MAX), no trimming (M_TRIM_THRESHOLD), one arena."""

_CPUS = "ISOFLOP_CPUS"
_THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # the first is XLA's own


def prepare() -> None:
    """Set this process up, before its first import of jax: variables not yet set, and the CPUs it was given."""
    os.environ.update(settings(os.environ))
    keep_freed_memory()
    cpus = os.environ.get(_CPUS)
    if cpus and hasattr(os, "sched_setaffinity"):  # Linux only; elsewhere the thread count alone limits a worker
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})


def keep_freed_memory() -> None:
    """Let glibc keep and reuse what is freed, instead of mapping fresh pages for every large buffer.

    XLA's CPU backend allocates one temporary buffer per call; mapped anew, it costs a page fault per 4 KiB: 135 of
    520 ms of a `tiny` step. Other C libraries have no mallopt and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and sys.platform == "linux":
        for option, value in MALLOC_OPTIONS.items():
            mallopt(option, value)


def restart_with_malloc() -> None:
    """Start this command again under MALLOC_TUNABLES unless it already runs under them (same process id)."""
    if any(f"{name}=" not in os.environ.get("GLIBC_TUNABLES", "") for name in MALLOC_TUNABLES):
        environment = os.environ | {"GLIBC_TUNABLES": _tunables(os.environ)}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def worker_environment(
    threads: int, cpus: Sequence[int] | None = None, base: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The whole environment of a subprocess that computes with `threads` threads, pinned to `cpus` by `prepare`.

    The thread count fixes how XLA splits a reduction, and so the last bits of a result.
    """
    require(threads >= 1, "threads", f"is {threads}", "give at least one thread for each worker")
    environment = dict(base) | {name: str(threads) for name in _THREADS}
    environment |= settings(environment)
    environment.pop(_CPUS, None)
    if cpus is not None:
        require(len(cpus) > 0, "cpus", "is empty", "give at least one CPU for each worker")
        environment[_CPUS] = ",".join(str(cpu) for cpu in cpus)
    if MALLOC_TUNABLES:
        environment["GLIBC_TUNABLES"] = _tunables(base)
    return environment


def limit_threads(threads: int) -> None:
    """Let this process compute with `threads` threads from the moment that jax starts its devices."""
    os.environ.update({name: str(threads) for name in _THREADS})
    os.environ.update(settings(os.environ))


def available_cpus() -> list[int]:
    """The CPUs this process may run on, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def accelerators(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether jax will find an accelerator here; see `accelerator`."""
    return bool(accelerator(environment))


def accelerator(environment: Mapping[str, str] = os.environ, dev: Path = Path("/dev")) -> str:
    """ "gpu" or "tpu" where there is a device file and jax's plugin for it, unless JAX_PLATFORMS says cpu; else "".

    A guess that does not import jax, which would take the accelerator's memory from the workers.
    """
    if environment.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return ""
    if any(dev.glob("nvidia[0-9]*")) and _installed("jax_cuda12_plugin", "jax_cuda13_plugin"):
        return "gpu"
    if (any(dev.glob("accel[0-9]*")) or any(dev.glob("vfio/[0-9]*"))) and _installed("libtpu"):
        return "tpu"
    return ""


def _installed(*modules: str) -> bool:
    return any(importlib.util.find_spec(module) is not None for module in modules)


def compilation_cache() -> Path:
    """Where compiled programs are kept: one directory for each kind of CPU.

    jax's key leaves the CPU's instruction set out, and a program compiled for another one may crash.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "isoflop" / f"xla-{hashlib.sha256(_instruction_set().encode()).hexdigest()[:8]}"


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add to `environment`: compilation cache, what the accelerator that is found wants, those XLA
    flags that it does not set, and as many threads as several CPU devices need."""
    kind = accelerator(environment)
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": str(compilation_cache()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # the small models of a sweep compile in under a second
    } | PLATFORM_VARIABLES.get(kind, {})
    taken = environment.keys()
    added = {name: value for name, value in defaults.items() if not {name, SYNONYMS.get(name, name)} & taken}
    given = environment.get("XLA_FLAGS", "")
    names = {flag.split("=")[0] for flag in given.split()}
    ours = [flag for flag in (*XLA_FLAGS, *PLATFORM_FLAGS.get(kind, ())) if flag.split("=")[0] not in names]
    if ours:
        added["XLA_FLAGS"] = " ".join([*given.split(), *ours])
    devices, threads = cpu_devices(environment), environment.get("NPROC", "")
    if devices > 1 and (int(threads) if threads.isdecimal() else 0) < THREADS_PER_CPU_DEVICE * devices:
        added["NPROC"] = str(THREADS_PER_CPU_DEVICE * devices)
    return added


def cpu_devices(variables: Mapping[str, str]) -> int:
    """How many CPU devices jax will make, from its own variables."""
    flag = "--xla_force_host_platform_device_count="
    flags: Sequence[str] = variables.get("XLA_FLAGS", "").split()
    forced = [word.removeprefix(flag) for word in flags if word.startswith(flag)]
    count = (forced or [""])[-1] or variables.get("JAX_NUM_CPU_DEVICES", "1")
    return int(count) if count.isdigit() and int(count) > 0 else 1


def _tunables(environment: Mapping[str, str]) -> str:
    given = environment.get("GLIBC_TUNABLES", "")
    ours = [f"{name}={value}" for name, value in MALLOC_TUNABLES.items() if f"{name}=" not in given]
    return ":".join(([given] if given else []) + ours)


def _instruction_set() -> str:
    info = Path("/proc/cpuinfo")
    flags = ""
    if info.exists():
        with info.open() as lines:
            flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {flags}"
