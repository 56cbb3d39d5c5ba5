"""Stacks: what is revised, kept and answered is what a plain loop over the same attempts says."""

from __future__ import annotations

from collections import Counter

import jax
import pytest

from models.errors import ConfigError
from search.config import SearchConfig
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.revision import last_attempt
from search.strategies.stack import stack
from search.verifiers.scorer import LikelihoodScorer
from tests.search.strategies.enumeration import by_number, essence
from tests.search.trees import random_trees

END, MARK, DEPTH, DRAFTS, KEEP = 0, 1, 6, 5, (4, 2, 3)
TREES = random_trees(21, trees=1, actions=4, depth=DEPTH)
CONFIG = SearchConfig(problems=16, prompt_len=1, max_tokens=DEPTH, max_steps=DEPTH, max_rounds=8, ends=(END,), seed=6)


def first(tokens: jax.Array, length: jax.Array) -> jax.Array:
    return tokens[0]


def answered(f: Found, pick: str) -> int | None:
    """The place of the answer, with every attempt checked to be the one that is due."""
    texts = f.candidates
    at, kept = list(range(DRAFTS)), list(range(DRAFTS))
    for layer, count in enumerate(KEEP):
        for i in range(DRAFTS):
            new = texts[layer * DRAFTS + i]
            base = texts[at[i]].tokens
            base = (*base[: len(base) - (base[-1:] == (END,))], MARK)
            if layer and i in kept and len(base) < DEPTH:
                assert new.tokens[: len(base)] == base and len(new.tokens) > len(base)
            elif layer:
                assert new.tokens == ()
            if i in kept and new.complete:
                at[i] = layer * DRAFTS + i
        ranked = sorted((-texts[at[i]].score, i) for i in kept if texts[at[i]].complete)
        kept = sorted(i for _, i in ranked[:count])
    if not kept:
        return None
    if pick == "verifier":
        return at[min(kept, key=lambda i: (-texts[at[i]].score, i))]
    attempts = {i: last_attempt(texts[at[i]].tokens, MARK) for i in kept}
    said = {i: attempt[0] for i, attempt in attempts.items() if attempt}  # one that ends with a mark says nothing
    votes = Counter(said.values())
    return next((at[i] for i in said if votes[said[i]] == max(votes.values())), None)


@pytest.mark.parametrize("pick", ["verifier", "majority"])
def test_layers_revise_keep_and_answer_as_a_plain_loop_does(pick: str) -> None:
    strategy = stack(DRAFTS, KEEP, (MARK,), END, DEPTH, pick=pick, answer_of=first)  # type: ignore[arg-type]
    search = Searcher(TREES.decoder, strategy, CONFIG, LikelihoodScorer())
    found = by_number(search.run(SearchProblem(i, 0) for i in range(96)))
    assert all(f.best == answered(f, pick) for f in found.values())
    layers = Counter(f.best // DRAFTS for f in found.values() if f.best is not None)
    assert set(layers) == {0, 1, 2} and min(layers.values()) > 3
    back = by_number(search.run(SearchProblem(i, 0) for i in reversed(range(12))))
    assert all(essence(found[i]) == essence(back[i]) for i in range(12))


def test_stacks_that_make_no_sense_are_refused() -> None:
    for keep, mark, more, problem in (
        ((), (1,), {}, "keep"),
        ((2, 0), (1,), {}, "keep"),
        ((2, 1), (), {}, "mark"),
        ((4,), (), {"pick": "majority"}, "answer_of"),
        ((2,), (), {"pick": "majority", "answer_of": first, "scored": False}, "scored"),
    ):
        with pytest.raises(ConfigError, match=problem):
            stack(4, keep, mark, END, DEPTH, **more)  # type: ignore[arg-type]
    assert not stack(4, (4,), (), END, DEPTH, pick="majority", answer_of=first, scored=False).scored
