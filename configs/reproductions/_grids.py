"""Grids of learning rates and batches over small byte models of one text, at a constant rate: their losses and curves.

A constant rate makes every run all shorter ones as well. Its training loss, of text that it sees once, is a held-out
loss; every row of metrics is the mean over as many tokens, of the same text for all settings of a seed.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from models import counts
from models.presets import ladder
from scaling.reproduction import Workspace
from scaling.sweep.combinators import grid
from scaling.sweep.config import SweepConfig, Value
from scaling.train.config import TrainConfig
from scaling.train.metrics import read_rows

SEQ, ROW, WARMUP = 32, 8192, 4096  # tokens: of a sequence, of a row of metrics, of the warm-up
TOKENS = (2**16, 2**17, 2**18)  # at which a run is read; the last is its length
RATES, BATCHES = tuple(0.064 / 2**k for k in range(6)), (2, 4, 8, 16, 32, 64)  # of sequences
WIDTHS, LARGEST, SEEDS, MORE = (8, 12, 16), 24, 3, 300


def small(quick: bool) -> SweepConfig:
    """The sizes that laws are fitted to."""
    return _sweep("grids_small", WIDTHS, 1, quick)


def largest(quick: bool) -> SweepConfig:
    """The size that is left out, with several seeds."""
    return _sweep("grids_largest", (LARGEST,), 2 if quick else SEEDS, quick)


def one_setting(rate: float, batch_tokens: int, quick: bool) -> SweepConfig:
    """More seeds of one setting of the size that is left out."""
    batch, first = batch_tokens // SEQ, 2 if quick else SEEDS
    setting: dict[str, Value] = {"train.learning_rate": rate, "train.batch_size": batch, **_lengths(batch, quick)}
    points = tuple(setting | {"train.seed": first + n} for n in range(2 if quick else MORE))
    base = largest(quick)
    return replace(base, name="grids_many", model=ladder(LARGEST, n_layers=1), points=points, seeds=1)


def _sweep(name: str, widths: tuple[int, ...], seeds: int, quick: bool) -> SweepConfig:
    rates, batches = (RATES[1:4], BATCHES[3:5]) if quick else (RATES, BATCHES)
    axes = {"model.d_model": widths[:2] if quick else widths, "train.batch_size": batches, "train.learning_rate": rates}
    points = tuple(dict(point) | _lengths(point["train.batch_size"], quick) for point in grid(axes))
    train = TrainConfig(seq_len=SEQ, schedule="constant", eval_sequences=64, checkpoint_every=0)
    base = ladder(widths[0], n_layers=1)
    return SweepConfig(name, base, train=train, points=points, seeds=seeds, stack_size=len(rates) * seeds)


def _lengths(batch: int, quick: bool) -> dict[str, int]:
    step = SEQ * batch
    row = ROW // 4 if quick else ROW
    return {
        "train.steps": (row * 8 if quick else TOKENS[-1]) // step, "train.log_every": row // step,
        "train.warmup_steps": WARMUP // step,
    }  # fmt: skip


def curves(work: Workspace, config: SweepConfig) -> pd.DataFrame:
    """The training curves of a shared sweep, a row for each row of metrics of each trial: params_nonembed,
    learning_rate, batch_tokens, seed, tokens at its end, loss; and flops of the trial. Trials that diverged are left
    out."""
    name = config.name + "_quick" * work.quick
    table = work.sweep(config, name, shared=True)
    trials = {trial.id: trial for trial in config.trials()}
    parts = []
    for row in table[table["status"] == "done"].itertuples():
        train, path = trials[row.trial].train, work.shared / "sweeps" / name / "trials" / row.trial
        rows = [one for _, one in read_rows(path / "metrics.jsonl") if "loss" in one]
        parts.append(pd.DataFrame({"tokens": [r["tokens"] for r in rows], "loss": [r["loss"] for r in rows]}).assign(
            params_nonembed=row.params_nonembed, learning_rate=train.learning_rate, batch_tokens=train.tokens_per_step,
            seed=row.seed, flops=row.flops,
        ))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


SETTING = ["params_nonembed", "learning_rate", "batch_tokens", "seed"]


def losses(found: pd.DataFrame) -> pd.DataFrame:
    """The loss of every setting at every length: mean of the last quarter of its tokens."""
    lengths = [n for n in TOKENS if n <= found["tokens"].max()] or [int(found["tokens"].max())]
    parts = []
    for length in lengths:
        last = found[(found["tokens"] > 0.75 * length) & (found["tokens"] <= length)]
        mean = last.groupby(SETTING, as_index=False)["loss"].mean()
        parts.append(mean.assign(tokens=length))
    return pd.concat(parts, ignore_index=True)


def params_nonembed(config: SweepConfig) -> int:
    """Of the one size of a sweep."""
    (size,) = {counts.params_nonembed(trial.model) for trial in config.trials()}
    return size


def total_flops(found: pd.DataFrame) -> float:
    """Training FLOPs of all runs."""
    return float(found.groupby(SETTING)["flops"].first().sum())


def tuned(found: pd.DataFrame) -> pd.DataFrame:
    """The learning rate that suits every size and batch at the full length, a parabola's minimum inside its grid:
    params_nonembed, batch_tokens, learning_rate, nearest (of the grid)."""
    last = losses(found).query("tokens == tokens.max()")
    rows = []
    for (params, batch), cell in last.groupby(["params_nonembed", "batch_tokens"]):
        mean = cell.groupby("learning_rate")["loss"].mean()
        x, y = np.log(mean.index.to_numpy(float)), mean.to_numpy()
        at = int(np.clip(y.argmin(), 1, len(y) - 2)) + np.arange(-1, 2)
        a, b, _ = np.polyfit(x[at], y[at], 2)
        best = float(np.clip(-b / (2 * a), x[0], x[-1])) if a > 0 else float(x[y.argmin()])
        nearest = float(np.exp(x[np.argmin(np.abs(x - best))]))
        rows.append((params, batch, np.exp(best), nearest))
    return pd.DataFrame(rows, columns=["params_nonembed", "batch_tokens", "learning_rate", "nearest"])
