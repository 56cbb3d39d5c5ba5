"""A trace with calls in the place of what it worked out is what an episode with these calls is."""

from __future__ import annotations

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.tasks.calculation import Calculator
from scaling.tasks.longhand import Longhand, Span, asked_by_hand, by_hand
from scaling.tasks.text import CharTokenizer
from search.posttrain.episodes import Stage
from search.posttrain.hints import with_calls
from tests.search.posttrain.test_episodes import Scripted

TASK = Longhand()
PROBLEM = TASK.problem([347, 8, 256], ["*", "+"])
WRITTEN = "347*8>56,37,27>2776|2776+256>12,13,10,3>3032."
ASKED = "347*8=2776|2776+256=3032."


def test_places_are_worked_out_with_carries() -> None:
    """Against the numbers: the last column and the units of those before it spell the result."""
    assert TASK.solution(PROBLEM, np.random.default_rng(0)) == WRITTEN
    for problem in TASK.generate(0, 200):
        for step in TASK.right_steps(problem):
            asked, columns, result = step.split(">")
            numbers = [int(n) for n in asked.replace("*", "+").split("+")]
            assert int(result) == (numbers[0] * numbers[1] if "*" in asked else sum(numbers))
            *low, last = columns.split(",")
            assert last + "".join(column[-1] for column in reversed(low)) == result
        text = TASK.solution(problem, np.random.default_rng(0))
        parts = with_calls(Calculator(), problem, text, TASK.computations(text))
        assert parts is not None and asked_by_hand("".join(part.text for part in parts)) == text
    assert by_hand("99*9=891") == "99*9>81,89>891" and by_hand("7+95=102") == "7+95>12,10>102"


def test_either_way_is_right_and_an_error_in_either_is_seen() -> None:
    for text in (WRITTEN, ASKED, "347*8>56,37,27>2776|2776+256=3032."):
        assert TASK.verify(PROBLEM, text) and TASK.process_reward(PROBLEM, text) == 1
    assert TASK.process_reward(PROBLEM, "347*8=2775|") == 0 == TASK.process_reward(PROBLEM, "347*8>56,36,27>2776|")
    assert TASK.value(PROBLEM, "347*8=2776|") == 1 and TASK.value(PROBLEM, "347*8=2775|") == 0


def test_a_hinted_trace_is_an_episode_with_these_calls() -> None:
    spans = TASK.computations(WRITTEN)
    assert [WRITTEN[s.start : s.stop] for s in spans] == [">56,37,27>2776", ">12,13,10,3>3032"]
    parts = with_calls(Calculator(), PROBLEM, WRITTEN, spans)
    assert parts is not None and "".join(part.text for part in parts) == ASKED
    tokens = CharTokenizer.of(TASK)
    engine = Scripted("347*8=", "|2776+256=", ".", tokens=tokens)
    stage = Stage(engine, tokens, TASK.environment(), 60, 8)  # type: ignore[arg-type]
    (episode,) = stage.play([PROBLEM], 1, seed=0)
    assert episode.text == ASKED
    assert [own for part in parts for own in [part.own] * len(part.text)] == episode.own
    some = with_calls(Calculator(), PROBLEM, WRITTEN, spans[1:])
    assert some is not None and "".join(part.text for part in some) == "347*8>56,37,27>2776|2776+256=3032."


def test_a_reply_that_contradicts_the_trace_gives_none() -> None:
    wrong = "347*8>56,37,27>2775|2775+256>11,13,10,3>3031."
    assert with_calls(Calculator(), PROBLEM, wrong, TASK.computations(wrong)) is None
    assert with_calls(Calculator(), PROBLEM, "34>7.", [Span(2, 4, "=")]) is None  # what the calculator refuses
    assert with_calls(Calculator(), PROBLEM, "12.", []) == (("12.", True),)
    with pytest.raises(ConfigError, match="spans: overlap"):
        with_calls(Calculator(), PROBLEM, WRITTEN, TASK.computations(WRITTEN)[::-1])
