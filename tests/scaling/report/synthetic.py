"""A run directory made from a known law: Chinchilla's form plus noise, with training curves and a held-out run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

TRUTH = {"E": 0.95, "A": 26.0, "B": 132.0, "alpha": 0.35, "beta": 0.37}
WIDTHS = {8: 3_200, 16: 9_700, 24: 19_500, 32: 32_600, 48: 69_000, 64: 119_000, 96: 259_000}


def true_loss(params, tokens):
    """Nats per token of the law above."""
    t = TRUTH
    return t["E"] + t["A"] / params ** t["alpha"] + t["B"] / tokens ** t["beta"]


def flops_per_token(params):
    """A cost that is not 6 N, as of small models, whose attention and head weigh more."""
    return 6 * params + 4_000


def sweep_rows(budgets=(1e11, 2.5e11, 6e11, 1.5e12), noise=0.003, seed=0, ratios=(4, 1500)):
    """Rows of results.parquet for an isoFLOP sweep: every width whose tokens per parameter are within `ratios`."""
    rng = np.random.default_rng(seed)
    rows = []
    for budget in budgets:
        for width, params in WIDTHS.items():
            tokens = int(budget / flops_per_token(params) // 512 * 512)
            if ratios[0] <= tokens / params <= ratios[1]:
                rows.append(row(f"{len(rows):02d}{width:04d}abcdef", params, tokens, rng.normal() * noise))
    return rows


def row(trial, params, tokens, noise=0.0, **changes):
    """One finished trial."""
    loss = float(true_loss(params, tokens) * np.exp(noise))
    return {
        "trial": trial, "sweep": "synthetic", "status": "done", "seed": 0, "params": params,
        "params_nonembed": params - 256, "tokens": tokens, "unique_tokens": tokens, "params_active": params,
        "flops": float(flops_per_token(params) * tokens), "loss": loss, "bpb": loss / np.log(2), "error": None,
        "wall_s": flops_per_token(params) * tokens / 2e10, "device": "cpu", "devices": 1, "config": "{}",
    } | changes  # fmt: skip


def failed_row(trial="ff0048abcdef", error="loss spiked to 9.31 at step 812", **changes):
    """A trial that a spike stopped."""
    return row(trial, 69_000, 1_200_000, **{"status": "failed", "loss": None, "bpb": None, "error": error} | changes)


def held_out_row(factor=8.0, params=119_000, noise=0.004, largest=1.5e12, trial="9f0064abcdef"):
    """A run of `factor` times the largest fitted compute."""
    return row(trial, params, int(factor * largest / flops_per_token(params)), noise)


def prediction(of, mean=None, low=None, high=None, **changes):
    """A line of predictions.jsonl for the trial in row `of`."""
    mean = float(true_loss(of["params"], of["tokens"])) if mean is None else mean
    inputs = {name: of[name] for name in ("params", "tokens", "flops")}
    low, high = (low or mean * 0.985), (high or mean * 1.015)
    line = {"time": "2026-01-02T03:04:05Z", "commit": "0123abc", "trial": of["trial"], "law": "chinchilla"}
    return line | {"inputs": inputs, "mean": mean, "low": low, "high": high, "interval": 0.9, "fitted_on": 24} | changes


def curve(of, points=60, seed=0):
    """Training rows of one trial: the law at growing D, from ln 256 down, with the noise of a batch."""
    rng = np.random.default_rng(seed)
    per_step = 512
    steps = np.unique(np.geomspace(10, max(of["tokens"] // per_step, 11), points).astype(int))
    seen = steps * per_step
    loss = np.minimum(true_loss(of["params"], seen) + 0.1, 5.5) * np.exp(rng.normal(size=len(steps)) * 0.01)
    per_token = of["flops"] / of["tokens"]
    return [
        {"step": int(s), "tokens": int(t), "flops": float(t * per_token), "learning_rate": 0.01, "loss": float(x),
         "grad_norm": 1.0}
        for s, t, x in zip(steps, seen, loss)
    ]  # fmt: skip


def write_directory(path: Path, rows, predictions=(), config=None, curves=True) -> Path:
    """Write rows, predictions, configs and curves as a run directory; no fit.json."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config if config is not None else {"name": "synthetic"}))
    pd.DataFrame(rows).to_parquet(path / "results.parquet")
    if predictions:
        (path / "predictions.jsonl").write_text("".join(json.dumps(p) + "\n" for p in predictions))
    for i, r in enumerate(rows if curves else []):
        trial = path / "trials" / r["trial"]
        trial.mkdir(parents=True, exist_ok=True)
        (trial / "config.json").write_text(r["config"])
        (trial / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in curve(r, seed=i)))
    return path
