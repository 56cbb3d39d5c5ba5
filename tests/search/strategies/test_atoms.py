"""Questions replace one another as a plain simulation of the protocol has it, and nothing else is read on."""

from __future__ import annotations

import numpy as np
import pytest

from models.errors import ConfigError
from search.config import SearchConfig
from search.searcher import Searcher, SearchProblem
from search.strategies.atoms import atom_of_thoughts
from tests.search.strategies.enumeration import Text, by_number, essence
from tests.search.strategies.scripts import ScriptDecoder, write

QUESTION, CLOSE, END = 3, 4, 5
VOCAB, LONG, MOST, SCRIPTS = 6, 24, 4, 120
TABLE = np.random.default_rng(1).choice(
    VOCAB, size=(SCRIPTS, VOCAB, VOCAB, LONG), p=[0.22, 0.22, 0.2, 0.13, 0.17, 0.06]
)
CONFIG = SearchConfig(
    problems=8, prompt_len=1, max_tokens=LONG, max_steps=LONG, max_rounds=64, delimiters=(CLOSE,), ends=(END,)
)


def simulated(script: int) -> tuple[Text, int, int, int, int]:
    """(the text that is left, contractions, the longest text that was read, tokens drawn, tokens read again)."""
    text: Text = ()
    forced: Text = ()
    times = longest = drawn = again = 0
    while True:
        text, new = write(TABLE[script], text, forced, (CLOSE, END))
        longest, drawn, again, forced = max(longest, len(text)), drawn + new, again + len(forced), ()
        if text[-1] == END or len(text) == LONG:
            return text, times, longest, drawn, again
        start = len(text) - 1 - text[::-1].index(QUESTION) if QUESTION in text else -1
        if start > 0 and times < MOST:
            text, forced, times = (), text[start:], times + 1


def test_every_search_is_that_of_the_protocol() -> None:
    search = Searcher(ScriptDecoder(TABLE), atom_of_thoughts(1, QUESTION, CLOSE, LONG, most=MOST, scored=False), CONFIG)
    found = by_number(search.run(SearchProblem(i, i) for i in range(SCRIPTS)))
    seen = []
    for i, f in found.items():
        text, times, longest, drawn, again = simulated(i)
        assert f.candidates[0].tokens == text
        assert f.report == {"contractions": times, "longest": longest}
        assert (f.cost.generated_tokens, f.cost.prompt_tokens) == (drawn, again)
        assert f.best == (0 if text[-1] == END else None)
        seen.append((times, longest < drawn))
    assert {0, 1, 2, MOST} <= {times for times, _ in seen} and sum(forgot for _, forgot in seen) > 20
    back = by_number(search.run(SearchProblem(i, i) for i in range(11, -1, -1)))
    assert all(essence(found[i]) == essence(back[i]) for i in range(12))


def test_bad_knobs_are_refused() -> None:
    with pytest.raises(ConfigError, match="close are both 3"):
        atom_of_thoughts(1, QUESTION, QUESTION, LONG)
    with pytest.raises(ConfigError, match="most"):
        atom_of_thoughts(1, QUESTION, CLOSE, LONG, most=0)
