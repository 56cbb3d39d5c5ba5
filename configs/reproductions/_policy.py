"""What several reproductions share: two small policies that think in steps, and what they write on held-out problems.

Both are trained on chains of 2 to 8 operations modulo 7 (scaling/tasks/reasoned.py): a thought is whole, ends early or
is none, and holds results that were taken back. Six minutes on one core.
"""

from __future__ import annotations

from pathlib import Path

from models.presets import ladder
from scaling.data import DataConfig, Source
from scaling.reproduction import Workspace
from scaling.sweep.config import SweepConfig
from scaling.tasks import CharTokenizer, task_by_name
from scaling.train.config import TrainConfig

LEVELS = (2, 4, 6, 8)
TASK = f"reasoned:operations={'/'.join(map(str, LEVELS))}"
WIDTHS = (32, 64)


def plan(quick: bool = False) -> SweepConfig:
    """The sweep that trains them, or one of seconds."""
    return SweepConfig(
        name="thinkers",
        model=ladder(WIDTHS[0], vocab_size=CharTokenizer.of(task_by_name(TASK)).vocab_size, n_layers=2),
        data=DataConfig(
            mixture=(Source(source="task", path=f"{TASK},examples={2000 if quick else 100_000}"),),
            tokenizer="characters", packing="segments", loss_mask="completion",
        ),
        train=TrainConfig(
            steps=30 if quick else 3000, batch_size=16, seq_len=128, final_learning_rate=0.0, eval_sequences=256,
            log_every=100, checkpoint_every=1000,
        ),
        points=tuple({"model.d_model": width, "train.learning_rate": 0.64 / width} for width in WIDTHS),
        stack_size=1,
    )  # fmt: skip


def thinkers(work: Workspace) -> dict[int, Path]:
    """The directory of each policy, by its width."""
    name = "thinkers_quick" if work.quick else "thinkers"
    table = work.sweep(plan(work.quick), name, shared=True)
    return {int(width): work.shared / "sweeps" / name / "trials" / trial
            for width, trial in zip(table["d_model"], table["trial"])}  # fmt: skip
