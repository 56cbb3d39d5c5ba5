"""What is measured of a model: likelihoods of choices, and answers that are handed in. This file is the contents.

item.py         Item: one question in one of five formats; read_items(file)
suites.py       suite("choice.modular:items=200"): items made of our own tasks
reading.py      Reader: how a model is shown an item
likelihood.py   log-probabilities of continuations
choice.py       normalisations, Brier score, log loss
grading.py      generated answers: text, numbers with units.py, orders
evaluate.py     evaluate(subject, items): one row per item
calibration.py  calibration error beyond that of a perfect model
summary.py      means with intervals over items
measures/       what the rows of several models say
"""

from scaling.evaluate.evaluate import Subject, evaluate, table
from scaling.evaluate.item import Item, Quantity, read_items
from scaling.evaluate.reading import Reader, document_reader, text_reader
from scaling.evaluate.suites import suite
from scaling.evaluate.summary import mean_interval, summary

__all__ = [
    "Item",
    "Quantity",
    "Reader",
    "Subject",
    "document_reader",
    "evaluate",
    "mean_interval",
    "read_items",
    "suite",
    "summary",
    "table",
    "text_reader",
]
