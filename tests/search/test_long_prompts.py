"""Prompts that are read and attended to tile by tile: what reading them at once gives, whoever they stand beside."""

from __future__ import annotations

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
from search.decoder import Context, Outputs, TransformerDecoder

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
