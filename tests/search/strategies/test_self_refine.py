"""Self-refinement stops where its critic finds nothing, and a score of three parts ranks as it does by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from models.errors import ConfigError
from search.strategies.self_refine import Look, Refined, refinement_score, self_refined


def test_a_draft_is_written_anew_until_nothing_is_found() -> None:
    """A critic that wants 3: it halves what is above, adds 1 below, and cannot read 7."""
    asked: list[list[tuple[int, int]]] = []

    def critic(places: Sequence[int], drafts: Sequence[int]) -> list[Look]:
        asked.append(list(zip(places, drafts, strict=True)))
        return [Look(d == 3, None if d == 7 else d // 2 if d > 3 else d + 1) for d in drafts]

    found = self_refined(critic, [3, 12, 7, 0], 3)
    assert found == [
        Refined([3], 1, True),
        Refined([12, 6, 3], 3, True),
        Refined([7], 3, False),
        Refined([0, 1, 2, 3], 3, False),
    ]
    assert asked == [[(0, 3), (1, 12), (2, 7), (3, 0)], [(1, 6), (2, 7), (3, 1)], [(1, 3), (2, 7), (3, 2)]]
    with pytest.raises(ConfigError, match="give 1 or more looks"):
        self_refined(critic, [3], 0)


def test_a_policy_is_worth_what_it_reaches_and_adds_by_what_it_costs() -> None:
    before, after, cost = [0.2, 0.4, 0.5], [0.3, 0.6, 0.5], [1.0, 4.0, 9.0]
    assert refinement_score(before, after, cost).tolist() == pytest.approx([0.3, 0.3, 0.5 / 3])
    assert refinement_score(before, after, cost, 2.0, 1.0).tolist() == pytest.approx([0.4, 0.2, 0.5 / 9])
    assert refinement_score(before, after, np.array(cost) * 7).tolist() == pytest.approx([0.3, 0.3, 0.5 / 3])
    assert np.argmax(refinement_score(before, after, cost, thrift=0.0)) == 1
    with pytest.raises(ConfigError, match="give positive numbers"):
        refinement_score(before, after, [1.0, 0.0, 1.0])
