"""Ladder residual: every part reads all results but the last one, and in compiled programs no product waits for it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.collectives import KINDS, parse
from models import transformer
from models.config import Layer, ModelConfig
from models.mixers import Attention
from models.past import WholeSequence
from models.sharding import DEFAULT_RULES, MeshConfig, make_mesh, weight_shardings
from models.wiring import Ladder, PreNorm, Wiring
from tests.models.test_parts import quick

CONFIG = ModelConfig(
    vocab_size=32, d_model=16, n_layers=3, n_heads=4, d_ff=32, tied_embeddings=False,
    pattern=(Layer(Attention(window=5)), Layer(channel=None), Layer()), wiring=Ladder(),
).resolved()  # fmt: skip
ROWS, SEQ = 2, 8
CALLED = re.compile(r"\bcalls=%?([\w.\-]+)")


def test_the_ladder_is_the_loop_over_results_that_come_one_part_late() -> None:
    tokens = jax.random.randint(jax.random.key(1), (ROWS, SEQ), 0, 32)
    stream, past = CONFIG.stream, WholeSequence(jnp.arange(SEQ)[None])

    def normed(x: jax.Array) -> jax.Array:
        return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + CONFIG.norm_eps)

    @quick
    def both() -> tuple[jax.Array, jax.Array]:
        params = transformer.init(CONFIG, jax.random.key(0))
        embedded = params["tokens"][tokens]
        results: list[jax.Array] = []
        for i, layer in enumerate(CONFIG.layers):
            w = params[f"block_{i}"]
            for part in layer.parts:
                read = normed(embedded + sum(results[:-1])) * w[f"{part.slot}_norm"]["gain"]
                extra = (past,) if part is layer.mixer else ()
                results.append(part.apply(stream, w[part.slot], read, *extra)[0])
        assert len(results) == 5
        return normed(embedded + sum(results)) @ params["head"], transformer.apply(CONFIG, params, tokens)

    want, found = both()
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-5)


# -- what waits for what ------------------------------------------------------------------------------------------


@functools.cache
def program(wiring: Wiring) -> str:
    """The compiled forward pass of four plain layers over two devices along `tensor`."""
    config = dataclasses.replace(CONFIG, n_layers=4, pattern=(Layer(),), wiring=wiring)
    mesh = make_mesh(MeshConfig(tensor=2), jax.devices()[:2])
    shapes = jax.eval_shape(functools.partial(transformer.init, config), jax.random.key(0))
    placed = weight_shardings(transformer.weights(config), DEFAULT_RULES, mesh)
    params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed)
    with jax.set_mesh(mesh):
        run = jax.jit(lambda params, tokens: transformer.forward(config, params, tokens).hidden)
        return run.lower(params, jax.ShapeDtypeStruct((ROWS, SEQ), jnp.int32)).compile().as_text()


def scope(text: str) -> tuple[int, str] | None:
    """(layer, part) that an instruction comes from."""
    names = text.partition('op_name="')[2].partition('"')[0].split("/")
    layer = next((name for name in names if name.startswith("block_")), None)
    part = next((name for name in names if name in ("attention", "feedforward")), None)
    return (int(layer.removeprefix("block_")), part) if layer and part else None


def waits(text: str) -> dict[tuple[int, str], set[tuple[int, str]]]:
    """Of every part the parts whose sums over devices its products wait for, read from an HLO module's text.

    A part's sum is the all-reduce or reduce-scatter that XLA makes of its last product.
    """
    computations, entry = parse(text)
    every = computations[entry].instructions
    sums: dict[str, set[tuple[int, str]]] = {}  # instruction -> the sums before it, in the order of the program
    found: dict[tuple[int, str], set[tuple[int, str]]] = {}

    def products(name: str) -> bool:  # a fusion counts as what it calls
        called = (computations[c].instructions.values() for c in CALLED.findall(every[name].text))
        return any(i.opcode in ("dot", "convolution") for i in itertools.chain([every[name]], *called))

    for name, instruction in every.items():
        before = set().union(*(sums.get(operand, set()) for operand in instruction.operands))
        where = scope(instruction.text)
        if where and products(name):
            found[where] = found.get(where, set()) | before
        if where and instruction.opcode.removesuffix("-start") in ("all-reduce", "reduce-scatter"):
            before = before | {where}
        sums[name] = before
    assert any(i.opcode.removesuffix("-start") in KINDS for i in every.values())
    return found


@pytest.mark.parametrize("wiring", [PreNorm(), Ladder()], ids=["prenorm", "ladder"])
def test_products_of_a_ladder_do_not_wait_for_the_sum_of_the_part_before(wiring: Any) -> None:
    found = waits(program(wiring))
    parts = [(layer, part) for layer in range(4) for part in ("attention", "feedforward")]
    assert set(found) == set(parts)
    for k, part in enumerate(parts):
        known = k if isinstance(wiring, PreNorm) else max(0, k - 1)
        assert found[part] == set(parts[:known]), part
