"""A judge that writes its verdicts: votes have the judge's own distribution, and every token of them is paid for."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from search.config import Budget, SearchConfig
from search.decoder import TransformerDecoder
from search.searcher import Searcher, SearchProblem
from search.strategies.best_of_n import best_of_n
from search.tree_decoder import TreeDecoder
from search.verifiers.generative import GenerativeVerifier, generative_verifier
from tests.search.trees import random_trees

THINK, YES, NO = range(3)
TREES = random_trees(0)


def judge(first: np.ndarray, then: np.ndarray) -> TreeDecoder:
    """Judges `[judges, 3]` that think, say yes or no; having thought they do so once more, and then they end."""
    child = np.full((len(first), 7, 3), -1)
    child[:, 0], child[:, 1] = (1, 2, 3), (4, 5, 6)
    log_prob = np.zeros(child.shape)
    with np.errstate(divide="ignore"):
        log_prob[:, 0], log_prob[:, 1] = np.log(first), np.log(then)
    return TreeDecoder(child, log_prob, np.zeros(child.shape[:2]))


def exact(first: np.ndarray, then: np.ndarray, votes: int) -> dict[tuple[int, int], float]:
    """The probability of every (number of yes, number of no)."""
    yes, no = first[YES] + first[THINK] * then[YES], first[NO] + first[THINK] * then[NO]
    found: dict[tuple[int, int], float] = Counter()
    for verdicts in product((YES, NO, THINK), repeat=votes):
        chance = np.prod([{YES: yes, NO: no, THINK: 1 - yes - no}[v] for v in verdicts])
        found[verdicts.count(YES), verdicts.count(NO)] += float(chance)
    return found


def test_votes_have_the_distribution_of_the_judge() -> None:
    rng, votes, many = np.random.default_rng(0), 3, 2000
    first, then = rng.dirichlet(np.ones(3), 2), rng.dirichlet(np.ones(3), 2)
    decoder = judge(first, then)
    verifier = GenerativeVerifier(
        decoder, lambda contexts, rows: None, [YES], [NO], flops_per_token=1, votes=votes, most_tokens=2
    )
    trees = np.arange(2 * many) % 2
    keys = jax.random.bits(jax.random.key(0), (2 * many, 2))
    found = jax.jit(verifier.verdicts)(decoder.params, (jnp.asarray(trees), jnp.zeros(2 * many, jnp.int32)), keys)
    verdicts, written = np.asarray(found.verdict), np.asarray(found.written)
    for tree in range(2):
        chances = exact(first[tree], then[tree], votes)
        seen = Counter((int((v == 1).sum()), int((v == 0).sum())) for v in verdicts[trees == tree])
        assert seen.keys() <= chances.keys()
        statistic = sum((seen[k] - many * p) ** 2 / (many * p) for k, p in chances.items())
        assert statistic < chi2.isf(1e-4, len(chances) - 1)
        thought = (written[trees == tree] == 2).mean()
        assert abs(thought - first[tree, THINK]) < 4 * (0.25 / many / votes) ** 0.5
    assert set(written.reshape(-1)) == {1, 2}


def by_first_token(contexts, rows):
    """Which judge looks at a walk, by its first step."""
    return rows.tokens[..., 0].reshape(-1), jnp.zeros(rows.length.size, jnp.int32)


CONFIG = SearchConfig(
    problems=4, prompt_len=1, max_tokens=TREES.depth, max_steps=1, max_rounds=2, budget=Budget(100, "tokens")
)


@pytest.fixture(scope="module")
def asked() -> Searcher:
    """Walks that begin with 0 are always accepted at once, those with 1 half of the time, those with 2 never."""
    first = np.array([[0, 1, 0], [0.2, 0.4, 0.4], [1, 0, 0]], float)
    then = np.array([[0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]], float)
    verifier = GenerativeVerifier(
        judge(first, then), by_first_token, [YES], [NO], flops_per_token=3, votes=5, most_tokens=2
    )
    return Searcher(TREES.decoder, best_of_n(4), CONFIG, verifier)


def test_scores_are_shares_of_yes_and_the_ledger_is_a_count_by_hand(asked: Searcher) -> None:
    found = {f.problem.number: f for f in asked.run(SearchProblem(i, i % 2) for i in range(40))}
    halves = []
    for f in found.values():
        least = most = 0
        for c in f.candidates:
            if c.tokens[0] == 1:
                halves.append(5 * c.score)
            else:
                assert c.score == pytest.approx(float(c.tokens[0] == 0), abs=2e-6)
            least += {0: 5, 1: 5, 2: 10}[c.tokens[0]]
            most += {0: 5, 1: 10, 2: 10}[c.tokens[0]]
        assert least <= f.cost.verifier_tokens <= most
        assert most > least or f.cost.verifier_tokens == least
        walked = 4 * sum(1 + i + 1 for i in range(TREES.depth))  # one, and one per key
        assert f.cost.flops == walked + 3 * f.cost.verifier_tokens
        assert f.cost.generated_tokens + f.cost.verifier_tokens <= 100
        assert not f.out_of_budget  # 16 tokens of walks, and at most 40 of judgements
    halves = np.round(halves).astype(int)
    expected = np.array([1, 5, 10, 10, 5, 1]) / 32 * len(halves)
    statistic = ((np.bincount(halves, minlength=6) - expected) ** 2 / expected).sum()
    assert len(halves) > 20 and statistic < chi2.isf(1e-4, 5)
    for number in (3, 20):  # a problem's votes are its own, whoever stands beside it
        alone = next(asked.run([SearchProblem(number, number % 2)]))
        assert alone.candidates == found[number].candidates
        assert dataclasses.replace(alone.cost, seconds=0) == dataclasses.replace(found[number].cost, seconds=0)


def test_a_transformer_reads_prompt_completion_and_question() -> None:
    vocab, votes, question = 11, 64, (3, 9)
    model = ModelConfig(vocab_size=vocab, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=32, max_seq_len=32)
    config = SearchConfig(problems=3, prompt_len=6, max_tokens=7, max_steps=1, max_rounds=2, ends=(5,))
    policy, params = (transformer.init(model, jax.random.key(i)) for i in range(2))
    yes, no = (0, 2, 4, 6), (1, 3, 5, 7, 8, 9, 10)
    verifier = generative_verifier(model, params, vocab, config, question, yes, no, votes=votes)
    search = Searcher(TransformerDecoder(model, policy, 6), best_of_n(4), config, verifier)
    prompts = [tuple(np.random.default_rng(i).integers(0, vocab, 2 + i % 5).tolist()) for i in range(6)]
    total, rows = 0.0, 0
    for f in search.run(map(SearchProblem, range(6), prompts)):
        for c in f.candidates:
            text = (*f.problem.prompt, *c.tokens, *question)
            padded = np.zeros((1, 32), np.int32)
            padded[0, : len(text)] = text
            chance = np.asarray(jax.nn.softmax(transformer.apply(model, params, padded)[0, len(text) - 1]))
            p = float(chance[list(yes)].sum())
            total, rows = total + (c.score - p) ** 2 / (p * (1 - p) / votes), rows + 1
        assert f.cost.verifier_tokens == sum(len(f.problem.prompt) + len(c.tokens) + 2 + votes for c in f.candidates)
    assert chi2.isf(1 - 1e-4, rows) < total < chi2.isf(1e-4, rows)


def test_bad_judges_are_refused() -> None:
    decoder = judge(np.ones((1, 3)) / 3, np.ones((1, 3)) / 3)
    for arguments, message in (
        (([YES], [YES, NO]), r"verdicts: \[1\] are both yes and no"),
        (([], [NO]), "verdicts: have no token for yes"),
        (([7], [NO]), r"\[7\] are no tokens of the judge"),
    ):
        with pytest.raises(ConfigError, match=message):
            GenerativeVerifier(decoder, by_first_token, *arguments, flops_per_token=1)
    with pytest.raises(ConfigError, match="votes: is 0"):
        GenerativeVerifier(decoder, by_first_token, [YES], [NO], flops_per_token=1, votes=0)
    model = ModelConfig(vocab_size=11, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=32, max_seq_len=32)
    with pytest.raises(ConfigError, match="reads 11 kinds of tokens, and the policy writes 12"):
        generative_verifier(model, {}, 12, CONFIG, (1,), (1,), (2,))
