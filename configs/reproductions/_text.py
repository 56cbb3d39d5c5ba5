"""What several reproductions share: a ladder of small byte models of one text (python -m launch.reproduce --list)."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from models.presets import ladder as rung
from scaling.data import DataConfig
from scaling.reproduction import Workspace
from scaling.sweep.combinators import grid, product, seeds
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig

WIDTHS = (8, 12, 16, 24, 32)


def ladder(quick: bool = False) -> SweepConfig:
    """Equal tokens, sizes that differ in width alone, two seeds of each."""
    widths, repeats, steps = (WIDTHS[:3], 1, 30) if quick else (WIDTHS, 2, 1500)
    points = [{**at, "train.learning_rate": 0.4 / at["model.d_model"]} for at in grid({"model.d_model": list(widths)})]
    return SweepConfig(
        name="text_ladder",
        model=rung(8, n_layers=2),
        data=DataConfig(),
        train=TrainConfig(
            steps=steps, batch_size=16, seq_len=64, final_learning_rate=0.0, eval_sequences=256, log_every=500,
        ),
        points=tuple(map(dict, product(points, seeds(repeats)))),
        stack_size=2,
    )  # fmt: skip


def trained(work: Workspace) -> pd.DataFrame:
    """The results table of the ladder, ordered by size and seed."""
    table = work.sweep(ladder(work.quick), _name(work), shared=True)
    return table[table["status"] == "done"].sort_values(["params", "seed"], ignore_index=True)


def folders(work: Workspace, table: pd.DataFrame) -> Iterator[Path]:
    """The directory of each trial of the ladder's table."""
    for trial in table["trial"]:
        yield work.shared / "sweeps" / _name(work) / "trials" / trial


def _name(work: Workspace) -> str:
    return "text_ladder_quick" if work.quick else "text_ladder"
