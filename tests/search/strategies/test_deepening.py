"""At every budget the trigger is written, and everything else has the policy's own distribution."""

from __future__ import annotations

import numpy as np
import pytest

from models.errors import ConfigError
from search.config import SearchConfig
from search.searcher import Searcher, SearchProblem
from search.strategies.deepening import budgets, iterative_deepening
from tests.search.strategies.enumeration import Text, agreement, by_number, essence
from tests.search.trees import random_trees

END, TRIGGER, FIRST, GROWTH, DEPTH = 0, (1, 2), 1, 3.0, 6
TREES = random_trees(9, trees=1, actions=3, depth=DEPTH)
CONFIG = SearchConfig(problems=16, prompt_len=1, max_tokens=DEPTH, max_steps=6, max_rounds=2, ends=(END,), seed=5)


def triggered(text: Text = ()) -> dict[Text, float]:
    """Probability of every text: at 1 and 3 tokens the trigger is written, unless the text has ended."""
    node = TREES.walk(0, text)
    if TREES.child[0, node, 0] < 0 or (text and text[-1] == END):
        return {text: 1.0}
    for begin in (1, 3):
        if begin <= len(text) < begin + 2:
            return triggered((*text, TRIGGER[len(text) - begin]))
    found: dict[Text, float] = {}
    for token in range(3):
        p = float(np.exp(TREES.log_prob[0, node, token]))
        found |= {whole: p * q for whole, q in triggered((*text, token)).items()}
    return found


def test_texts_have_the_distribution_of_the_definition() -> None:
    strategy = iterative_deepening(16, TRIGGER, DEPTH, first=FIRST, growth=GROWTH, scored=False)
    search = Searcher(TREES.decoder, strategy, CONFIG)
    found = by_number(search.run(SearchProblem(i, 0) for i in range(128)))
    assert agreement((c.tokens for f in found.values() for c in f.candidates), triggered()) > 1e-3
    for f in found.values():
        assert f.cost.prompt_tokens + f.cost.generated_tokens == sum(len(c.tokens) for c in f.candidates)
    back = by_number(search.run(SearchProblem(i, 0) for i in reversed(range(12))))
    assert all(essence(found[i]) == essence(back[i]) for i in range(12))


@pytest.mark.parametrize("trigger", [(7,), (7, 8)])
def test_a_trigger_waits_for_the_token_that_it_takes_the_place_of(trigger: tuple[int, ...]) -> None:
    """As on paper: budgets of 2, 4 and 8 tokens, of which one that passes while another waits gets no own trigger."""
    control = iterative_deepening(1, trigger, 16, first=2, growth=2, instead=3, scored=False).control
    assert control is not None
    drawn = np.random.default_rng(0).integers(2, 4, (8, 16)).astype(np.int32)
    for row in drawn:
        expected: list[int] = []
        left, queue = [2, 4, 8], []
        written, aux = [], np.int32(0)
        for length, token in enumerate(row):
            if not queue and token == 3 and left and left[0] <= length:
                queue, left = list(trigger), [mark for mark in left if mark > length]
            expected.append(queue.pop(0) if queue else int(token))
            one, aux = control(token, np.int32(length), aux)
            written.append(int(one))
        assert written == expected
    with pytest.raises(ConfigError, match="trigger"):
        iterative_deepening(1, (3,), 16, instead=3)


def test_budgets_grow_geometrically() -> None:
    assert budgets(64, 2, 600) == [64, 128, 256, 512]
    assert budgets(10, 1.5, 40) == [10, 15, 22, 33]


def test_triggers_that_overlap_are_refused() -> None:
    with pytest.raises(ConfigError, match="longer than the gap"):
        iterative_deepening(2, (1, 2, 1), 64, first=2, growth=2)
    with pytest.raises(ConfigError, match="growth"):
        iterative_deepening(2, (1,), 64, growth=1)
    with pytest.raises(ConfigError, match="trigger"):
        iterative_deepening(2, (), 64)
