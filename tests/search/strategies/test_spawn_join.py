"""Sub-searches start, run and report as a plain simulation of the protocol does, token by token."""

from __future__ import annotations

import numpy as np
import pytest

from models.errors import ConfigError
from search.config import SearchConfig
from search.searcher import Searcher, SearchProblem
from search.strategies.spawn_join import Calls, spawn_join
from tests.search.strategies.enumeration import Text, by_number, essence
from tests.search.strategies.scripts import ScriptDecoder, write

CALLS = Calls(call=6, child=7, close=8, reply=9, result=10, done=11, answer=12, end=13)
VOCAB, LONG, CHILDREN, ANSWER, MOST, SCRIPTS = 14, 40, 3, 4, 2, 120
SHARES = np.array([0.08] * 4 + [0.0, 0.0, 0.2, 0.2, 0.16, 0.0, 0.0, 0.0, 0.07, 0.04])
TABLE = np.random.default_rng(0).choice(VOCAB, size=(SCRIPTS, VOCAB, VOCAB, LONG), p=SHARES / SHARES.sum())
CONFIG = SearchConfig(
    problems=8, prompt_len=1, max_tokens=LONG, max_steps=LONG, max_rounds=40, delimiters=(CALLS.close,),
    ends=(CALLS.end,), seed=1,
)  # fmt: skip


def split(block: Text) -> list[Text]:
    """The lines of a call block, without its close."""
    lines: list[Text] = []
    for token in block[1:-1]:
        if token == CALLS.child:
            lines.append(())
        elif lines:
            lines[-1] = (*lines[-1], token)
    return lines


def simulated(script: int) -> tuple[Text, int, int, int]:
    """(the parent's text, calls, tokens drawn, tokens in sequence)."""
    text: Text = ()
    forced: Text = ()
    calls = drawn = depth = 0
    while True:
        begin = len(text)
        text, new = write(TABLE[script], text, forced, (CALLS.close, CALLS.end))
        drawn, depth, forced = drawn + new, depth + len(text) - begin, ()
        if text[-1] == CALLS.end or len(text) == LONG:
            return text, calls, drawn, depth
        start = len(text) - 1 - text[::-1].index(CALLS.call) if CALLS.call in text else -1
        lines = split(text[start:])[:CHILDREN] if start >= 0 else []
        if not lines or calls == MOST:
            continue
        calls += 1
        children = [write(TABLE[script], (), line, (CALLS.end,)) for line in lines]
        drawn += sum(n for _, n in children)
        depth += max(len(child) for child, _ in children)
        forced = (CALLS.reply,)
        for line, (child, _) in zip(lines, children):
            own = child[len(line) : -1] if child[-1] == CALLS.end else ()
            if CALLS.answer in own:
                own = own[len(own) - own[::-1].index(CALLS.answer) :]
            forced += (CALLS.result, *own[-ANSWER:])
        forced += (CALLS.done,)
        text = text[:start]


def test_every_search_is_that_of_the_protocol() -> None:
    search = Searcher(ScriptDecoder(TABLE), spawn_join(CHILDREN, CALLS, LONG, MOST, ANSWER), CONFIG)
    problems = [SearchProblem(i, i) for i in range(SCRIPTS)]
    found = by_number(search.run(problems))
    calls = []
    for i, f in found.items():
        text, called, drawn, depth = simulated(i)
        assert f.candidates[0].tokens == text
        assert f.report["calls"] == called
        assert (f.cost.generated_tokens, f.cost.depth) == (drawn, depth)
        assert f.best == (0 if text[-1] == CALLS.end else None)
        calls.append(called)
    assert {0, 1, 2} <= set(calls) and sum(calls) > 20
    back = by_number(search.run(problems[11::-1]))
    assert all(essence(found[i]) == essence(back[i]) for i in range(12))


def test_bad_knobs_are_refused() -> None:
    with pytest.raises(ConfigError, match="repeat a token"):
        Calls(1, 2, 3, 4, 5, 6, 7, 1)
    with pytest.raises(ConfigError, match="children"):
        spawn_join(0, CALLS, LONG)
