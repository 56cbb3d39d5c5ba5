"""Prompts that are read and attended to tile by tile: what reading them at once gives, whoever they stand beside, and
tiles that they begin with are read once."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.layer import Layer
from models.mixers.attention import Attention
from models.mixers.mamba2 import Mamba2
from search import decoder
from search.config import SearchConfig
from search.decoder import Context, Outputs, TransformerDecoder
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.beam import beam
from search.verifiers.scorer import LikelihoodScorer

VOCAB, ROOM, PARTICLES, NEW = 18, 10, 2, 3
PATTERN = Layer(Mamba2(head_dim=4, state=6, groups=2, block=3)), Layer(Attention()), Layer(Attention(window=5))
MODEL = ModelConfig(vocab_size=VOCAB, d_model=8, n_heads=2, n_layers=3, d_ff=16, pattern=PATTERN)
PARAMS = transformer.init(MODEL, jax.random.key(0))
TEXT = np.random.default_rng(0).integers(0, VOCAB, ROOM)


class Read:
    """A decoder that reads prompts of these lengths in tiles of `size` tokens, and a few tokens after them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size: int):
        monkeypatch.setattr(decoder, "TILE", size)
        self.decoder = TransformerDecoder(MODEL, PARAMS, ROOM)
        self.admit, self.step = jax.jit(self.decoder.admit), jax.jit(self.decoder.step)

    def __call__(self, *lengths: int) -> tuple[Context, list[Outputs]]:
        d, shape = self.decoder, (len(lengths), PARTICLES)
        contexts, caches = d.contexts(len(lengths)), d.caches(*shape, NEW)
        for slot, n in enumerate(lengths):
            contexts = self.admit(d.params, contexts, slot, d.encode([int(t) for t in TEXT[:n]]))
        found = [d.start(contexts)]
        for i in range(NEW):
            tokens = jnp.broadcast_to(jnp.arange(PARTICLES, dtype=jnp.int32) + 3 * i, shape)
            outputs, caches = self.step(d.params, contexts, caches, tokens, jnp.full(shape, i))
            found.append(outputs)
        return contexts, found


def of(problem: int, whole: tuple[Context, list[Outputs]]) -> list[Any]:
    """What one problem's prompt left, as far as it goes, and every output after it."""
    contexts, outputs = whole
    n = int(contexts.length[problem])
    layers = [x[problem][:, :n] for x in jax.tree.leaves(contexts.layers)]
    return [*layers, *(x[problem] for x in jax.tree.leaves((contexts.states, outputs)))]


@pytest.mark.parametrize("size", [4, 5])  # of which the last tile is cut, and is not
def test_tiles_give_what_the_whole_prompt_does_and_no_neighbour_changes_a_bit(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Read(monkeypatch, ROOM)(2, 10)
    read = Read(monkeypatch, size)
    found, swapped = read(2, 10), read(7, 2)
    for problem in (0, 1):
        for x, y in zip(of(problem, found), of(problem, whole), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)  # float32 sums in another order
    for x, y in zip(of(0, found), of(1, swapped), strict=True):
        np.testing.assert_array_equal(x, y)


def test_tiles_that_two_prompts_begin_with_are_read_once_and_no_bit_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Read(monkeypatch, 4)
    alone = {a: of(0, read(a, b)) for a, b in ((10, 9), (9, 10), (5, 9), (4, 10))}  # nothing lies there yet
    for before, n, tiles in ((10, 9, 1), (9, 10, 1), (10, 10, 1), (10, 5, 1), (5, 10, 2), (10, 4, 1), (4, 10, 2)):
        whole = read(before, n)
        assert whole[0].read.tolist() == [-(-before // 4), tiles]  # of 4 tokens; that of the last is always read
        for x, y in zip(of(1, whole), alone[n], strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.slow  # compiles a search
def test_searches_whose_prompts_begin_alike_read_that_once_and_give_what_each_gives_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoder, "TILE", 4)
    model = dataclasses.replace(MODEL, n_layers=2, pattern=PATTERN[:2])
    policy = TransformerDecoder(model, transformer.init(model, jax.random.key(1)), 14)
    config = SearchConfig(problems=3, prompt_len=14, max_tokens=6, max_steps=3, max_rounds=4, tokens_per_step=2)
    search = Searcher(policy, beam(4, 2), config, LikelihoodScorer())
    header = tuple(int(t) for t in TEXT)
    prompts = [(*header, 1, 2, 3), header, (*header, 4), (*header[:5], 1, 2, 3, 4), (3, 1), (*header, 1, 2, 3, 4)]
    problems = [SearchProblem(i, prompt) for i, prompt in enumerate(prompts)]

    def essence(found: Found) -> tuple[Any, ...]:
        return found.candidates, found.best, found.rounds, dataclasses.replace(found.cost, seconds=0)

    empty = jax.jit(search.rounds.empty)

    def alone(problem: SearchProblem) -> Found:
        search._state = empty()
        (found,) = search.run([problem])
        assert search._state.contexts.read[0] == -(-len(problem.prompt) // 4)
        return found

    wanted = [essence(alone(problem)) for problem in problems]
    search._state = empty()
    found, read = {}, []
    for problem in search.run(iter(problems)):
        found[problem.problem.number] = essence(problem)
        read.append(search._state.contexts.read.tolist())
    assert [found[i] for i in range(len(problems))] == wanted
    assert read[0] == [4, 1, 1]  # of 4, 3 and 3 tiles: the header has two full ones
    assert search.compilations == 3  # one program reads the prompts of as many searches as there are
    search.params = (jax.tree.map(jnp.copy, policy.params), search.params[1])
    list(search.run(problems[:1]))
    assert search._state.contexts.read[0] == 4  # nothing is left of what other weights have read
