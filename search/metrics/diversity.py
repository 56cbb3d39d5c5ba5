"""How different the ideas behind samples are (PlanSearch, Wang et al. 2024)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable


def idea_diversity(ideas: Iterable[Hashable]) -> float:
    """The chance that two samples of a problem, drawn without replacement, have different ideas.

    ideas: of each sample what its idea is; None for one that has none, which is left out. nan for fewer than two.
    """
    counts = Counter(idea for idea in ideas if idea is not None)
    n = counts.total()
    if n < 2:
        return math.nan
    return 1 - sum(c * (c - 1) for c in counts.values()) / (n * (n - 1))
