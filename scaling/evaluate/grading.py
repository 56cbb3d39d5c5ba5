"""Grading of generated answers: extraction from the text, then what is right of it, and which kind of error it is.

Everything a model writes is text to be read by regular expressions of bounded length; nothing is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import kendalltau

from scaling.evaluate.item import Item, Quantity
from scaling.evaluate.units import UNITS, last_number, unit_of

Extract = Callable[[str], str | None]
Verify = Callable[[Item, str], bool]
MARKERS = re.compile(r"(?:####|\\boxed\{|[Aa]nswer\s*(?:is|:))\s*")
MOST_TEXT = 100_000  # characters that are read of an answer, from its end


class Grade(NamedTuple):
    """parsed: the answer that was read, None for none; fault: "", or parse, wrong, unit, permutation.

    tau: Kendall's, of an ordering (0 for what is no permutation)."""

    correct: bool
    parsed: str | None
    fault: str
    tau: float | None = None


def after_marker(text: str) -> str | None:
    """What follows the last marker of an answer (####, \\boxed{, "answer is", "Answer:"), to the end of its line; the
    last line with anything on it where there is no marker."""
    text = text[-MOST_TEXT:]
    parts = MARKERS.split(text)
    if len(parts) > 1:
        line = parts[-1].strip().partition("\n")[0]
        return line.split("}")[0].rstrip(" .").strip() or None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(" .").strip() or None if lines else None


def whole(text: str) -> str | None:
    """The whole text without the spaces around it."""
    return text.strip() or None


def grade(item: Item, text: str, extract: Extract = after_marker, verify: Verify | None = None) -> Grade:
    """Grade a generated answer of an item.

    extract: text -> answer. verify: whether the answer is right, for items whose `gold` does not say all that is right.
    """
    if isinstance(item.gold, Quantity):
        return grade_number(item.gold, text)
    parsed = extract(text)
    if parsed is None:
        return Grade(False, None, "parse", 0.0 if item.format == "ordering" else None)
    if item.format == "ordering":
        return grade_order([str(label) for label in item.gold], parsed)
    right = verify(item, parsed) if verify is not None else parsed in item.gold
    return Grade(right, parsed, "" if right else "wrong")


def grade_order(gold: Sequence[str], text: str) -> Grade:
    """Grade an order of labels: exact match, and Kendall's tau between the two orders.

    Labels are looked for as they stand, the longest first, each with nothing but separators in between. What is no
    permutation of them is a fault of its own, scores 0, and counts.
    """
    labels = sorted(gold, key=len, reverse=True)
    pattern = "|".join(map(re.escape, labels))
    rest = re.sub(pattern, "", text)
    found = re.findall(pattern, text)
    if sorted(found) != sorted(gold) or re.search(r"[^\s,;>|.()\[\]-]", rest):
        return Grade(False, text, "permutation", 0.0)
    tau = tau_of([found.index(label) for label in gold])
    return Grade(found == list(gold), text, "" if found == list(gold) else "wrong", tau)


def tau_of(places: Sequence[int]) -> float:
    """Kendall's tau between 0, 1, 2, ... and the places of a permutation: 1 the same order, -1 the reverse."""
    return float(kendalltau(np.arange(len(places)), np.asarray(places)).statistic)


def grade_number(gold: Quantity, text: str) -> Grade:
    """Grade the last number of a text with its unit: right within the larger of the two tolerances, in SI units."""
    found = last_number(text[-MOST_TEXT:])
    if found is None:
        return Grade(False, None, "parse")
    value, written = found
    parsed = f"{value:g} {written}".strip()
    dimension, factor = unit_of(gold.unit)
    if written not in UNITS or UNITS[written][0] != dimension:
        return Grade(False, parsed, "unit")
    wanted = gold.value * factor
    tolerance = max(gold.relative * abs(wanted), gold.absolute * factor)
    right = abs(value * UNITS[written][1] - wanted) <= tolerance
    return Grade(right, parsed, "" if right else "wrong")
