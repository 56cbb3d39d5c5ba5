"""Forty-eight small policies on twelve synthetic tasks: six widths, two seeds, four lengths of training each.

    python -m launch.sweep --config configs/benchmark_ladder.py --workdir runs/benchmark_ladder

Ten minutes on one core. The lengths are branches of one run (warm-up, stable, decay), so they are its checkpoints, each
with the decay that a run of that length would have had. Every reproduction that asks how scores rise with size and
training reads this one sweep.
"""

import pandas as pd

from models.presets import ladder
from scaling.data import DataConfig, Source
from scaling.evaluate.trials import evaluate_trials
from scaling.reproduction import Workspace
from scaling.sweep.config import SweepConfig, Value
from scaling.tasks import CharTokenizer, task_by_name
from scaling.train.config import TrainConfig

TASKS = (
    "arithmetic:operation=add,style=reversed",
    "arithmetic:operation=max,digits=3,other_digits=3",
    "modular:operations=4",
    "copy:longest=6",
    "copy:longest=6,order=reverse",
    "copy:longest=6,order=sorted",
    "recall:keys=12,negated=5",
    "recall:keys=12,pairs=4",
    "tag:steps=2",
    "phrase",
    "claim",
    "demonstrations",
)
WIDTHS = (8, 16, 24, 32, 48, 72)
STEPS = (200, 400, 800, 1600)


def points(widths: tuple[int, ...], steps: tuple[int, ...]) -> tuple[dict[str, Value], ...]:
    return tuple(
        {"model.d_model": width, "train.learning_rate": min(0.02, 0.64 / width), "train.steps": length}
        for width in widths
        for length in steps
    )


def config(widths: tuple[int, ...] = WIDTHS, steps: tuple[int, ...] = STEPS, seeds: int = 2) -> SweepConfig:
    sources = tuple(Source(source="task", path=f"{t}{',' if ':' in t else ':'}examples=20000") for t in TASKS)
    model = ladder(widths[0], vocab_size=CharTokenizer.of(*map(task_by_name, TASKS)).vocab_size, n_layers=2)
    return SweepConfig(
        name="benchmark_ladder",
        model=model,
        data=DataConfig(mixture=sources, tokenizer="characters", loss_mask="completion"),
        train=TrainConfig(
            batch_size=16, seq_len=64, schedule="wsd", warmup_steps=40, final_learning_rate=0.0, eval_sequences=384,
            log_every=100, checkpoint_every=1000,
        ),
        points=points(widths, steps),
        seeds=seeds,
    )  # fmt: skip


CHOICES = tuple(f"choice.{task.replace(',negated=5', '')}{',' if ':' in task else ':'}items=150" for task in TASKS[:9])
TRAPS = tuple(f"trap.{task}items=150" for task in ("phrase:", "claim:", "demonstrations:", "recall:keys=12,"))


def plan(quick: bool) -> SweepConfig:
    """The sweep, or one of seconds that shows the mechanism."""
    return config(widths=(8, 12, 16), steps=(4, 8, 16), seeds=2) if quick else config()


def measured(work: Workspace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(results table of the ladder, one row per model and item), trained and measured once for all reproductions.

    The table has a column `run` for width and seed: its four lengths are one run. The rows have one, too.
    """
    name = "benchmark_ladder_quick" if work.quick else "benchmark_ladder"
    table = work.sweep(plan(work.quick), name, shared=True)
    table = table[table["status"] == "done"].sort_values("trial", ignore_index=True)
    suites = tuple(suite.replace("items=150", "items=12") if work.quick else suite for suite in (*CHOICES, *TRAPS))
    folder = work.shared / "scores" / name
    rows = evaluate_trials(work.shared / "sweeps" / name, list(table["trial"]), suites, folder, work.say)
    runs = {trial: f"{width}/{seed}" for trial, width, seed in zip(table.trial, table.d_model, table.seed, strict=True)}
    return table.assign(run=table["trial"].map(runs)), rows.assign(run=rows["trial"].map(runs))


def choices(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the suites that are no traps."""
    return rows[rows["task"].str.startswith("choice.")]
