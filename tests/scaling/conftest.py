"""Published runs are read from the folder that ISOFLOP_DATA names, and what was skipped without it is counted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.laws import CHINCHILLA

SKIPPED: list[str] = []


@pytest.fixture
def published(request):
    """published(name) -> DataFrame of a published set; skips, and counts the skip, when the folder is not named."""

    def read(name: str) -> pd.DataFrame:
        return pd.read_csv(_find(name, request))

    return read


@pytest.fixture
def published_folder(request):
    """The folder of the published sets; skips, and counts the skip, when it is not named."""
    return _find("chinchilla_fig4.csv", request).parent


def _find(name: str, request) -> Path:
    folder = os.environ.get("ISOFLOP_DATA")
    for file in [Path(folder) / "scaling" / name, Path(folder) / name] if folder else []:
        if file.exists():
            return file
    SKIPPED.append(request.node.nodeid)
    pytest.skip(f"ISOFLOP_DATA {'has no ' + name if folder else 'is not set'}")


def pytest_terminal_summary(terminalreporter):
    if SKIPPED:
        terminalreporter.write_line(f"{len(SKIPPED)} tests on published runs were skipped: set ISOFLOP_DATA")


@pytest.fixture
def chinchilla_runs(published):
    """The 240 Chinchilla runs with our column names."""
    table = published("chinchilla_fig4.csv")
    return table[table["kept_epoch240"]].rename(columns={"N": "params", "D": "tokens", "C": "flops"})


@pytest.fixture
def truth():
    """Parameters of the law that `synthetic` draws from."""
    return dict(A=400.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)


@pytest.fixture
def synthetic(truth):
    """synthetic(n, noise, seed, **changes of the truth) -> runs drawn from a known Chinchilla law."""

    def make(n: int = 60, noise: float = 0.003, seed: int = 0, **changes) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        params = np.exp(rng.uniform(np.log(5e7), np.log(1e10), n))
        tokens = np.exp(rng.uniform(np.log(1e9), np.log(3e11), n))
        loss = CHINCHILLA({**truth, **changes}, params=params, tokens=tokens) * np.exp(noise * rng.standard_normal(n))
        return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})

    return make
