"""Trials under evaluation: the models of a sweep as subjects, and the rows of all of them, measured once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from models import counts
from models.serialize import from_json
from scaling import kept, tables
from scaling.data import tokenizer_of
from scaling.evaluate.evaluate import Subject, evaluate, table
from scaling.evaluate.reading import document_reader
from scaling.evaluate.suites import suite
from scaling.sweep.trial import Trial
from scaling.train import checkpoint
from scaling.train.initial import load_initial


def trial_subject(directory: str | Path, step: int | None = None) -> tuple[Subject, Trial]:
    """(the model of a trial's directory at a step, by default the newest, ready to be evaluated; the trial).

    Raises:
      ConfigError: no trial, or no such checkpoint.
    """
    trial = from_json(Trial, kept.read(Path(directory) / "config.json", dict))
    params, _ = load_initial(directory, trial.model, "checkpoint", step=step)
    packed = trial.data.packing == "concatenate"
    return Subject(trial.model, params, document_reader(tokenizer_of(trial.data), packed)), trial


def evaluate_trials(
    sweep: str | Path, trials: Sequence[str], suites: Sequence[str], folder: str | Path,
    say: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:  # fmt: skip
    """The rows of choice and cloze suites for trials of a sweep's directory, with columns that say of which model:
    trial, params, seed, tokens, train_flops and steps.

    Every trial's rows are kept in `folder` as they come, and read from there when they are of the same parameters and
    suites; so a second reader, or one after a crash, measures only what is missing.
    """
    items = {name: suite(name) for name in suites}
    frames = []
    for number, name in enumerate(trials):
        place = Path(sweep) / "trials" / name
        checkpoints = place / "checkpoints"
        step = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal())
        facts = {"params": checkpoint.digest(checkpoints, step), "suites": kept.digest(sorted(suites)), "version": "1"}
        file = Path(folder) / f"{name}-{hashlib.sha256(facts['suites'].encode()).hexdigest()[:8]}.parquet"
        if not file.exists():
            subject, _ = trial_subject(place)
            rows = evaluate(subject, [item for made in items.values() for item in made])
            kept.write_atomically(file, tables.parquet(table(rows), facts))
            say(f"{number + 1} of {len(trials)} models evaluated")
        trial = from_json(Trial, kept.read(place / "config.json", dict))
        frame = tables.read(file, facts).to_pandas()
        frames.append(frame.assign(trial=name, params=counts.params(trial.model), seed=trial.train.seed,
                                   tokens=trial.train.tokens, train_flops=float(trial.flops),
                                   steps=trial.train.steps))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def per_item(rows: pd.DataFrame, column: str, by: str | Sequence[str] = "trial") -> pd.DataFrame:
    """A column of rows as [models, items]: one row for each value of `by` (means where several models share it), one
    column for each (task, problem)."""
    values = rows.assign(value=rows[column].astype(float))
    index = [by] if isinstance(by, str) else list(by)
    return values.pivot_table(index=index, columns=["task", "problem"], values="value")
