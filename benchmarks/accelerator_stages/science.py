"""Science: configs/isoflop_gpu.py shortened: a run of 30x the largest compute, foretold before it is trained.

A tenth of that config's budgets and a third of its least steps, so that sweep and test fit into a minute or two. What
was predicted is read from predictions.jsonl, which the sweep writes before the run that tests it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from accelerator_stages.common import ROOT, Absent, Cases

OVERRIDES = {"isoflop.budgets": "(2.5e13,5e13,1e14,2e14)", "isoflop.min_steps": "200"}
TOY_OVERRIDES = {
    "model.d_model": "8", "model.n_layers": "1", "model.n_heads": "2", "model.dtype": "float32",
    "train.batch_size": "4", "train.seq_len": "16", "train.eval_sequences": "8", "train.learning_rate": "0.01",
    "data.source": "text", "data.path": str(ROOT / "docs"), "workers": "1",
    "isoflop.budgets": "(3e8,6e8,1.2e9)", "isoflop.widths": "(8,12,16)", "isoflop.min_ratio": "0.1",
    "isoflop.max_ratio": "1e5", "isoflop.min_steps": "20",
    "prediction.factor": "2.0", "prediction.bootstrap": "20", "prediction.widths": "(12,)",
}  # fmt: skip


def cases(stage: str, toy: bool, out: Path) -> Cases:
    """One sweep."""
    return {"isoflop": partial(sweep, TOY_OVERRIDES if toy else OVERRIDES)}


def sweep(overrides: dict[str, str]) -> dict[str, Any]:
    """The prediction beside what was measured; the directory of the sweep is not kept."""
    try:
        import orbax.checkpoint  # noqa: F401
        import pandas  # noqa: F401
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise Absent(f"a sweep needs the whole install: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "launch.sweep", "--config", str(ROOT / "configs" / "isoflop_gpu.py")]
        command += ["--workdir", folder + "/run", *(f"--config.{name}={value}" for name, value in overrides.items())]
        if "data.path" in overrides:
            command.append(f"--config.data.cache_dir={folder}/cache")
        began = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the sweep ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        return judged(Path(folder) / "run") | {"sweep_s": round(time.perf_counter() - began, 1)}


def judged(run: Path) -> dict[str, Any]:
    """What predictions.jsonl and results.parquet of a finished sweep say."""
    import scaling
    from scaling.sweep.directory import RunDirectory

    (said,) = RunDirectory(run).predictions()
    table = scaling.load(run)
    (held,) = table[table["split"] == "heldout"].to_dict("records")
    low, high = said["low"], said["high"]
    return {
        "predicted": said["mean"], "interval": [low, high], "measured": held["loss"],
        "relative_error": round(held["loss"] / said["mean"] - 1, 5), "inside": bool(low <= held["loss"] <= high),
        "trials": len(table), "largest_fitted_flops": float(table.loc[table["split"] == "fit", "flops"].max()),
        "heldout_flops": float(held["flops"]), "fitted_on": said["fitted_on"],
    }  # fmt: skip
