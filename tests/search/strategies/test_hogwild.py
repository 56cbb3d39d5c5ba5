"""Workers on one cache: alone a worker is a plain sample; together each sees the others' blocks before its own."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from models import counts, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from search.config import Budget, SearchConfig
from search.decoder import TransformerDecoder
from search.engine.sampling import Sampling
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.best_of_n import best_of_n
from search.strategies.hogwild import WorkersDecoder, hogwild

VOCAB, END, LONG, PROMPT = 16, 5, 10, 8
MODEL = ModelConfig(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_seq_len=64)
# With one layer keys depend on their tokens alone, so that one text in the right order is an exact oracle.
SHALLOW = dataclasses.replace(MODEL, n_layers=1)
PROBLEMS = [SearchProblem(i, tuple(np.random.default_rng(i).integers(0, VOCAB, 3 + i % 5).tolist())) for i in range(6)]


CONFIG = SearchConfig(
    problems=2, prompt_len=PROMPT, max_tokens=LONG, max_steps=1, max_rounds=2, ends=(END,),
    sampling=Sampling(temperature=0),
)  # fmt: skip
OPENINGS = ((1,), (2, 3), ())


def workers(params: dict, number: int, openings: tuple = (), **changes: Any) -> Searcher:
    config = dataclasses.replace(CONFIG, **changes)
    return Searcher(WorkersDecoder(SHALLOW, params, PROMPT), hogwild(number, openings), config)


@pytest.fixture(scope="module")
def params() -> dict:
    return transformer.init(SHALLOW, jax.random.key(1))


@pytest.fixture(scope="module")
def three(params: dict) -> list[Found]:
    """Three workers on every problem, two problems side by side."""
    return sorted(workers(params, 3, OPENINGS).run(PROBLEMS), key=lambda found: found.problem.number)


@pytest.mark.parametrize("quantized", [False, True])
def test_one_worker_is_one_sample_of_the_search(quantized: bool) -> None:
    params = transformer.init(MODEL, jax.random.key(0))
    config = dataclasses.replace(CONFIG, sampling=Sampling(), seed=3)
    ours, plain = (
        kind(MODEL, params, PROMPT, quantized_cache=quantized) for kind in (WorkersDecoder, TransformerDecoder)
    )
    alone, sample = Searcher(ours, hogwild(1), config), Searcher(plain, best_of_n(1, scored=False), config)
    for worked, found in zip(alone.run(PROBLEMS), sample.run(PROBLEMS), strict=True):
        (mine,), (other,) = worked.candidates, found.candidates
        assert (worked.problem, mine.tokens, mine.complete) == (found.problem, other.tokens, other.complete)
        # Keys are rounded to int8 turned to their places within a block, not within the whole text.
        assert mine.logprob == pytest.approx(other.logprob, rel=2e-3 if quantized else 1e-5)
        assert dataclasses.replace(worked.cost, seconds=0.0) == dataclasses.replace(found.cost, seconds=0.0)


def test_workers_read_the_others_before_themselves(three: list[Found], params: dict) -> None:
    """Every token is the likeliest one after [prompt | other blocks | own block], by the model without any cache."""
    scores_of = jax.jit(partial(transformer.apply, SHALLOW, params))
    size = counts.kv_cache_bytes_per_token(SHALLOW)
    for worked in three[:4]:
        problem, texts = worked.problem, [c.tokens for c in worked.candidates]
        flops, keys = sum(counts.decode_flops(SHALLOW, i + 1) for i in range(len(problem.prompt))), 0
        for step in range(max(map(len, texts))):
            seen = [t[:step] for t in texts]
            context = len(problem.prompt) + sum(len(t[: step + 1]) for t in texts)
            keys += context
            for worker, text in enumerate(texts):
                if step >= len(text):
                    continue
                flops += counts.decode_flops(SHALLOW, context)
                if step < len(OPENINGS[worker]):
                    assert text[step] == OPENINGS[worker][step]
                    continue
                others = [t for i, t in enumerate(seen) if i != worker] if step else []
                whole = [*problem.prompt, *(token for t in others for token in t), *text[:step]]
                padded = np.pad(whole, (0, 128 - len(whole)))  # one shape; what comes later is not seen
                scores = scores_of(padded[None])[0, len(whole) - 1]
                assert int(np.argmax(scores)) == text[step]
        assert worked.cost.flops == flops and worked.cost.bytes == size * (keys + sum(map(len, texts)))
        assert worked.cost.depth == max(map(len, texts))
        assert worked.cost.generated_tokens == sum(len(t) - min(len(o), len(t)) for o, t in zip(OPENINGS, texts))
        assert [c.complete for c in worked.candidates] == [t[-1] == END for t in texts]


def test_others_do_change_what_a_worker_writes(three: list[Found], params: dict) -> None:
    alone = {f.problem.number: f.candidates[0].tokens for f in workers(params, 1).run(PROBLEMS)}
    assert any(f.candidates[2].tokens != alone[f.problem.number] for f in three)


@pytest.mark.parametrize("unit", ["flops", "bytes"])
def test_a_budget_pays_for_what_workers_read_of_each_other(three: list[Found], params: dict, unit: str) -> None:
    """Three quarters of what the first problem's workers cost beyond its prompt end them before they have written all,
    on the way that they would have gone."""
    whole = three[0]
    prompt = sum(counts.decode_flops(SHALLOW, i + 1) for i in range(len(whole.problem.prompt)))
    before = prompt if unit == "flops" else 0
    amount = 0.75 * (getattr(whole.cost, unit) - before)
    (found,) = workers(params, 3, OPENINGS, budget=Budget(amount, unit)).run(PROBLEMS[:1])
    assert found.out_of_budget and 0.5 * amount < getattr(found.cost, unit) - before <= amount
    assert len(found.candidates[0].tokens) < len(whole.candidates[0].tokens)


def test_what_cannot_be_rotated_is_refused(params: dict) -> None:
    learned = dataclasses.replace(SHALLOW, positions="learned")
    with pytest.raises(ConfigError, match="cannot be rotated"):
        WorkersDecoder(learned, params, PROMPT)
    with pytest.raises(ConfigError, match="openings"):
        hogwild(2, ((1,),))
