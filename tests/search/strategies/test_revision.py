"""Chains of attempts: every attempt sees the ones it should, with the policy's own distribution given them."""

from __future__ import annotations

from collections import Counter
from functools import cache

import jax
import numpy as np
import pytest

from models.errors import ConfigError
from search.config import SearchConfig
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.revision import last_attempt, of_last_attempt, revision
from search.verifiers.scorer import LikelihoodScorer
from tests.search.strategies.enumeration import Text, agreement, by_number, essence
from tests.search.strategies.writers import PROBLEMS, PROMPT, logprobs, writer
from tests.search.trees import random_trees

END, PART, DEPTH = 0, 1, 6
CHAINS, ATTEMPTS = 4, 3
TREES = random_trees(21, trees=1, actions=4, depth=DEPTH)
CONFIG = SearchConfig(problems=16, prompt_len=1, max_tokens=DEPTH, max_steps=DEPTH, max_rounds=8, ends=(END,), seed=6)


def answer_of(tokens: jax.Array, length: jax.Array) -> jax.Array:
    return tokens[0]


@cache
def attempts_after(context: Text) -> dict[Text, float]:
    """Probability of every attempt, its end included; a separator ends it too."""
    found: dict[Text, float] = {}

    def visit(text: Text, p: float) -> None:
        node = TREES.walk(0, text)
        if TREES.child[0, node, 0] < 0 or (len(text) > len(context) and text[-1] == END):
            own = text[len(context) :]
            found[own] = found.get(own, 0.0) + p
            return
        for token in range(4):
            visit((*text, END if token == PART else token), p * float(np.exp(TREES.log_prob[0, node, token])))

    visit(context, 1.0)
    return found


def context_of(previous: list[Text], window: int) -> Text | None:
    """The last attempts, each closed by a separator; None when no attempt fits behind them."""
    found: Text = ()
    for attempt in previous[-window:]:
        found += (*(attempt[:-1] if attempt[-1] == END else attempt), PART)
    return found if len(found) < DEPTH else None


def chains(window: int) -> dict[tuple[Text, ...], float]:
    """Probability of every chain of up to three attempts."""
    found: dict[tuple[Text, ...], float] = {}

    def visit(previous: list[Text], p: float) -> None:
        context = context_of(previous, window)
        if len(previous) == ATTEMPTS or context is None:
            found[tuple(previous)] = found.get(tuple(previous), 0.0) + p
            return
        for attempt, q in attempts_after(context).items():
            if p * q > 1e-7:
                visit([*previous, attempt], p * q)

    visit([], 1.0)
    return found


def chain_of(f: Found, chain: int, window: int) -> tuple[Text, ...]:
    """A search's chain, with what each attempt saw checked."""
    previous: list[Text] = []
    for attempt in range(ATTEMPTS):
        text = f.candidates[attempt * CHAINS + chain].tokens
        if text:
            context = context_of(previous, window)
            assert context is not None and text[: len(context)] == context
            previous.append(text[len(context) :])
    return tuple(previous)


@pytest.mark.parametrize("window", [1, 4])
def test_chains_have_the_distribution_of_the_definition(window: int) -> None:
    strategy = revision(
        CHAINS * ATTEMPTS, ATTEMPTS, PART, END, DEPTH, window=window, pick="majority", answer_of=answer_of, scored=False
    )
    search = Searcher(TREES.decoder, strategy, CONFIG)
    found = by_number(search.run(SearchProblem(i, 0) for i in range(192)))
    drawn = [chain_of(f, chain, window) for f in found.values() for chain in range(CHAINS)]
    exact = chains(window)
    exact |= {chain: exact.get(chain, 1e-9) for chain in drawn}  # the rarest were left out
    total = sum(exact.values())
    assert total == pytest.approx(1, abs=1e-3)
    assert agreement(drawn, {chain: p / total for chain, p in exact.items()}) > 1e-3
    for f in found.values():
        assert f.best == elected(f, window)
        read = f.cost.prompt_tokens + f.cost.generated_tokens
        texts = [c.tokens for c in f.candidates]
        own = [last_attempt(t, PART) for t in texts]
        # An attempt draws what is its own; a separator is read, and what the window dropped makes the rest be read.
        assert f.cost.generated_tokens <= sum(len(t) for t in own)
        assert read <= sum(len(t) for t in texts)
        assert f.cost.depth <= read
    back = by_number(search.run(SearchProblem(i, 0) for i in reversed(range(12))))
    assert all(essence(found[i]) == essence(back[i]) for i in range(12))


def elected(f: Found, window: int) -> int | None:
    """The majority in every chain, then among the chains; the first of equals."""
    speakers = []
    for chain in range(CHAINS):
        places = [a * CHAINS + chain for a in range(ATTEMPTS) if f.candidates[a * CHAINS + chain].complete]
        answers = {p: last_attempt(f.candidates[p].tokens, PART)[0] for p in places}
        if places:
            votes = Counter(answers.values())
            speakers.append(next(p for p in places if votes[answers[p]] == max(votes.values())))
    votes = Counter(last_attempt(f.candidates[p].tokens, PART)[0] for p in speakers)
    return next(p for p in speakers if votes[last_attempt(f.candidates[p].tokens, PART)[0]] == max(votes.values()))


def test_a_verifier_of_the_host_sees_the_last_attempt_alone() -> None:
    seen: list[Text] = []

    def scores(payloads: list, texts: list) -> np.ndarray:
        seen.extend(texts)
        return np.array([0.9 if t[0] == 2 else 0.1 for t in texts])

    strategy = revision(CHAINS * ATTEMPTS, ATTEMPTS, PART, END, DEPTH)
    search = Searcher(TREES.decoder, strategy, CONFIG, of_last_attempt(scores, PART))
    for f in search.run(SearchProblem(i, 0) for i in range(16)):
        assert f.answer is not None
        good = [last_attempt(c.tokens, PART)[0] == 2 for c in f.candidates if c.complete]
        assert (last_attempt(f.answer, PART)[0] == 2) == any(good)
    assert seen and all(PART not in text for text in seen)


def test_a_transformer_reads_the_remembered_attempts_anew() -> None:
    """Whether an attempt goes on from a cache or from what was read again: the model without a cache says the same."""
    config = SearchConfig(problems=2, prompt_len=PROMPT, max_tokens=24, max_rounds=8, ends=(5,), seed=2)
    strategy = revision(8, 4, 7, 5, 24, window=2)
    dropped = 0
    for f in Searcher(writer(), strategy, config, LikelihoodScorer()).run(PROBLEMS):
        np.testing.assert_allclose([c.logprob for c in f.candidates], logprobs(f, PROMPT + 24), atol=1e-4)
        for chain in range(2):
            texts = [f.candidates[a * 2 + chain].tokens for a in range(4)]
            dropped += bool(texts[3]) and texts[3].count(7) == 2
    assert dropped


def test_bad_knobs_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not divide"):
        revision(10, 4, PART, END, DEPTH)
    with pytest.raises(ConfigError, match="answer_of"):
        revision(8, 4, PART, END, DEPTH, pick="majority")
