"""How fast and how low the scaling-law estimator gets, against scipy's L-BFGS-B over a 4,500-start grid.

    python benchmarks/fit.py [--data shared/data/scaling/chinchilla_fig4.csv] [--quick] [--keep]

Prints one JSON line per case: the least wall time of some repeats, with the least CPU time beside it, since other work
on the machine lengthens the first far more than the second. Without --data (or ISOFLOP_DATA) the table is 240 synthetic
runs of the same spread. --quick runs a fiftieth of the scipy starts and scales the time; the note says so.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # more BLAS threads make five-parameter problems ten times slower, scipy's above all

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import scipy  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.peers import fit_scipy  # noqa: E402
from scaling.laws import CHINCHILLA, fit  # noqa: E402

FIRST_FIT = """
import sys, time
start = time.perf_counter(), time.process_time()
sys.path.insert(0, {root!r})
import pandas as pd
from scaling.laws import CHINCHILLA, fit
fit(CHINCHILLA, pd.read_csv({path!r}))
print(time.perf_counter() - start[0], time.process_time() - start[1])
"""


def table(path: Path | None) -> tuple[pd.DataFrame, str]:
    """240 runs with params, tokens, loss, and where they come from."""
    if path is not None:
        data = pd.read_csv(path).rename(columns={"N": "params", "D": "tokens"})
        if "kept_epoch240" in data.columns:
            data = data[data["kept_epoch240"]]
        return data[["params", "tokens", "loss"]].reset_index(drop=True), path.stem
    rng = np.random.default_rng(0)
    flops, params = (np.exp(rng.uniform(np.log(low), np.log(high), 240)) for low, high in ((6e18, 3e21), (5e7, 1.6e10)))
    data = pd.DataFrame({"params": params, "tokens": flops / (6 * params)})
    truth = dict(A=482.0, B=2085.0, E=1.817, alpha=0.348, beta=0.366)
    loss = CHINCHILLA(truth, params=data["params"], tokens=data["tokens"])
    return data.assign(loss=loss * np.exp(0.005 * rng.standard_t(4, 240))), "synthetic"


class Time(NamedTuple):
    """Seconds: least wall and least CPU time over the repeats of a case."""

    wall: float
    cpu: float

    def scaled(self, factor: float) -> Time:
        """The time of `factor` times as much work."""
        return Time(self.wall * factor, self.cpu * factor)


def clock(run: Callable[[], Any], repeats: int = 1) -> tuple[Time, Any]:
    """The time of `run`, and its last result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        result = run()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, cpu = (min(column) for column in zip(*times, strict=True))
    return Time(wall, cpu), result


def emit(
    case: str, unit: str, ours: float, peer: float | None, *, bench: str = "fit", keep: bool = False, **more
) -> None:
    """One JSON line; ratio above 1 means that we are ahead (lower is better here)."""
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    line = {
        "bench": bench,
        "case": case,
        "unit": unit,
        "ours": ours,
        "peer": peer,
        "ratio": None if peer is None else peer / ours,
        "machine": f"{platform.machine()} {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "commit": commit.stdout.strip() or None,
        **more,
    }
    text = json.dumps(line)
    print(text, flush=True)
    if keep:
        with (ROOT / "benchmarks" / "results" / f"{bench}.jsonl").open("a") as file:
            file.write(text + "\n")


def seconds(show: Callable[..., None], case: str, ours: Time, peer: Time | None, **more: Any) -> None:
    """One line of times; the ratio is of CPU times, so that both sides may have shared the machine."""
    cpu = {"cpu_s": ours.cpu, "peer_cpu_s": None if peer is None else peer.cpu}
    ratio = None if peer is None else peer.cpu / ours.cpu
    show(case, "s", ours.wall, None if peer is None else peer.wall, ratio=ratio, **cpu, **more)


def first_fit(runs: pd.DataFrame) -> Time:
    """Seconds of one fit in a fresh process, imports included."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"fit_bench_{os.getpid()}.csv"
    runs.to_csv(path, index=False)
    try:
        out = subprocess.run(
            [sys.executable, "-c", FIRST_FIT.format(root=str(ROOT), path=str(path))],
            check=True,
            capture_output=True,
            text=True,
        )
    finally:
        path.unlink()
    return Time(*map(float, out.stdout.split()))


def main() -> None:
    """Run every case and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("ISOFLOP_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        help="CSV with columns N, D, loss",
        default=Path(default) / "scaling" / "chinchilla_fig4.csv" if default else None,
    )
    parser.add_argument("--quick", action="store_true", help="fewer scipy starts and resamples")
    parser.add_argument("--keep", action="store_true", help="append to benchmarks/results/fit.jsonl")
    options = parser.parse_args()
    show = partial(emit, keep=options.keep)
    runs, name = table(options.data)
    logs = [np.log(runs[c].to_numpy()) for c in ("params", "tokens", "loss")]
    grid = fit_scipy.starts()
    some = np.random.default_rng(0).permutation(len(grid))[: 90 if options.quick else len(grid)]

    fit(CHINCHILLA, runs)
    warm, fitted = clock(lambda: fit(CHINCHILLA, runs), 50)
    taken, best = clock(lambda: fit_scipy.fit_from(grid[some], *logs))
    scaled = taken.scaled(len(grid) / len(some))
    note = f"scipy: {len(some)} of {len(grid)} starts, time scaled" if options.quick else "scipy: all 4,500 starts"
    seconds(show, f"{name}: one certified fit", warm, scaled, note=note)
    show(f"{name}: objective (lower is better)", "huber sum", fitted.certificate.objective, float(best.fun), note=note)

    ours = pd.DataFrame(
        {**{n: np.exp(grid[:, k]) for k, n in enumerate("ABE")}, "alpha": grid[:, 3], "beta": grid[:, 4]}
    )
    brute, forced = clock(lambda: fit(CHINCHILLA, runs, starts=ours), 1 if options.quick else 3)
    seconds(show, f"{name}: the same 4,500 starts", brute, scaled, note=note, agreed=forced.certificate.agreed)

    resamples, few = (400, 5) if options.quick else (4000, 20)
    boot, _ = clock(lambda: fitted.resampled(resamples), 1 if options.quick else 3)
    peer_boot, _ = clock(lambda: fit_scipy.bootstrap_from(best.x, *logs, size=few))
    how = f"ours globally initialised, scipy from the optimum on {few}, time scaled"
    seconds(show, f"{name}: bootstrap of {resamples}", boot, peer_boot.scaled(resamples / few), note=how)

    fresh = [first_fit(runs) for _ in range(1 if options.quick else 3)]
    first = Time(min(one.wall for one in fresh), min(one.cpu for one in fresh))
    seconds(show, f"{name}: first fit in a fresh process, imports included", first, None)


if __name__ == "__main__":
    main()
