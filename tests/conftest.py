"""Set the process up before anything imports jax: as a run would, with eight virtual CPU devices for meshes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from hypothesis import settings

from launch import environment

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".cache" / "xla"))
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(REPOSITORY / ".cache" / "hypothesis"))
environment.prepare()

# A shared machine stalls for longer than any per-example deadline; a fixed seed makes a failure repeat.
settings.register_profile("isoflop", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("isoflop")

# A shell that starts the tests in the background ignores SIGINT for them, and every process they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
