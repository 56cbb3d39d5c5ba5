"""Recorded test-time data, read from the folder that ISOFLOP_DATA names; a skip says what is missing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def folder() -> Path:
    """The folder of the recorded sets."""
    root = os.environ.get("ISOFLOP_DATA")
    if not root or not (Path(root) / "testtime").is_dir():
        pytest.skip(f"ISOFLOP_DATA {'has no testtime' if root else 'is not set'}")
    return Path(root) / "testtime"


def vectors(name: str) -> Any:
    """A parsed file of independently computed values."""
    return json.loads((folder() / name).read_text())
