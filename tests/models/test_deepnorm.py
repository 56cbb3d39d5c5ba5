"""DeepNorm is the loop of its equation, and embeddings whose gradient shrinks score as before; test_parts.py has the
rest."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import transformer
from models.channels import Experts
from models.config import Layer, ModelConfig
from models.errors import ConfigError
from models.past import WholeSequence
from models.weight import walk
from models.wiring import DeepNorm, PreNorm
from tests.models.test_parts import quick

CONFIG = ModelConfig(vocab_size=32, d_model=16, n_layers=3, n_heads=4, d_ff=32, pattern=(Layer(), Layer(channel=None)),
                     norm="layernorm", wiring=DeepNorm())  # fmt: skip
CLOSE = {"rtol": 2e-5, "atol": 2e-5}  # float32


def test_every_sum_is_normed_and_the_stream_outweighs_what_is_added() -> None:
    config = dataclasses.replace(CONFIG, n_layers=2).resolved()
    tokens = jax.random.randint(jax.random.key(1), (2, 8), 0, 32)
    stream, past, alpha = config.stream, WholeSequence(jnp.arange(8)[None]), 4**0.5

    def normed(x: jax.Array, gain: jax.Array) -> jax.Array:
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + config.norm_eps) * gain

    @quick
    def both() -> tuple[jax.Array, jax.Array]:
        params = transformer.init(config, jax.random.key(0))
        x = params["tokens"][tokens]
        for i, layer in enumerate(config.layers):
            w = params[f"block_{i}"]
            for part in layer.parts:
                y = part.apply(stream, w[part.slot], x, past if part is layer.mixer else tokens)[0]
                x = normed(alpha * x + y, w[f"post_{part.slot}_norm"]["gain"])
        x = normed(x, params["final_norm"]["gain"])
        return x @ params["tokens"].T, transformer.apply(config, params, tokens)

    want, found = both()
    np.testing.assert_allclose(found, want, **CLOSE)


def test_initial_values_are_smaller_where_they_are_added_and_nowhere_else() -> None:
    """With beta: the channel's and the last products' once, and the values' on the mixer's last product too."""
    plain = dict(walk(transformer.weights(dataclasses.replace(CONFIG, wiring=DeepNorm(1.0, 1.0)))))
    small = dict(walk(transformer.weights(dataclasses.replace(CONFIG, wiring=DeepNorm(3.0, 0.5)))))
    factors = {path[1:]: small[path].std / plain[path].std for path in plain if plain[path].role == "matrix"}
    assert factors == pytest.approx({
        ("attention", "qkv"): 1, ("attention", "out"): 0.25, ("feedforward", "gate_up"): 0.5,
        ("feedforward", "down"): 0.5,
    })  # fmt: skip
    assert plain["block_0", "attention", "out"].std == pytest.approx(16**-0.5)
    before = dict(walk(transformer.weights(dataclasses.replace(CONFIG, wiring=PreNorm()))))
    assert sum(w.size for w in small.values()) == sum(w.size for w in before.values())


@pytest.mark.parametrize("tied", [True, False])
def test_only_the_gradient_of_the_token_table_shrinks_and_no_score_moves(tied: bool) -> None:
    config = dataclasses.replace(CONFIG, n_layers=1, pattern=(Layer(channel=None),), tied_embeddings=tied)
    shrunk = dataclasses.replace(config, embedding_gradient=0.25)
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, 32)

    @quick
    def both() -> tuple:
        params = transformer.init(config, jax.random.key(0))
        return tuple(jax.value_and_grad(lambda p, c=c: transformer.loss(c, p, tokens)[0])(params)
                     for c in (config, shrunk))  # fmt: skip

    (loss, want), (same, found) = both()
    assert loss == same
    want["tokens"] = 0.25 * want["tokens"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), found, want)


def test_what_cannot_be_is_said_in_one_line() -> None:
    for make, told in (
        (lambda: DeepNorm(alpha=0.0), "alpha: is 0.0: give a positive number or None"),
        (lambda: dataclasses.replace(CONFIG, embedding_gradient=0.0),
         "model.embedding_gradient: is 0.0: give a share in (0, 1]"),
        (lambda: dataclasses.replace(CONFIG, pattern=(Layer(channel=Experts(4)),)),
         "model.wiring.beta: does not say how Experts begins: use Dense, or another wiring"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            make()
        assert str(error.value) == told
