"""The steps of a search: extend, fork, drop, score, append, each as if every particle had always run alone."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling
from search.engine.scoring import score_prompt
from search.particles import Particles, extend
from tests.search.oracle import Oracle

VOCAB, MAX_LEN, END = 17, 48, 16
MODEL = ModelConfig(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_seq_len=MAX_LEN)
CONFIG = EngineConfig(
    slots=4, max_len=MAX_LEN, page_size=8, pages=30, prefill_chunk=16, stage_tokens=6, share="always", share_rows=3,
    ends=(END,), stop_sequences=2, stop_length=3,
)  # fmt: skip
PROMPT = tuple(int(t) for t in np.random.default_rng(0).integers(0, VOCAB - 1, 13))
NO_END = Sampling(logit_bias=((END, -float("inf")),))


@pytest.fixture(scope="module")
def params() -> dict:
    return transformer.init(MODEL, jax.random.key(0))


@pytest.fixture(scope="module")
def oracle(params: dict) -> Oracle:
    return Oracle(MODEL, params, MAX_LEN, [NO_END, Sampling(temperature=0)])


@pytest.fixture(params=["always", "never"])
def engine(params: dict, request: pytest.FixtureRequest) -> Engine:
    engine = Engine(MODEL, params, dataclasses.replace(CONFIG, share=request.param))
    engine.slots.admit(NO_END)
    engine.slots.admit(Sampling(temperature=0))
    return engine


def request(samples: int, most: int = 20, problem: int = 2, sampling: Sampling = NO_END) -> Request:
    return Request(problem, PROMPT, samples, most, sampling)


def everything(engine: Engine, r: Request) -> dict[int, tuple]:
    return {c.sample: (c.tokens, c.logprobs) for c in engine.generate([r])}


def free(engine: Engine) -> bool:
    return not engine.slots.taken and engine.pool.available == CONFIG.page_count


@pytest.mark.slow
def test_steps_one_after_the_other_are_the_sample_in_one_go(engine: Engine) -> None:
    whole = everything(engine, request(6))
    particles = Particles(engine, request(6))  # more particles than slots: they take turns
    for cap in (1, 5, 9, 50):
        steps = particles.extend(cap=cap)
        assert set(steps) == set(range(6))
        assert {step.reason for step in steps.values()} == {"cap" if cap < 50 else "length"}
    assert {i: (particles[i].tokens, particles[i].logprobs) for i in range(6)} == whole
    assert particles.alive == [] and particles.extend(cap=3) == {}
    particles.close()
    assert free(engine)


def test_an_extension_ends_at_a_delimiter_the_cap_or_the_end(engine: Engine) -> None:
    sampling = Sampling(logit_bias=((END, 1.0),))
    engine.slots.admit(sampling)
    whole = everything(engine, dataclasses.replace(request(8, 12), sampling=sampling))
    particles = Particles(engine, dataclasses.replace(request(8, 12), sampling=sampling))
    delimiters = [(3,), (7, 1)]
    reasons = set()
    for _ in range(12):
        before = [len(particles[i].tokens) for i in range(8)]
        for i, step in particles.extend(delimiters, cap=4).items():
            reasons.add(step.reason)
            tokens, end = step.tokens, before[i] + len(step.tokens)
            assert 1 <= len(tokens) <= 4 and END not in tokens[:-1] and 3 not in tokens[:-1]
            assert tokens == whole[i][0][before[i] : end]
            marked = tokens[-1] == 3 or particles[i].tokens[-2:] == (7, 1)
            if tokens[-1] == END:
                expected = "eos"
            elif end == 12:
                expected = "length"
            else:
                expected = "delimiter" if marked else "cap"
            assert step.reason == expected
    assert reasons == {"eos", "length", "delimiter", "cap"}
    assert {i: particles[i].tokens for i in range(8)} == {i: tokens for i, (tokens, _) in whole.items()}


def test_a_fork_keeps_the_past_and_draws_a_future_of_its_own(engine: Engine, oracle: Oracle) -> None:
    particles = Particles(engine, request(3))
    particles.extend(cap=11)
    past = [particles[i] for i in range(3)]
    particles.fork([1, 1, 2, 1])
    assert [particles[i].tokens for i in range(4)] == [past[i].tokens for i in (1, 1, 2, 1)]
    assert [particles[i].lineage for i in range(4)] == [1, 3, 2, 4]
    particles.extend(cap=6)
    assert len({particles[i].tokens for i in (0, 1, 3)}) == 3
    for i in range(4):
        lineage, tokens = particles[i].lineage, particles[i].tokens
        new = oracle.choices(request(3), lineage, tokens)
        assert tokens[11:] == tuple(new.token[11:]) or new.gap.min() < 1e-4
        np.testing.assert_allclose(particles[i].logprobs[11:], new.logprob[11:], atol=2e-5)
    assert engine.ledger[2].discarded_tokens == 11 and engine.ledger[2].generated_tokens == 3 * 11 + 4 * 6
    particles.drop([0, 1, 3])
    assert engine.ledger[2].discarded_tokens == 11 + 11 + 3 * 6  # the past that the three shared counts once
    assert engine.ledger[2].kept_tokens == 17 == len(particles[0].tokens)
    assert engine.ledger[2].depth == 17
    particles.close()
    assert free(engine)


def test_a_fork_copies_entries_of_page_tables_and_no_pages(engine: Engine) -> None:
    particles = Particles(engine, request(1))
    particles.extend(cap=18)
    before, moved = engine.pool.available, engine.ledger[2].bytes
    particles.fork([0] * 5)
    assert (engine.pool.available, engine.ledger[2].bytes) == (before, moved)
    particles.extend(cap=2)  # to 20 tokens of its own, or 32 with its prompt: one new page each, or two full ones
    pages = [sample.pages for sample in particles._samples]
    whole = 2 if engine.config.share == "always" else 3
    assert all(p[:whole] == pages[0][:whole] for p in pages) and len({p[whole] for p in pages}) == 5
    particles.close()
    assert free(engine)


def test_scores_are_the_models_and_leave_the_particles_as_they_were(engine: Engine, oracle: Oracle) -> None:
    whole = everything(engine, request(3))
    particles = Particles(engine, request(3))
    rng = np.random.default_rng(1)
    for grown in (0, 5, 8, 3):
        if grown:
            particles.extend(cap=grown)
        pairs = [(i, tuple(int(t) for t in rng.integers(0, VOCAB, n))) for i, n in ((0, 3), (2, 19), (0, 1), (1, 4))]
        pairs = [(i, tokens[: MAX_LEN - len(PROMPT) - len(particles[i].tokens)]) for i, tokens in pairs]
        for (i, tokens), logprobs in zip(pairs, particles.score(pairs), strict=True):
            before = particles[i].tokens
            expected = oracle.scores(request(3), (*before, *tokens))[len(before) :]
            np.testing.assert_allclose(logprobs, expected, atol=2e-5)
    particles.extend()
    assert {i: (particles[i].tokens, particles[i].logprobs) for i in range(3)} == whole
    assert engine.ledger[2].verifier_tokens == 4 * 27
    particles.close()
    assert free(engine)


def test_appended_tokens_are_read_and_the_particle_goes_on_after_them(engine: Engine, oracle: Oracle) -> None:
    particles = Particles(engine, request(2))
    particles.extend(cap=4)
    before = particles[0].tokens
    logprobs = particles.append([(0, (3, 1, 4, 1, 5))])
    assert particles[0].tokens == (*before, 3, 1, 4, 1, 5) and particles[0].logprobs[4:] == logprobs[0]
    particles.extend(cap=6)
    found = oracle.choices(request(2), 0, particles[0].tokens)
    assert tuple(found.token[9:]) == particles[0].tokens[9:] or found.gap.min() < 1e-4
    np.testing.assert_allclose(particles[0].logprobs, oracle.scores(request(2), particles[0].tokens), atol=2e-5)
    cost = engine.ledger[2]
    assert cost.prompt_tokens == len(PROMPT) - 1 + 5 and cost.generated_tokens == 2 * 4 + 2 * 6


@pytest.mark.slow
def test_problems_are_extended_side_by_side_and_swap_when_pages_run_out(params: dict) -> None:
    small = Engine(MODEL, params, dataclasses.replace(CONFIG, pages=9))
    large = Engine(MODEL, params, CONFIG)
    found = []
    for engine in (small, large):
        engine.slots.admit(NO_END)
        populations = [Particles(engine, request(3, 20, problem)) for problem in range(4)]
        for _ in range(3):
            extend(populations, cap=6)
            for particles in populations:
                particles.fork([2, 0, 0])
        found.append([[p[i].tokens for i in range(3)] for p in populations])
    assert found[0] == found[1]
    assert small.pool.swapped_in > large.pool.swapped_in


@pytest.mark.slow
@pytest.mark.parametrize("share", ["always", "never"])
def test_with_the_fewest_pages_nothing_starves(params: dict, share: str) -> None:
    """Prompts that together leave no room for what their samples wrote, in every step that needs pages."""
    few = -(-MAX_LEN // CONFIG.page_size) + 2
    rng = np.random.default_rng(3)
    prompts = [tuple(int(t) for t in rng.integers(0, VOCAB - 1, n)) for n in (25, 26, 2, MAX_LEN - 3)]
    found = []
    for pages in (few, 60):
        engine = Engine(MODEL, params, dataclasses.replace(CONFIG, pages=pages, share=share, quantum=2))
        engine.slots.admit(NO_END)
        advance, rounds = engine.advance, itertools.count()

        def limited(advance=advance, rounds=rounds) -> None:
            assert next(rounds) < 300, "nothing moves any more"
            advance()

        engine.advance = limited
        populations = [Particles(engine, Request(p, prompt, 3, 46, NO_END)) for p, prompt in enumerate(prompts)]
        scores = []
        for cap in (7, 9, 4, 30):
            extend(populations, cap=cap)
            for p in populations:
                p.fork([2, 0, 0])
                scores += p.score([(i, (1, 2, 3)) for i in p.alive if len(p[i].tokens) + len(p.request.prompt) < 45])
        found.append(([[p[i].tokens for i in range(3)] for p in populations], scores))
        for p in populations:
            p.close()
        whole = [Request(9 + p, prompt, 5, 46, NO_END) for p, prompt in enumerate(prompts)]
        found[-1][0].append(sorted((c.problem, c.sample, c.tokens) for c in engine.generate(whole)))
        assert not engine.slots.taken and engine.pool.available == pages
    assert found[0] == found[1]


def test_bad_steps_are_refused(engine: Engine) -> None:
    particles = Particles(engine, request(2))
    with pytest.raises(ConfigError, match=r"ancestors: 2 is no particle: use 0 to 1"):
        particles.fork([0, 2])
    with pytest.raises(ConfigError, match=r"cap: is 0"):
        particles.extend(cap=0)
    with pytest.raises(ConfigError, match=r"continuation: holds unknown tokens \[99\]"):
        particles.score([(0, (99,))])
    with pytest.raises(ConfigError, match=r"continuation: 40 tokens do not fit: give at most 35"):
        particles.score([(0, (1,) * 40)])


def test_a_prompt_is_scored_token_by_token_between_samples_of_others(engine: Engine, params: dict) -> None:
    logits = transformer.apply(MODEL, params, np.asarray([PROMPT]))[0]
    own = np.take_along_axis(jax.nn.log_softmax(logits[:-1]), np.asarray(PROMPT[1:])[:, None], -1)[:, 0]
    beside, found = everything(engine, request(6)), {}
    for c in engine.generate([request(6)]):
        found[c.sample] = c.tokens, c.logprobs
        first, *rest = score_prompt(engine, 9, PROMPT)
        assert first is None and rest == pytest.approx(own.tolist(), abs=1e-5)
    assert found == beside and score_prompt(engine, 9, PROMPT[:1]) == (None,)
    assert free(engine)
