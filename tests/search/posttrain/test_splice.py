"""What does not help goes, what does stays; against a loop over one trace at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from search.posttrain.splice import segments, spliced

TEXTS = st.text(alphabet="ab|~", max_size=12)


@given(text=TEXTS)
def test_segments_are_the_text_cut_after_marks(text: str) -> None:
    found = segments(text, "|~")
    assert "".join(found) == text and all(found)
    assert all(part[-1] in "|~" for part in found[:-1]) and all(c not in "|~" for part in found for c in part[:-1])


def rate(number: int, text: str) -> float:
    """Any function of a trace and a beginning."""
    return float(np.random.default_rng([number, *text.encode()]).integers(4)) / 3


def one(number: int, trace: list[str]) -> list[str]:
    """The same of one trace, by hand."""
    kept: list[str] = []
    for i in range(len(trace) - 1):
        before = "".join(kept)
        if rate(number, before + trace[i + 1]) < rate(number, before + trace[i] + trace[i + 1]):
            kept.append(trace[i])
    return [*kept, *trace[-1:]]


@given(texts=st.lists(TEXTS, max_size=5))
def test_all_traces_at_once_are_each_alone(texts: list[str]) -> None:
    traces, asked = [segments(text, "|~") for text in texts], 0

    def success(numbers: Sequence[int], beginnings: Sequence[str]) -> np.ndarray:
        nonlocal asked
        asked += len(numbers)
        assert len(set(numbers)) == len(numbers)
        return np.array([rate(i, text) for i, text in zip(numbers, beginnings, strict=True)])

    assert spliced(traces, success) == [one(i, trace) for i, trace in enumerate(traces)]
    assert asked == 2 * sum(max(len(trace) - 1, 0) for trace in traces)


def test_doubts_that_harm_or_do_nothing_go_and_steps_stay() -> None:
    """Each doubt costs a tenth, and a thought that lacks its first step is never right."""
    traces = [["3+4=", "2~", "0~", "2|", "2*2=", "4|", ":4."], ["3+4=", "2|", ":2."], [":1."]]

    def success(numbers: Sequence[int], beginnings: Sequence[str]) -> np.ndarray:
        whole = [text.startswith(("3+4=2", "3+4=0")) and ("*" not in text or "2|2*2=" in text) for text in beginnings]
        ended = ["4|" not in text or "2*2=4|" in text for text in beginnings]
        doubts = [text.count("~") for text in beginnings]
        return np.array([(1 - d / 10) * w * e for d, w, e in zip(doubts, whole, ended, strict=True)])

    assert spliced(traces, success) == [["3+4=", "2|", "2*2=", ":4."], ["3+4=", "2|", ":2."], [":1."]]
    with pytest.raises(ConfigError, match="marks"):
        segments("a", "")
