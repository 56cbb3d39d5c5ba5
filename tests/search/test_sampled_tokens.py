"""Every sampled token, drawn again with NumPy alone: a transformer in float64, and random numbers counted by hand.

Nothing here calls the code under test but to get its answers: threefry is written out (Salmon et al. 2011), the model
reads the whole text again for every token, and a search is a list of texts.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from models.config import ModelConfig
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling
from search.searcher import Searcher, SearchProblem
from search.strategies.beam import beam
from search.strategies.best_of_n import best_of_n
from search.verifiers.scorer import LikelihoodScorer

SEED, END, STEP, MOST = 3, 56, 3, 9  # MOST: tokens of a text, in steps of STEP
MODEL = ModelConfig(vocab_size=70, d_model=16, n_layers=1, n_heads=4, n_kv_heads=2, head_dim=4, d_ff=24)
PROBLEMS = {7: (11, 40, 2), 0: (63, 8, 8, 21, 69)}  # number: prompt
CONFIG = SearchConfig(
    problems=2, prompt_len=8, max_tokens=MOST, max_steps=3, max_rounds=5, tokens_per_step=STEP, ends=(END,), seed=SEED
)


def threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32 with 20 rounds."""
    mask, schedule = 0xFFFFFFFF, (key[0], key[1], 0x1BD11BDA ^ key[0] ^ key[1])
    x, y = (counter[0] + key[0]) & mask, (counter[1] + key[1]) & mask
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = (x + y) & mask
            y = x ^ ((y << turn | y >> (32 - turn)) & mask)
        x = (x + schedule[(group + 1) % 3]) & mask
        y = (y + schedule[(group + 2) % 3] + group + 1) & mask
    return x, y


def uniforms(problem: int, lineage: int, step: int) -> list[float]:
    """The two numbers in [0, 1) behind token `step` of a lineage."""
    key = (0, SEED)
    for number in (problem, lineage, step):
        key = threefry(key, (0, number))
    words = (threefry(key, (0, i)) for i in range(2))
    return [((x ^ y) >> 8) / 2**24 for x, y in words]


def log_probabilities(tokens: tuple[int, ...]) -> np.ndarray:
    """Of what follows the text, `[vocab]` float64."""
    weights, n = parameters(), len(tokens)
    x = weights["tokens"][list(tokens)].astype(np.float64)
    frequency = 10_000.0 ** (-np.arange(0, 4, 2) / 4)
    cos, sin = (f(np.arange(n)[:, None, None] * frequency) for f in (np.cos, np.sin))

    def normed(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * gain

    def turned(x: np.ndarray) -> np.ndarray:
        a, b = x[..., :2], x[..., 2:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    w = weights["block_0"]
    qkv = np.einsum("nd,dkge->nkge", normed(x, w["attention_norm"]["gain"]), w["attention"]["qkv"])
    q, k, v = turned(qkv[:, :, :2].reshape(n, 4, 4)), turned(qkv[:, :, 2]), qkv[:, :, 3]
    scores = np.einsum("nkge,mke->nkgm", q.reshape(n, 2, 2, 4), k) / 2
    scores = np.where(np.arange(n) <= np.arange(n)[:, None, None, None], scores, -np.inf)
    share = np.exp(scores - scores.max(-1, keepdims=True))
    read = np.einsum("nkgm,mke->nkge", share / share.sum(-1, keepdims=True), v)
    x = x + np.einsum("nkge,kged->nd", read, w["attention"]["out"])
    gate, up = np.einsum("nd,dcf->cnf", normed(x, w["feedforward_norm"]["gain"]), w["feedforward"]["gate_up"])
    x = x + (gate / (1 + np.exp(-gate)) * up) @ w["feedforward"]["down"]
    logits = weights["tokens"] @ normed(x[-1], weights["final_norm"]["gain"])
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


@cache
def parameters() -> dict[str, Any]:
    """Random ones, float32, far enough from uniform distributions and from sure ones."""
    rng = np.random.default_rng(1)

    def drawn(*shape: int) -> np.ndarray:
        return (0.5 * rng.standard_normal(shape)).astype(np.float32)

    def gain() -> dict[str, np.ndarray]:
        return {"gain": 1 + drawn(16) / 4}

    block = {
        "attention": {"qkv": drawn(16, 2, 4, 4), "out": drawn(2, 2, 4, 16)},
        "attention_norm": gain(),
        "feedforward": {"gate_up": drawn(16, 2, 24), "down": drawn(24, 16)},
        "feedforward_norm": gain(),
    }
    return {"tokens": drawn(70, 16), "block_0": block, "final_norm": gain()}


def first_above(share: float, weight: np.ndarray) -> int:
    """The first place whose cumulative weight is more than that share of all."""
    return int(np.argmax(np.cumsum(weight) > share * weight.sum()))


class Text(NamedTuple):
    """What one particle wrote, the log-probability of all of it, and its stream of random numbers."""

    tokens: tuple[int, ...]
    logprob: float
    lineage: int

    @property
    def ended(self) -> bool:
        return len(self.tokens) == MOST or self.tokens[-1:] == (END,)

    @property
    def score(self) -> float:
        return np.exp(self.logprob / max(len(self.tokens), 1))


def longer(problem: int, text: Text, most: int) -> Text:
    """The text with up to `most` tokens more: blocks of 32 tokens first, then a token of the block."""
    for _ in range(most):
        if text.ended:
            break
        known = log_probabilities(PROBLEMS[problem] + text.tokens)
        weight, (of_block, inside) = np.exp(known), uniforms(problem, text.lineage, len(text.tokens))
        start = 32 * first_above(of_block, np.array([weight[i : i + 32].sum() for i in (0, 32, 64)]))
        token = start + first_above(inside, weight[start : start + 32])
        text = Text((*text.tokens, token), text.logprob + known[token], text.lineage)
    return text


def same(found: list[tuple[tuple[int, ...], float]], want: list[Text]) -> None:
    """Equal tokens, and log-probabilities but for the rounding of float32."""
    assert [tokens for tokens, _ in found] == [text.tokens for text in want]
    np.testing.assert_allclose([logprob for _, logprob in found], [text.logprob for text in want], rtol=3e-6)


@pytest.mark.slow  # compiles a search and an engine
def test_samples_of_searches_and_of_the_engine_are_those_that_numpy_draws() -> None:
    want = {p: [longer(p, Text((), 0.0, i), MOST) for i in range(6)] for p in PROBLEMS}
    assert any(text.tokens[-1] == END for texts in want.values() for text in texts)  # not all of one length
    decoder = TransformerDecoder(MODEL, parameters(), CONFIG.prompt_len)
    search = Searcher(decoder, best_of_n(6, scored=False), CONFIG)
    for found in search.run(SearchProblem(*pair) for pair in PROBLEMS.items()):
        same([(c.tokens, c.logprob) for c in found.candidates], want[found.problem.number])
    config = EngineConfig(slots=4, max_len=16, page_size=8, pages=8, prefill_chunk=16, stage_tokens=4, ends=(END,))
    requests = [Request(p, prompt, 6, MOST, Sampling(), seed=SEED) for p, prompt in PROBLEMS.items()]
    for done in Engine(MODEL, parameters(), config).generate(requests):
        same([(done.tokens, sum(done.logprobs))], [want[done.problem][done.sample]])


@pytest.mark.slow  # compiles a search
def test_a_beam_is_the_one_that_numpy_draws() -> None:
    """The first heir of a text goes on with its lineage, the others begin new ones, in order."""
    decoder = TransformerDecoder(MODEL, parameters(), CONFIG.prompt_len)
    search = Searcher(decoder, beam(6, 3), CONFIG, LikelihoodScorer())
    for found in search.run(SearchProblem(*pair) for pair in PROBLEMS.items()):
        problem, texts, lineages = found.problem.number, [Text((), 0.0, i) for i in range(6)], 6
        texts, rounds = [longer(problem, text, STEP) for text in texts], 1
        while True:
            best = sorted(range(6), key=lambda i: -texts[i].score)[:2]  # stable: ties go to the lower index
            if all(texts[i].ended for i in best):
                break
            going = [i for i in best if not texts[i].ended]
            parents = [i if heir == 0 or not texts[i].ended else going[0] for i in best for heir in range(3)]
            heirs = []
            for place, parent in enumerate(parents):
                heir = texts[parent]
                if parent in parents[:place]:
                    heir, lineages = heir._replace(lineage=lineages), lineages + 1
                heirs.append(longer(problem, heir, STEP))
            texts, rounds = heirs, rounds + 1
        assert found.rounds == rounds and lineages > 6
        same([(c.tokens, c.logprob) for c in found.candidates], texts)
