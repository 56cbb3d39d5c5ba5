"""Every text that a policy in a table can write, with its probability, by definition in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from search.searcher import Found
from tests.search.exact import chi_square
from tests.search.trees import Trees

Text = tuple[int, ...]


def continuations(trees: Trees, tree: int, begin: Text = (), ends: Iterable[int] = ()) -> dict[Text, float]:
    """Probability of every finished text that goes on from `begin`, given `begin`."""
    node = trees.walk(tree, begin)
    children = [(a, c) for a, c in enumerate(trees.child[tree, node]) if c >= 0]
    if not children or (begin and begin[-1] in ends):
        return {begin: 1.0}
    found: dict[Text, float] = {}
    for action, _ in children:
        p = float(np.exp(trees.log_prob[tree, node, action]))
        found |= {text: p * q for text, q in continuations(trees, tree, (*begin, action), ends).items()}
    return found


def agreement(drawn: Iterable[Any], probability: dict[Any, float]) -> float:
    """The chi-square probability of these outcomes; all must be known ones."""
    counts, known = Counter(drawn), list(probability)
    assert counts.keys() <= set(known)
    return chi_square(np.array([counts[k] for k in known]), np.array([probability[k] for k in known]))


def by_number(found: Iterable[Found]) -> dict[int, Found]:
    return {f.problem.number: f for f in found}


def essence(found: Found) -> tuple:
    """Everything but the time it took."""
    return found.candidates, found.best, found.rounds, found.report, {**vars(found.cost), "seconds": 0}
