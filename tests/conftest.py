"""Set the process up before anything imports jax: as a run would, with eight virtual CPU devices for meshes."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from launch import environment
from tests.quick import QUICK_FLAGS

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".cache" / "xla"))
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("MPLBACKEND", "agg")
# Also in the processes that tests start; ISOFLOP_COMPILE=full compiles as a run does.
if os.environ.get("ISOFLOP_COMPILE") != "full":
    # of two equal flags the last wins
    os.environ["XLA_FLAGS"] = f"{QUICK_FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(REPOSITORY / ".cache" / "hypothesis"))
environment.prepare()

# A shared machine stalls for longer than any per-example deadline; a fixed seed makes a failure repeat.
settings.register_profile("isoflop", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("isoflop")

# A shell that starts the tests in the background ignores SIGINT for them, and every process they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Run with every supported pair of Python and jax (`-m pair`), without their slow tests: what a new jax breaks first.
PAIR = (
    "tests/models/test_transformer.py",
    "tests/scaling/train/test_optimizer.py",
    "tests/scaling/train/test_step.py",
)
KEEP_BYTES = 1.2e9  # a worker larger than this lets its compiled programs go after a module
MOST_BYTES = 2.2e9  # and one larger than this after any test: a module that runs every family's model has many


@pytest.fixture(scope="module", autouse=True)
def let_programs_go() -> Iterator[None]:
    """After a module, give back the memory of compiled programs and what they computed, once it has become much.

    A module's programs are of little use to the next one; all modules' together are several GB in each worker. What the
    next does need again comes from the compilation cache on the disk. `prepare` has malloc keep what is freed.
    """
    yield
    _let_go_above(KEEP_BYTES)


def pytest_runtest_teardown() -> None:
    """The same within a module, once a worker would become too large."""
    _let_go_above(MOST_BYTES)


def _let_go_above(size: float) -> None:
    if "jax" in sys.modules and resident_bytes() > size:
        sys.modules["jax"].clear_caches()
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
        if trim is not None:
            trim(0)


def resident_bytes() -> int:
    """Memory of this process; 0 where there is no /proc."""
    sizes = Path("/proc/self/statm")
    return int(sizes.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if sizes.exists() else 0


def pytest_collection_finish() -> None:
    """Leave what was made so far, modules and tests, out of the garbage collector's rounds, and make those rarer.

    Tracing makes so many small objects that half a million old ones were walked every few programs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of PAIR."""
    for item in items:
        name = item.path.relative_to(REPOSITORY).as_posix() if item.path.is_relative_to(REPOSITORY) else ""
        if name in PAIR and item.get_closest_marker("slow") is None:
            item.add_marker("pair")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the tests that were skipped, one a line, to the file that ISOFLOP_SKIPPED names: `pytest @FILE` runs them.

    Not in a worker of xdist, which sees a part of the tests alone.
    """
    path = os.environ.get("ISOFLOP_SKIPPED")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if path and reporter is not None and not hasattr(session.config, "workerinput"):
        names = dict.fromkeys(report.nodeid for report in reporter.stats.get("skipped", []))
        Path(path).write_text("".join(f"{name}\n" for name in names))
