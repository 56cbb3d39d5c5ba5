"""Tasks by name, with their knobs: "countdown", "countdown:numbers=4,largest=99", "modular:operations=4/8/16"."""

from __future__ import annotations

import dataclasses
from typing import Any

from models.errors import ConfigError, nearest, require
from scaling.tasks.arithmetic import Arithmetic
from scaling.tasks.calculation import Calculation
from scaling.tasks.countdown import Countdown
from scaling.tasks.dag import Dag
from scaling.tasks.edits import Edits
from scaling.tasks.facts import Facts
from scaling.tasks.hanoi import Hanoi
from scaling.tasks.longhand import Longhand
from scaling.tasks.memory import Lookup, Permute, Repeat
from scaling.tasks.misleading import Claim, Demonstrations, Phrase
from scaling.tasks.mixed import Mixed
from scaling.tasks.modular import Modular
from scaling.tasks.path_star import PathStar, RandomGraph
from scaling.tasks.planted import Planted
from scaling.tasks.programs import Programs
from scaling.tasks.puzzles import Blocks, Checkers, River
from scaling.tasks.reasoned import Reasoned
from scaling.tasks.repair import Repair
from scaling.tasks.scenes import Scenes
from scaling.tasks.stacking import Stacking
from scaling.tasks.tag import Tag
from scaling.tasks.task import Task
from scaling.tasks.words import Copy, Recall

TASKS: dict[str, type[Any]] = {
    task.name: task
    for task in (
        Countdown, Arithmetic, Tag, Hanoi, Checkers, River, Blocks, PathStar, RandomGraph, Modular, Reasoned, Programs,
        Copy, Recall, Phrase, Claim, Demonstrations, Lookup, Repeat, Permute, Calculation, Edits, Facts, Planted,
        Stacking, Longhand, Scenes, Repair, Dag,
    )
}  # fmt: skip


def task_by_name(name: str) -> Task:
    """The task that a text names: its name, and after a colon the knobs that are not at their defaults.

    One knob may have several values, "modular:operations=4/8/16", and `weights` of them, "weights=2/1/1": see Mixed.

    Raises:
      ConfigError: an unknown task or knob, with the nearest that there is, or a value that it does not take.
    """
    kind, _, listed = name.partition(":")
    if kind not in TASKS:
        raise ConfigError("task", f"{kind!r} is no task", _instead(kind, TASKS))
    fields = {field.name: field for field in dataclasses.fields(TASKS[kind])}
    knobs: dict[str, int | str] = {}
    mixed: dict[str, tuple[int, ...]] = {}
    weights: tuple[int, ...] = ()
    for entry in filter(None, listed.split(",")):
        knob, equals, value = entry.partition("=")
        levels = value.split("/")
        if all(level.isdecimal() for level in levels) and (
            knob == "weights" or (len(levels) > 1 and knob in fields and isinstance(fields[knob].default, int))
        ):
            numbers = tuple(map(int, levels))
            weights, mixed = (numbers, mixed) if knob == "weights" else (weights, mixed | {knob: numbers})
            continue
        if knob not in fields:
            raise ConfigError(f"{kind}.{knob}", "is no knob of this task", _instead(knob, fields))
        require(bool(equals), f"{kind}.{knob}", "has no value", f"write {knob}={fields[knob].default}")
        number = isinstance(fields[knob].default, int)
        require(not number or value.isdecimal(), f"{kind}.{knob}", f"is {value!r}", "give a whole number")
        knobs[knob] = int(value) if number else value
    if not mixed:
        require(not weights, f"{kind}.weights", "weigh nothing", "give a knob several values, as in 4/8/16")
        return TASKS[kind](**knobs)
    require(len(mixed) == 1, kind, f"has several values for {' and '.join(mixed)}", "mix one knob")
    ((knob, values),) = mixed.items()
    parts = tuple(TASKS[kind](**knobs | {knob: value}) for value in values)
    return Mixed(parts, knob, values, weights or (1,) * len(values))


def _instead(name: str, options: dict[str, Any]) -> str:
    match = nearest(name, options)
    return f"did you mean {match!r}?" if match else f"use one of {', '.join(options)}"
