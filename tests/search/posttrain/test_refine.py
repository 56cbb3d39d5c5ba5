"""Refinement stops where a policy repeats itself, and learns from its own drafts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from search.posttrain.refine import refined, refinements, within_reach

MAPS = st.lists(st.lists(st.integers(0, 5), min_size=7, max_size=7), max_size=6)


@given(maps=MAPS, most=st.integers(1, 9))
def test_each_problem_is_written_again_until_it_repeats(maps: list[list[int]], most: int) -> None:
    """Against a loop over one problem; a map of six texts repeats within seven calls. maps: what follows each draft."""
    asked = 0

    def write(numbers: Sequence[int], drafts: Sequence[str]) -> list[str]:
        nonlocal asked
        asked += len(numbers)
        return [str(maps[i][int(draft) if draft else 6]) for i, draft in zip(numbers, drafts, strict=True)]

    found = refined(write, len(maps), most)
    assert asked == sum(map(len, found))
    for follows, texts in zip(maps, found, strict=True):
        expected, draft = [follows[6]], follows[6]
        while len(expected) < most and expected[-1] not in expected[:-1]:
            draft = follows[draft]
            expected.append(draft)
        assert texts == [str(x) for x in expected]
        assert len(texts) <= 7


def test_a_right_draft_that_stays_takes_two_calls_and_one_error_three() -> None:
    chain = {"": "0", "0": "1", "1": "1"}
    assert refined(lambda numbers, drafts: [chain[d] for d in drafts], 1, 16) == [["0", "1", "1"]]
    assert refined(lambda numbers, drafts: ["1" for _ in drafts], 2, 16) == [["1", "1"], ["1", "1"]]
    with pytest.raises(ConfigError, match="most: is 0"):
        refined(lambda numbers, drafts: [], 1, 0)


def test_samples_are_of_problems_within_reach_and_have_what_is_right_stay() -> None:
    assert within_reach(np.array([0, 0.25, 1, 0.75])).tolist() == [1, 3]
    with pytest.raises(ConfigError, match="rates"):
        within_reach(np.array([1.5]))
    drafts, right = [["a", "b"], ["c", "c"], ["d", "e", "f"]], ["a", "c", "d"]
    found = refinements(np.random.default_rng(0), drafts, right, [0, 1])
    assert found == [(0, ""), (0, "a"), (0, "b"), (1, ""), (1, "c")]
    drawn = {refinements(np.random.default_rng(seed), drafts, right, [2])[-1].draft for seed in range(20)}
    assert drawn == {"e", "f"}
