"""How results are written down and compared: bits where the platform is the recorded one, else numbers to 1e-6."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np

RELATIVE = 1e-6  # of a loss, for every step so far: what another order of the same sums moves, and training carries on
# Of the rest: ten steps of Adam divide such differences by small gradients (6e-6 seen without fused multiply-adds), and
# an activation that another rounding takes to the next integer of eight bits moves log-probabilities (8e-5 seen).
AMPLIFIED = 2e-4
BITS = "bits "  # before float32 numbers as words of eight hex digits
DIGEST = "sha256 "  # before sixteen hex digits of a digest of bytes, which only exact comparison reads


def machine() -> dict[str, Any]:
    """What the last bits depend on: the CPU's instructions, XLA, and how many threads share a sum."""
    return {
        "platform": platform.platform(terse=True).split("-")[0] + " " + platform.machine(),
        "cpu": cpu_line("model name"),
        "instructions": digest(" ".join(sorted(cpu_line("flags").split())).encode()),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "numpy": np.__version__,
        "devices": len(jax.devices()),
        "threads": os.environ.get("NPROC", ""),
        "xla_flags": " ".join(sorted(os.environ.get("XLA_FLAGS", "").split())),
    }


def cpu_line(name: str) -> str:
    """The first line of this name in /proc/cpuinfo; empty on systems without it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def digest(data: bytes) -> str:
    """The head of a sha256."""
    return DIGEST + hashlib.sha256(data).hexdigest()[:16]


def number(x: Any) -> str:
    """A float, exactly."""
    return float(x).hex()


def bits(x: Any) -> str:
    """float32 numbers of an array in order, exactly."""
    flat = np.asarray(x, np.float32).ravel()
    return BITS + " ".join(f"{word:08x}" for word in flat.view(np.uint32))


def array(x: Any) -> str:
    """Shape, dtype and bytes of an array as one digest."""
    x = np.asarray(x)
    return digest(f"{x.shape} {x.dtype}".encode() + np.ascontiguousarray(x).tobytes())


def leaves(tree: Any) -> dict[str, list[str]]:
    """Of every array of a tree, by its path: digest and Euclidean norm."""
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        x = np.asarray(x)
        found[jax.tree_util.keystr(path, simple=True, separator="/")] = [array(x), norm(x)]
    return dict(sorted(found.items()))


def norm(x: np.ndarray) -> str:
    """The Euclidean norm, summed in float64 one by one, so that it does not depend on how NumPy splits a sum."""
    total = np.cumsum(np.square(x.astype(np.float64).ravel()))
    return number(np.sqrt(total[-1]))


def whole(tree: Any) -> str:
    """One digest of all arrays of a tree."""
    return digest("\n".join(f"{name} {entry[0]}" for name, entry in leaves(tree).items()).encode())


def mode(exact: bool) -> str:
    """How two recordings are compared, in words."""
    near = f"losses to {RELATIVE:g} relative per step, the rest to {AMPLIFIED:g}, tokens and counts equal"
    return "bit by bit" if exact else f"{near}: recorded on another machine"


def differences(want: Any, got: Any, exact: bool, where: str = "") -> Iterator[tuple[str, float]]:
    """(path, relative difference) of every entry that is not as it was; infinite where the kind of entry differs.

    exact: strings must be equal. Else numbers may differ as `mode` says, over the largest beside them, and digests are
    left out. Integers, texts and the sets of names must be equal either way.
    """
    if isinstance(want, dict) and isinstance(got, dict):
        for name in sorted(want.keys() | got.keys()):
            path = f"{where}/{name}"
            if name not in want or name not in got:
                yield f"{path} ({'gone' if name in want else 'new'})", float("inf")
            else:
                yield from differences(want[name], got[name], exact, path)
    elif isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        for i, (a, b) in enumerate(zip(want, got)):
            yield from differences(a, b, exact, f"{where}[{i}]")
    elif want != got:
        apart = relative(want, got)
        if exact or apart > tolerance(where):
            yield f"{where}: {short(want)} became {short(got)}", apart


def tolerance(where: str) -> float:
    """How far the entry at this path may be off on another machine."""
    found = re.search(r"/loss(?:es)?(?:\[(\d+)\])?$", where)
    return RELATIVE * (int(found[1] or 0) + 1) if found else AMPLIFIED


def relative(want: Any, got: Any) -> float:
    """How far two entries are apart, over the largest number of the first; 0 for digests, infinite for other texts."""
    a, b = values(want), values(got)
    if isinstance(want, str) and isinstance(got, str) and want.startswith(DIGEST) and got.startswith(DIGEST):
        return 0.0
    if a is None or b is None or a.shape != b.shape:
        return float("inf")
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    apart = np.abs(np.where(same, 0.0, a - b)).max() / max(np.abs(np.where(np.isfinite(a), a, 0.0)).max(), 1e-300)
    return float(apart) if np.isfinite(apart) else float("inf")


def values(entry: Any) -> np.ndarray | None:
    """The numbers of an entry made by `number` or `bits`; None for anything else."""
    if not isinstance(entry, str):
        return None
    if entry.startswith(BITS):
        words = [int(word, 16) for word in entry.removeprefix(BITS).split()]
        return np.array(words, np.uint32).view(np.float32).astype(np.float64)
    try:
        return np.array([float.fromhex(entry)]) if "0x" in entry or entry in ("nan", "inf", "-inf") else None
    except ValueError:
        return None


def short(entry: Any) -> str:
    """An entry as one reads it."""
    found = values(entry)
    text = str(entry) if found is None else " ".join(f"{x:.9g}" for x in found[:4])
    return text if len(text) <= 80 else text[:77] + "..."
