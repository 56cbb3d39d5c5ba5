"""Two models side by side write exactly the mixture of texts that drafting and judging by steps defines."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.errors import ConfigError
from search.config import SearchConfig
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.step_speculation import JudgeScorer, PairedDecoder, repeats, step_speculation
from search.tree_decoder import TreeDecoder
from search.verifiers.scorer import ValueScorer
from tests.search.strategies.enumeration import Text, agreement, by_number, essence
from tests.search.trees import Trees, random_trees

END, DEPTH, STEP, THRESHOLD, SAMPLES = 0, 6, 2, 0.5, 16
LARGE = random_trees(31, trees=1, actions=3, depth=DEPTH)
LARGE = dataclasses.replace(LARGE, value=np.random.default_rng(2).uniform(0.05, 0.95, LARGE.value.shape))
SMALL = dataclasses.replace(random_trees(32, trees=1, actions=3, depth=DEPTH), value=1 - LARGE.value)
CONFIG = SearchConfig(
    problems=16, prompt_len=1, max_tokens=DEPTH, max_steps=DEPTH, max_rounds=2 * DEPTH, tokens_per_step=STEP,
    ends=(END,), seed=9,
)  # fmt: skip


def steps_after(trees: Trees, text: Text) -> dict[Text, float]:
    """Probability of every text that is one step further."""
    found: dict[Text, float] = {text: 1.0}
    for _ in range(STEP):
        grown: dict[Text, float] = {}
        for t, p in found.items():
            node = trees.walk(0, t)
            if len(t) > len(text) and (t[-1] == END or len(t) == DEPTH):
                grown[t] = grown.get(t, 0.0) + p
                continue
            for token in range(3):
                grown[(*t, token)] = p * float(np.exp(trees.log_prob[0, node, token]))
        found = grown
    return found


def mixture(threshold: float, stop_on_repeat: bool) -> tuple[dict[Text, float], float, float]:
    """(probability of every text, expected drafts, expected drafts that stand)."""
    found: dict[Text, float] = {}
    drafts = stood = 0.0
    going: dict[Text, float] = {(): 1.0}
    while going:
        after: dict[Text, float] = {}
        for text, p in going.items():
            small, large = steps_after(SMALL, text), steps_after(LARGE, text)
            good = {t: q for t, q in small.items() if LARGE.value[0, LARGE.walk(0, t)] >= threshold}
            rejected = 1 - sum(good.values())
            drafts, stood = drafts + p, stood + p * sum(good.values())
            for t in small.keys() | large.keys():
                q = good.get(t, 0.0) + rejected * large.get(t, 0.0)
                equal = len(t) >= 2 * STEP and len(t) % STEP == 0 and t[-STEP:] == t[-2 * STEP : -STEP]
                over = t[-1] == END or len(t) == DEPTH or (equal and stop_on_repeat)
                where = found if over else after
                where[t] = where.get(t, 0.0) + p * q
        going = after
    return {t: p for t, p in found.items() if p > 0}, drafts, stood


def searcher(threshold: float, stop_on_repeat: bool = True) -> Searcher:
    strategy = step_speculation(SAMPLES, threshold, stop_on_repeat)
    return Searcher(PairedDecoder(SMALL.decoder, LARGE.decoder), strategy, CONFIG, ValueScorer())


@pytest.fixture(scope="module")
def search() -> Searcher:
    return searcher(THRESHOLD)


@pytest.fixture(scope="module")
def found(search: Searcher) -> list[Found]:
    return list(search.run(SearchProblem(i, 0) for i in range(128)))


def test_texts_are_the_mixture_of_both_models(found: list[Found]) -> None:
    exact, drafts, stood = mixture(THRESHOLD, True)
    assert sum(exact.values()) == pytest.approx(1)
    assert agreement((c.tokens for f in found for c in f.candidates), exact) > 1e-3
    counts = np.array([[f.report["drafts"], f.report["accepted"] * f.report["drafts"]] for f in found]) / SAMPLES
    error = counts.std(0, ddof=1) / np.sqrt(len(counts))
    assert (abs(counts.mean(0) - [drafts, stood]) < 4 * error).all()


def test_work_that_is_taken_back_is_charged(found: list[Found]) -> None:
    assert sum(f.cost.discarded_tokens for f in found) > 0
    for f in found:
        kept = sum(len(c.tokens) for c in f.candidates)
        assert f.cost.kept_tokens == kept
        rejected = round(f.report["drafts"] * (1 - f.report["accepted"]))
        assert rejected <= f.cost.discarded_tokens <= STEP * rejected


@pytest.mark.parametrize(("threshold", "writer"), [(0.0, SMALL), (1.0, LARGE)])
def test_the_extremes_are_one_model_alone(threshold: float, writer: Trees) -> None:
    exact: dict[Text, float] = {(): 1.0}
    for _ in range(DEPTH // STEP):
        grown: dict[Text, float] = {}
        for text, p in exact.items():
            over = text and text[-1] == END
            for t, q in ({text: 1.0} if over else steps_after(writer, text)).items():
                grown[t] = grown.get(t, 0.0) + p * q
        exact = grown
    alone = searcher(threshold, stop_on_repeat=False)
    texts = [c.tokens for f in alone.run(SearchProblem(i, 0) for i in range(64)) for c in f.candidates]
    assert agreement(texts, exact) > 1e-3


def test_answers_do_not_depend_on_order(found: list[Found], search: Searcher) -> None:
    back = by_number(search.run(SearchProblem(i, 0) for i in reversed(range(16))))
    there = by_number(found)
    assert all(essence(there[i]) == essence(back[i]) for i in range(16))


def test_two_equal_steps_are_seen() -> None:
    """Against slices, for every text of six tokens over two letters and every way to cut it into three steps."""
    same = jax.jit(repeats)
    for text in itertools.islice(itertools.product((1, 2), repeat=6), 0, 64, 5):
        for ends in ((1, 2, 6), (2, 4, 6), (1, 3, 5), (2, 3, 4), (2, 4, 5)):
            for steps in range(4):
                parts = [text[a:b] for a, b in itertools.pairwise((0, *ends[:steps]))]
                got = same(jnp.asarray(text), jnp.asarray((*ends, 0)), jnp.int32(steps))
                assert bool(got) == (steps >= 2 and parts[-1] == parts[-2])


def test_a_judge_rates_by_one_token() -> None:
    """The expectation over rating tokens, of the large model."""
    rows = type("Rows", (), {})()
    logits = np.random.default_rng(0).normal(size=(1, 4, 2, 3)).astype(np.float32)
    rows.outputs = type("Outputs", (), {"logits": jnp.asarray(logits)})()
    got = JudgeScorer({1: 0.9, 2: 0.1}).score((), None, rows)
    p = np.exp(logits[:, :, 1, 1:].astype(float))
    np.testing.assert_allclose(got, (p * [0.9, 0.1]).sum(-1) / p.sum(-1), rtol=1e-5)


def test_models_of_different_vocabularies_are_refused() -> None:
    other = TreeDecoder(np.full((1, 1, 4), -1), np.zeros((1, 1, 4)), np.zeros((1, 1)))
    with pytest.raises(ConfigError, match="3 tokens in the small model, 4 in the large one"):
        PairedDecoder(SMALL.decoder, other)
    with pytest.raises(ConfigError, match="threshold"):
        step_speculation(2, 1.5)
