"""What this checkout trains, generates and searches is what golden.json kept of an earlier one, to the last bit.

Another CPU or another jax rounds otherwise; there the same numbers must come out to 1e-6 and the same tokens exactly.
`python tests/golden/write.py --against tests/golden/golden.json` prints all that differs, and how far.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.record import differences

HERE = Path(__file__).resolve().parent
KEPT = json.loads((HERE / "golden.json").read_text())


@pytest.mark.slow  # compiles some forty programs: 15 to 25 s a section on one core
@pytest.mark.parametrize("section", sorted(KEPT.keys() - {"machine"}))
def test_every_result_is_the_kept_one(section: str, tmp_path: Path) -> None:
    """In a process of its own, whose devices, threads and XLA flags are those of the recording."""
    out = tmp_path / "found.json"
    command = [sys.executable, str(HERE / "write.py"), "--only", section, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    exact = found["machine"] == KEPT["machine"]
    print(f"{section}: compared {'bit by bit' if exact else 'to 1e-6 relative, tokens equal: another machine'}")
    apart = [f"{section}{path} (by {by:.2g})" for path, by in differences(KEPT[section], found[section], exact)]
    assert not apart, "\n".join(apart[:40])
