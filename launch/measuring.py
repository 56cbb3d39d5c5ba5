"""What `train.evaluations` asks of a trial, as the training loop takes it: suites, measured of given parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from launch.evaluate import SHOWN
from launch.evaluations import items_digest
from models.errors import ConfigError, require
from scaling.data import tokenizer_of
from scaling.evaluate import Item, Subject, document_reader, evaluate, suite
from scaling.evaluate.grading import after_marker, whole
from scaling.evaluate.suites import verifier
from scaling.evaluate.summary import MEANS
from scaling.sweep.trial import Trial
from scaling.train.evaluations import FLOPS, Columns, Measure

FIELD = "train.evaluations.suites"
LIKELY = ("choice", "cloze")  # formats that need no generated answer


def measuring(trial: Trial) -> Measure | None:
    """The measure of a trial's `train.evaluations`; None where it names no suites. Compiles nothing.

    Columns are SUITE/METRIC of the metrics that launch.evaluate prints: means over items, as in its summary.csv.

    Raises:
      ConfigError: an unknown suite; items that the tokenizer cannot read; answers that no engine here can generate.
    """
    asked = {name: items_of(name, place) for name, place in trial.suites.items()}
    if not asked:
        return None
    packed, tokenizer = trial.data.packing == "concatenate", tokenizer_of(trial.data)
    reader = document_reader(tokenizer, packed)
    for items in asked.values():
        for item in items:
            reader.question(item, item.choices[0] if item.choices else "")  # what cannot be read ends here
    answers = _answers(trial, tokenizer, reader, [item for items in asked.values() for item in items])

    def measured(params: Any) -> Columns:
        if answers is not None:
            answers.use_params(jax.device_get(params))  # from a mesh to the one device of an engine
        before = answers.flops if answers else 0
        columns: Columns = {}
        flops = 0.0
        for name, items in asked.items():
            own = name.endswith(".jsonl")
            extract, verify = (after_marker, None) if own else (whole, verifier(name))
            rows = evaluate(Subject(trial.model, params, reader), items, answers, verify, extract)
            columns |= {f"{name}/{metric}": value for metric, value in means(rows).items()}
            flops += sum(row["flops"] for row in rows if row["format"] in LIKELY)
        return columns | {FLOPS: flops + (answers.flops if answers else 0) - before}

    digest = items_digest([item for items in asked.values() for item in items])
    return Measure(f"{digest} {trial.train.evaluations.max_tokens}", measured)


def items_of(name: str, place: str) -> Sequence[Item]:
    """The items of a suite; errors name the field of the config."""
    try:
        return suite(place)
    except ConfigError as error:
        field = FIELD if error.field in ("--tasks", "task") else error.field
        raise ConfigError(field, error.problem, error.fix) from None


def means(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Metric -> mean over rows, of those that all rows have; None where it is not finite."""
    found: Columns = {}
    for column, metric in MEANS.items():
        values = [row.get(column) for row in rows]
        if metric in SHOWN and all(value is not None for value in values):
            mean = float(np.asarray(values, float).mean())
            found[metric] = mean if math.isfinite(mean) else None
    return found


def _answers(trial: Trial, tokenizer: Any, reader: Any, items: Sequence[Item]) -> Any:
    """What generates the answers that items need; None where none does."""
    from scaling.sweep.trial import override
    from search.answers import GreedyAnswers, engine_config
    from search.policy import Policy

    written = [item for item in items if item.format not in LIKELY]
    if not written:
        return None
    name, fix = written[0].suite, "ask for choice and cloze suites, or use launch.evaluate on what is kept"
    alone = jax.process_count() == 1
    require(alone, FIELD, f"{name!r} generates answers, which one process does, and here are several", fix)
    kind = type(trial.train.trains).__name__
    require(trial.train.trains.linear, FIELD, f"{name!r} generates answers, which no engine does with {kind}", fix)
    model = trial.model.resolved()
    policy = Policy(model, None, tokenizer, (tokenizer.end_of_document,), "", "")  # type: ignore[arg-type]
    longest = max(len(reader.question(item)[0]) for item in written)
    most = trial.train.evaluations.max_tokens
    config = override(engine_config(policy, longest, most), {"reuse_prefixes": False})
    return GreedyAnswers(policy, config, most)
