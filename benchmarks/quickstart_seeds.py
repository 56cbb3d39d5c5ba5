"""How well the quickstart's prediction holds: run it for several seeds, one JSON line each.

    python benchmarks/quickstart_seeds.py --seeds 5 --workdir runs/seeds

Each line has the seed, wall seconds, peak memory of all its processes, the prediction with its interval, the measured
loss and whether it lay inside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def resident_bytes(marker: str) -> int:
    """Resident memory of all processes whose command line names `marker` (Linux)."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (process / "cmdline").read_bytes():
                pages = int((process / "statm").read_text().split()[1])
                total += pages * 4096
        except (OSError, IndexError):  # the process has just ended
            continue
    return total


def run(seed: int, workdir: Path) -> dict:
    """One quickstart from an empty directory."""
    peak, running = 0, True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, resident_bytes(str(workdir)))
            time.sleep(0.5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    command = [sys.executable, "-m", "launch.quickstart", "--workdir", str(workdir), "--seed", str(seed)]
    code = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode
    seconds = time.perf_counter() - begin
    running = False
    watcher.join()
    row = {"seed": seed, "exit_code": code, "wall_s": round(seconds, 1), "peak_gib": round(peak / 2**30, 2)}
    predictions = (workdir / "predictions.jsonl").read_text().splitlines()
    for prediction in map(json.loads, predictions):
        loss = json.loads((workdir / "trials" / prediction["trial"] / "result.json").read_text())["loss"]
        row |= {name: prediction[name] for name in ("mean", "low", "high", "interval")}
        row |= {"measured": loss, "error": prediction["mean"] / loss - 1}
        row["inside"] = prediction["low"] <= loss <= prediction["high"]
    return row


def main() -> None:
    """Run the seeds and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workdir", type=Path, default=Path("runs/seeds"))
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        rows.append(run(seed, arguments.workdir.resolve() / f"seed{seed}"))
        print(json.dumps(rows[-1]), flush=True)
    held = sum(row["inside"] for row in rows)
    worst = max(abs(row["error"]) for row in rows)
    print(json.dumps({"seeds": len(rows), "inside": held, "worst_error": round(worst, 5)}))


if __name__ == "__main__":
    main()
