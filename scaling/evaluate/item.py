"""Item: one question of a benchmark, in one of five formats, with what counts as right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from models.errors import ConfigError, nearest, require
from scaling import kept

Format = Literal["choice", "cloze", "generate", "ordering", "numeric"]
Normalisation = Literal["raw", "token", "char", "byte", "unconditional"]
FORMATS: tuple[str, ...] = get_args(Format)
NORMALISATIONS: tuple[str, ...] = get_args(Normalisation)
MOST_CHOICES = 26
_ITEM: kept.Shape = {
    "prompt": str, "format": str, "gold": (str, int, dict, [str], [int]), "id?": (str, int), "choices?": [str],
    "subset?": str, "shots?": [[str]], "human?": (float, None), "level?": (int, None), "delimiter?": str,
    "unconditional?": str, "normalisation?": str,
}  # fmt: skip
_QUANTITY: kept.Shape = {"value": float, "unit?": str, "relative?": float, "absolute?": float}
_FIELDS = tuple(name.rstrip("?") for name in _ITEM)


@dataclass(frozen=True)
class Quantity:
    """A number with its unit, right within `relative` of it or within `absolute`, whichever is more (SciBench: 5 %)."""

    value: float
    unit: str = ""  # of scaling.evaluate.units; "" accepts none
    relative: float = 0.05
    absolute: float = 0.0  # in the unit; needed where the value is 0

    def __post_init__(self) -> None:
        for name in ("relative", "absolute"):
            value = getattr(self, name)
            require(0 <= value < float("inf"), f"gold.{name}", f"is {value}", "give a tolerance of 0 or more")


@dataclass(frozen=True)
class Item:
    """One question. Which `gold` there is depends on `format`:

    choice     indices of the right `choices`, whose likelihoods are compared
    cloze      the right continuation, whose likelihood is measured
    generate   texts of which the generated answer has to be one, after extraction
    ordering   labels in their right order; the generated answer is a permutation of them
    numeric    a Quantity
    """

    id: str
    suite: str
    prompt: str
    format: Format
    gold: tuple[int, ...] | tuple[str, ...] | Quantity
    choices: tuple[str, ...] = ()
    subset: str = ""
    shots: tuple[tuple[str, str], ...] = ()  # solved examples before the prompt: (prompt, answer)
    human: float | None = None  # share of people who are right
    level: int | None = None  # of difficulty, as the author of the item sees it
    delimiter: str = ""  # between prompt and answer; lengths of choices are without it
    unconditional: str = ""  # context of the unconditional likelihood; "": what begins a text
    normalisation: Normalisation = "raw"  # whose pick is the item's score
    tags: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        place = f"{self.suite}: item {self.id}"
        _among(place, "format", self.format, FORMATS)
        _among(place, "normalisation", self.normalisation, NORMALISATIONS)
        require(bool(self.prompt), place, "has an empty prompt", "give the question")
        if self.format == "choice":
            problem = f"has {len(self.choices)} choices"
            require(2 <= len(self.choices) <= MOST_CHOICES, place, problem, f"give 2 to {MOST_CHOICES}")
            require(all(self.choices), place, "has an empty choice", "give text to every choice")
            gold = () if isinstance(self.gold, Quantity) else self.gold
            right = bool(gold) and all(isinstance(g, int) and 0 <= g < len(self.choices) for g in gold)
            require(right, place, f"gold is {self.gold!r}", f"give indices of choices, 0 to {len(self.choices) - 1}")
            return
        require(not self.choices, place, f"has choices, but is {self.format}", "leave them out, or use 'choice'")
        if self.format == "numeric":
            require(
                isinstance(self.gold, Quantity), place, f"gold is {self.gold!r}", 'give {"value": ..., "unit": ...}'
            )
            return
        labels = () if isinstance(self.gold, Quantity) else self.gold
        texts = bool(labels) and all(isinstance(g, str) and g for g in labels)
        require(texts, place, f"gold is {self.gold!r}", "give text that is not empty")
        if self.format == "ordering":
            problem = f"orders {len(set(labels))} different labels of {len(labels)}"
            require(len(set(labels)) == len(labels) >= 2, place, problem, "give two or more distinct labels")

    @property
    def chance(self) -> float:
        """What guessing scores: of choices the share that is right, of orders 1 / n!, otherwise 0."""
        gold = () if isinstance(self.gold, Quantity) else self.gold
        if self.format == "choice":
            return len(set(gold)) / len(self.choices)
        if self.format == "ordering":
            orders = 1
            for n in range(2, len(gold) + 1):
                orders *= n
            return 1 / orders
        return 0.0


def _among(place: str, name: str, value: str, options: tuple[str, ...]) -> None:
    match = nearest(value, options)
    fix = f"did you mean {match!r}?" if match else f"use one of {', '.join(options)}"
    require(value in options, place, f"{name} is {value!r}", fix)


def read_items(path: str | Path, suite: str) -> tuple[Item, ...]:
    """The items of a .jsonl file, one object a line with the fields of Item (suite and tags aside).

    Raises:
      ConfigError: no such file, no item, or the first line that is none, by number.
    """
    file = Path(path)
    require(file.is_file(), str(path), "no such file", "give a .jsonl file of items, or the name of a suite")
    items, seen = [], set[str]()
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            item = item_of(kept.parsed(line, _ITEM, place, 'write {"prompt": ..., "format": ..., "gold": ...}'),
                           suite, place, str(number))  # fmt: skip
            require(item.id not in seen, place, f"id {item.id!r} is there twice", "give every item its own")
            seen.add(item.id)
            items.append(item)
    require(bool(items), str(path), "holds no items", "write one JSON object a line")
    return tuple(items)


def item_of(row: Mapping[str, Any], suite: str, place: str, id: str) -> Item:
    """An item from its JSON object; `id` where it has none."""
    known = {name: row[name] for name in _FIELDS if name in row}
    strange = [name for name in row if name not in _FIELDS]
    for name in strange:
        match = nearest(name, _FIELDS)
        require(match is None, place, f"has {name!r}", f"did you mean {match!r}?")
    gold = known.pop("gold")
    if isinstance(gold, dict):
        quantity = kept.parsed(json.dumps(gold), _QUANTITY, place, 'write {"value": 1.5, "unit": "m"}')
        wrong = [name for name in quantity if name not in ("value", "unit", "relative", "absolute")]
        require(not wrong, place, f"gold has {wrong[:1]}", "use value, unit, relative and absolute")
        gold = Quantity(**quantity)
    else:
        gold = tuple(gold) if isinstance(gold, list) else (gold,)
    shots = tuple(tuple(shot) for shot in known.pop("shots", ()))
    require(all(len(shot) == 2 for shot in shots), place, "has a shot that is no pair", "give [prompt, answer] each")
    fields = known | {"id": str(known.get("id", id)), "choices": tuple(known.get("choices", ()))}
    tags = {name: row[name] for name in strange}
    try:
        return Item(suite=suite, gold=gold, shots=shots, tags=tags, **fields)
    except ConfigError as error:
        raise ConfigError(place, error.problem, error.fix) from None
