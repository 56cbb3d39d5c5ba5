"""Searches over models that carry a state: forks, looks ahead and going back, against a decoder that keeps nothing."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.layer import Layer
from models.mixers.attention import Attention
from models.mixers.mamba2 import Mamba2
from models.weight import map_weights
from search.config import SearchConfig
from search.decoder import Outputs, Price, TransformerDecoder
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.catalogue import strategy_by_name
from search.verifiers.scorer import LikelihoodScorer

VOCAB, PROMPT, MOST, END = 18, 7, 8, 5
MIXER = Mamba2(head_dim=4, state=6, groups=2, block=3)  # so that a prompt is read in several blocks
MODEL = ModelConfig(
    vocab_size=VOCAB, d_model=8, n_heads=2, n_layers=2, d_ff=16, pattern=(Layer(MIXER), Layer(Attention()))
)
CONFIG = SearchConfig(
    problems=2, prompt_len=PROMPT, max_tokens=MOST, max_steps=4, max_rounds=4, tokens_per_step=3, ends=(END,), seed=2
)
PROBLEMS = [SearchProblem(i, tuple(range(3 * i, 3 * i + n))) for i, n in enumerate((2, 7, 5))]


class Read(NamedTuple):
    """Texts so far: prompts `[problems, PROMPT]`, their length, and what follows them."""

    tokens: jax.Array
    length: jax.Array
    outputs: Outputs


class Rereader:
    """The same model, which reads every text from its first token whenever it is asked."""

    vocab_size = VOCAB

    def __init__(self, params: Any):
        self.params = params

    def contexts(self, problems: int) -> Read:
        zeros = jnp.zeros(problems)
        outputs = Outputs(jnp.zeros((problems, VOCAB)), zeros, zeros > 0)
        return Read(jnp.zeros((problems, PROMPT), jnp.int32), jnp.zeros(problems, jnp.int32), outputs)

    def encode(self, prompt: tuple[int, ...]) -> tuple[np.ndarray, np.int32]:
        return np.array([*prompt, *[0] * (PROMPT - len(prompt))], np.int32), np.int32(len(prompt))

    def admit(self, params: Any, contexts: Read, slot: jax.Array, prompt: Any) -> Read:
        after = self._after(params, *prompt, jnp.zeros(MOST, jnp.int32), 0)
        outputs = jax.tree.map(lambda all, one: all.at[slot].set(one), contexts.outputs, after)
        return Read(contexts.tokens.at[slot].set(prompt[0]), contexts.length.at[slot].set(prompt[1]), outputs)

    def start(self, contexts: Read) -> Outputs:
        return contexts.outputs

    def caches(self, problems: int, particles: int, length: int) -> jax.Array:
        return jnp.zeros((problems, particles, length), jnp.int32)

    def position_axes(self, caches: jax.Array) -> int:
        return 2

    def step(
        self, params: Any, contexts: Read, caches: jax.Array, tokens: jax.Array, length: jax.Array
    ) -> tuple[Outputs, jax.Array]:
        here = (jnp.arange(MOST) == length[..., None]) & (tokens >= 0)[..., None]
        caches = jnp.where(here, tokens[..., None], caches)
        each = jax.vmap(partial(self._after, params), in_axes=(None, None, 0, 0))
        return jax.vmap(each)(contexts.tokens, contexts.length, caches, length + 1), caches

    def price(self, unit: str) -> Any:
        return Price(1.0, 1.0)

    def _after(self, params: Any, prompt: Any, filled: Any, own: Any, written: Any) -> Outputs:
        place = jnp.arange(PROMPT + MOST)
        text = jnp.where(place < filled, jnp.pad(prompt, (0, MOST)), own[jnp.clip(place - filled, 0, MOST - 1)])
        logits = transformer.apply(MODEL, params, text[None])[0]
        return Outputs(logits[filled + written - 1], jnp.float32(0.5), jnp.asarray(False))


@pytest.fixture(scope="module")
def params() -> Any:
    rng = np.random.default_rng(3)
    return map_weights(lambda w: np.float32(0.4 * rng.standard_normal(w.shape)), transformer.weights(MODEL))


def searched(decoder: Any, text: str) -> list[Found]:
    search = Searcher(decoder, strategy_by_name(text), CONFIG, LikelihoodScorer())
    return sorted(search.run(PROBLEMS), key=lambda f: f.problem.number)


@pytest.mark.slow  # compiles two searches
@pytest.mark.parametrize(
    "text", ["beam:samples=4,width=2,lookahead=2", "mcts:simulations=3,actions=2", "metropolis:chains=2,steps=3"]
)
def test_particles_that_fork_look_ahead_and_go_back_write_what_reading_everything_again_gives(
    text: str, params: Any
) -> None:
    """Beam: clones take states with them. MCTS: states are kept and taken again. Metropolis: cuts anywhere."""
    for found, want in zip(
        searched(TransformerDecoder(MODEL, params, PROMPT), text), searched(Rereader(params), text), strict=True
    ):
        assert [c.tokens for c in found.candidates] == [c.tokens for c in want.candidates]
        for name in ("logprob", "score", "weight"):
            values = ([getattr(c, name) for c in f.candidates] for f in (found, want))
            np.testing.assert_allclose(*values, rtol=2e-5)
        assert found.best == want.best and found.rounds == want.rounds
