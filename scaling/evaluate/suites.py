"""Suites by name: items made of our own tasks, in the form that a text asks for, or the items of a file.

choice.modular:operations=4,items=200,choices=4      likelihoods of the solution and of near misses
cloze.copy:longest=6                                 likelihood of the one solution
generate.countdown                                   an answer that the task's own verifier checks
ordering.copy:order=sorted                           letters in order
numeric.arithmetic:operation=add                     a number
trap.phrase                                          the truth against what the corpus suggests
items.jsonl                                          one's own
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from models.errors import ConfigError, nearest, require
from scaling.evaluate.item import MOST_CHOICES, Item, Quantity, read_items
from scaling.tasks import TASKS, Task, task_by_name
from scaling.tasks.computation import Computation
from scaling.tasks.task import Problem

FORMS = ("choice", "cloze", "generate", "ordering", "numeric", "trap")
OWN = {"items": 200, "choices": 4, "shots": 0, "seed": 0}  # knobs of a suite, beside those of its task
_TRIES = 1000  # mutations, after which a solution is taken to have no more near misses


def split_names(text: str) -> list[str]:
    """The suites of a comma-separated list, in which knobs are separated by commas, too: `a:x=1,y=2,b` are two."""
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        knob = re.fullmatch(r"[a-z_]+=[^:]*", part)
        if knob and names and ":" in names[-1] and not names[-1].endswith(".jsonl"):
            names[-1] += f",{part}"
        else:
            names.append(part)
    require(
        bool(names), "--tasks", "names nothing", f"give suites such as choice.modular, or forms of {', '.join(TASKS)}"
    )
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, "--tasks", f"names {twice[:1]} twice", "name it once")
    return names


def suite(name: str) -> tuple[Item, ...]:
    """The items that a name stands for; the same for the same name.

    Raises:
      ConfigError: an unknown form, task or knob, with the nearest that there is; too few problems; a file that is none.
    """
    if name.endswith(".jsonl"):
        return read_items(name, name)
    form, task, own = _named(name)
    if form == "trap":
        return _traps(name, task, own)
    problems = task.generate(own["seed"], own["items"], "test")
    shots = _shots(task, own)
    rng = np.random.default_rng([own["seed"], 7])
    return tuple(_item(name, form, task, problem, problems, shots, own, rng) for problem in problems)


def verifier(name: str) -> Callable[[Item, str], bool] | None:
    """The task's own check of a generated answer, for the items of a generate suite; None for other suites."""
    form, task, own = _named(name)
    if form != "generate":
        return None
    problems = {_id(p.canonical): p for p in task.generate(own["seed"], own["items"], "test")}
    return lambda item, text: task.verify(problems[item.id], text)


def _named(name: str) -> tuple[str, Task, dict[str, int]]:
    """(form, task, knobs of the suite) of a name."""
    head, _, listed = name.partition(":")
    form, dot, kind = head.partition(".")
    if not dot or form not in FORMS:
        match = nearest(form, FORMS)
        fix = f"did you mean {match}.{kind}?" if dot and match else f"write FORM.TASK, FORM one of {', '.join(FORMS)}"
        raise ConfigError("--tasks", f"{name!r} is no suite", fix)
    own, knobs = dict(OWN), []
    for entry in filter(None, listed.split(",")):
        knob, _, value = entry.partition("=")
        if knob in OWN:
            require(value.isdecimal(), f"{head}.{knob}", f"is {value!r}", "give a whole number")
            own[knob] = int(value)
        else:
            knobs.append(entry)
    require(1 <= own["items"] <= 10**6, f"{head}.items", f"is {own['items']}", "give 1 to 1,000,000")
    require(2 <= own["choices"] <= MOST_CHOICES, f"{head}.choices", f"is {own['choices']}", f"give 2 to {MOST_CHOICES}")
    require(own["shots"] <= 64, f"{head}.shots", f"is {own['shots']}", "give 0 to 64")
    return form, task_by_name(f"{kind}:{','.join(knobs)}" if knobs else kind), own


def _shots(task: Task, own: dict[str, int]) -> tuple[tuple[str, str], ...]:
    """Solved training problems, the same for every item of a suite."""
    rng = np.random.default_rng([own["seed"], 11])
    return tuple((p.prompt, task.solution(p, rng)) for p in task.generate(own["seed"] + 1, own["shots"]))


def _item(
    name: str, form: str, task: Task, problem: Problem, problems: Sequence[Problem], shots: Any, own: dict[str, int],
    rng: np.random.Generator,
) -> Item:  # fmt: skip
    right = task.solution(problem, rng)
    fields: dict[str, Any] = {"id": _id(problem.canonical), "suite": name, "prompt": problem.prompt, "shots": shots,
                              "subset": task.name, "level": right.count(task.delimiter) + 1}  # fmt: skip
    if form == "cloze":
        return Item(format="cloze", gold=(right,), **fields)
    if form == "generate":
        return Item(format="generate", gold=(right,), tags={"canonical": problem.canonical}, **fields)
    if form == "choice":
        choices = [right, *near_misses(task, problem, right, problems, own["choices"] - 1, rng)]
        order = rng.permutation(len(choices)).tolist()
        return Item(format="choice", gold=(order.index(0),), choices=tuple(choices[i] for i in order), **fields)
    require(isinstance(task, Computation), "--tasks", f"{name!r}: {task.name} has no single answer", "use generate")
    assert isinstance(task, Computation)
    answer = task.right_answer(problem)
    if form == "ordering":
        distinct = len(set(answer)) == len(answer) >= 2
        fix = "use ordering.copy:order=sorted"
        require(distinct, "--tasks", f"{name!r}: {answer!r} is no order of distinct letters", fix)
        return Item(format="ordering", gold=tuple(answer), **fields)
    number = re.fullmatch(r"\d{1,40}", answer) is not None and getattr(task, "style", "") != "reversed"
    require(number, "--tasks", f"{name!r}: {answer!r} is no plain number", "use numeric.arithmetic")
    return Item(format="numeric", gold=Quantity(float(answer), relative=0.0), **fields)


def near_misses(
    task: Task, problem: Problem, right: str, problems: Sequence[Problem], count: int, rng: np.random.Generator
) -> list[str]:
    """`count` wrong completions that look right: a character changed, two exchanged, or another problem's solution.

    Raises ConfigError for a solution that has not so many.
    """
    found: list[str] = []
    letters = sorted({c for c in right + problem.prompt if c.isalpha()}) or list("abc")
    for attempt in range(_TRIES):
        if len(found) == count:
            return found
        kind = attempt % 3
        if kind == 2:
            other = problems[int(rng.integers(len(problems)))]
            text = task.solution(other, rng)
        else:
            text = _mutated(right, letters, kind == 0, rng)
        if text != right and text not in found and not task.verify(problem, text):
            found.append(text)
    raise ConfigError("choices", f"{right!r} has only {len(found)} near misses", f"ask for {len(found) + 1} choices")


def _mutated(text: str, letters: Sequence[str], change: bool, rng: np.random.Generator) -> str:
    """A text with one letter or digit changed for another of its kind, or two neighbours of one kind exchanged."""
    places = [i for i, c in enumerate(text) if c.isalnum()]
    if not places:
        return text
    at = places[int(rng.integers(len(places)))]
    if change:
        options = "0123456789" if text[at].isdigit() else letters
        return text[:at] + options[int(rng.integers(len(options)))] + text[at + 1 :]
    if at + 1 < len(text) and text[at + 1].isalnum():
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text


def _traps(name: str, task: Task, own: dict[str, int]) -> tuple[Item, ...]:
    """Two choices each: the truth, and what the corpus of the task suggests."""
    trap = getattr(task, "trap", None)
    having = ", ".join(sorted(kind for kind, made in TASKS.items() if hasattr(made, "trap")))
    require(trap is not None, "--tasks", f"{name!r}: {task.name} has no trap", f"use one of {having}")
    assert trap is not None
    rng = np.random.default_rng([own["seed"], 13, *task.name.encode()])
    shots = _shots(task, own)
    items: dict[str, Item] = {}
    for _ in range(_TRIES * own["items"]):
        if len(items) == own["items"]:
            break
        found = trap(rng)
        key, flip = _id(found.prompt), bool(rng.integers(2))
        choices = (found.tempting, found.right) if flip else (found.right, found.tempting)
        items.setdefault(key, Item(key, name, found.prompt, "choice", (int(flip),), choices, task.name, shots))
    problem = f"{name!r} has only {len(items)} distinct items"
    require(len(items) == own["items"], f"{task.name}.items", problem, "ask for fewer")
    return tuple(items.values())


def _id(canonical: str) -> str:
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
