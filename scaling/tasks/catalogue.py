"""Tasks by name, with their knobs: "countdown", "countdown:numbers=4,largest=99"."""

from __future__ import annotations

import dataclasses
from typing import Any

from models.errors import ConfigError, nearest, require
from scaling.tasks.arithmetic import Arithmetic
from scaling.tasks.countdown import Countdown
from scaling.tasks.hanoi import Hanoi
from scaling.tasks.memory import Lookup, Permute, Repeat
from scaling.tasks.misleading import Claim, Demonstrations, Phrase
from scaling.tasks.modular import Modular
from scaling.tasks.path_star import PathStar, RandomGraph
from scaling.tasks.puzzles import Blocks, Checkers, River
from scaling.tasks.tag import Tag
from scaling.tasks.task import Task
from scaling.tasks.words import Copy, Recall

TASKS: dict[str, type[Any]] = {
    task.name: task
    for task in (
        Countdown, Arithmetic, Tag, Hanoi, Checkers, River, Blocks, PathStar, RandomGraph, Modular, Copy, Recall,
        Phrase, Claim, Demonstrations, Lookup, Repeat, Permute,
    )
}  # fmt: skip


def task_by_name(name: str) -> Task:
    """The task that a text names: its name, and after a colon the knobs that are not at their defaults.

    Raises:
      ConfigError: an unknown task or knob, with the nearest that there is, or a value that it does not take.
    """
    kind, _, listed = name.partition(":")
    if kind not in TASKS:
        raise ConfigError("task", f"{kind!r} is no task", _instead(kind, TASKS))
    fields = {field.name: field for field in dataclasses.fields(TASKS[kind])}
    knobs: dict[str, int | str] = {}
    for entry in filter(None, listed.split(",")):
        knob, equals, value = entry.partition("=")
        if knob not in fields:
            raise ConfigError(f"{kind}.{knob}", "is no knob of this task", _instead(knob, fields))
        require(bool(equals), f"{kind}.{knob}", "has no value", f"write {knob}={fields[knob].default}")
        number = isinstance(fields[knob].default, int)
        require(not number or value.isdecimal(), f"{kind}.{knob}", f"is {value!r}", "give a whole number")
        knobs[knob] = int(value) if number else value
    return TASKS[kind](**knobs)


def _instead(name: str, options: dict[str, Any]) -> str:
    match = nearest(name, options)
    return f"did you mean {match!r}?" if match else f"use one of {', '.join(options)}"
