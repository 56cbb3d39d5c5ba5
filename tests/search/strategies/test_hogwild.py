"""Workers on one cache: alone a worker is a plain sample; together each sees the others' blocks before its own."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from models import counts, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.engine.sampling import Sampling
from search.searcher import Searcher, SearchProblem
from search.strategies.best_of_n import best_of_n
from search.strategies.hogwild import Hogwild

VOCAB, END, LONG, PROMPT = 16, 5, 10, 8
MODEL = ModelConfig(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_seq_len=64)
# With one layer keys depend on their tokens alone, so that one text in the right order is an exact oracle.
SHALLOW = dataclasses.replace(MODEL, n_layers=1)
PROBLEMS = [SearchProblem(i, tuple(np.random.default_rng(i).integers(0, VOCAB, 3 + i % 5).tolist())) for i in range(6)]


@pytest.fixture(scope="module")
def three() -> tuple[Hogwild, dict]:
    params = transformer.init(SHALLOW, jax.random.key(1))
    greedy = Sampling(temperature=0)
    return Hogwild(SHALLOW, params, PROMPT, LONG, 3, ends=(END,), openings=((1,), (2, 3), ()), settings=greedy), params


def test_one_worker_is_one_sample_of_the_search() -> None:
    params = transformer.init(MODEL, jax.random.key(0))
    config = SearchConfig(problems=2, prompt_len=PROMPT, max_tokens=LONG, max_rounds=3, ends=(END,), seed=3)
    search = Searcher(TransformerDecoder(MODEL, params, PROMPT), best_of_n(1, scored=False), config)
    alone = Hogwild(MODEL, params, PROMPT, LONG, 1, ends=(END,), seed=3)
    for f in search.run(PROBLEMS):
        worked = alone.run(f.problem)
        assert worked.texts[0] == f.candidates[0].tokens
        assert worked.complete[0] == f.candidates[0].complete
        assert dataclasses.replace(worked.cost, seconds=0.0) == dataclasses.replace(f.cost, seconds=0.0)


def test_workers_read_the_others_before_themselves(three: tuple[Hogwild, dict]) -> None:
    """Every token is the likeliest one after [prompt | other blocks | own block], by the model without any cache."""
    hogwild, params = three
    openings = ((1,), (2, 3), ())
    scores_of = jax.jit(partial(transformer.apply, SHALLOW, params))
    for problem in PROBLEMS[:4]:
        worked = hogwild.run(problem)
        flops = sum(counts.decode_flops(SHALLOW, i + 1) for i in range(len(problem.prompt)))
        for step in range(max(len(t) for t in worked.texts)):
            seen = [t[:step] for t in worked.texts]
            now = [t[: step + 1] for t in worked.texts]
            for worker, text in enumerate(worked.texts):
                if step >= len(text):
                    continue
                flops += counts.decode_flops(SHALLOW, len(problem.prompt) + sum(map(len, now)))
                if step < len(openings[worker]):
                    assert text[step] == openings[worker][step]
                    continue
                others = [t for i, t in enumerate(seen) if i != worker] if step else []
                whole = [*problem.prompt, *(token for t in others for token in t), *text[:step]]
                padded = np.pad(whole, (0, 128 - len(whole)))  # one shape; what comes later is not seen
                scores = scores_of(padded[None])[0, len(whole) - 1]
                assert int(np.argmax(scores)) == text[step]
        assert worked.cost.flops == flops
        assert worked.cost.depth == max(len(t) for t in worked.texts)
        drawn = sum(len(t) for t in worked.texts) - sum(min(len(o), len(t)) for o, t in zip(openings, worked.texts))
        assert worked.cost.generated_tokens == drawn
        assert worked.complete == tuple(t[-1] == END for t in worked.texts)


def test_others_do_change_what_a_worker_writes(three: tuple[Hogwild, dict]) -> None:
    hogwild, params = three
    alone = Hogwild(SHALLOW, params, PROMPT, LONG, 1, ends=(END,), settings=Sampling(temperature=0))
    assert any(hogwild.run(p).texts[2] != alone.run(p).texts[0] for p in PROBLEMS)


def test_what_cannot_be_rotated_is_refused() -> None:
    params = transformer.init(SHALLOW, jax.random.key(1))
    learned = dataclasses.replace(SHALLOW, positions="learned")
    with pytest.raises(ConfigError, match="cannot be rotated"):
        Hogwild(learned, params, PROMPT, LONG, 2)
    with pytest.raises(ConfigError, match="openings"):
        Hogwild(SHALLOW, params, PROMPT, LONG, 2, openings=((1,),))
