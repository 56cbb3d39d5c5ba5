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

from launch.collectives import Instruction, parse
from models import transformer
from models.config import Layer, ModelConfig
from models.mixers import Attention
from models.past import WholeSequence
from models.pipeline import Schedule, pipelined_loss
from models.sharding import DEFAULT_RULES, MeshConfig, make_mesh, weight_shardings
from models.wiring import Ladder, PreNorm, Wiring
from tests.models.test_parts import quick
from tests.models.test_parts_tpu import compiled, mesh_of, needs_libtpu, placed

CONFIG = ModelConfig(
    vocab_size=32, d_model=16, n_layers=3, n_heads=4, d_ff=32, tied_embeddings=False,
    pattern=(Layer(Attention(window=5)), Layer(channel=None), Layer()), wiring=Ladder(),
).resolved()  # fmt: skip
ROWS, SEQ = 2, 8
CALLED, INDEX = re.compile(r"\bcalls=%?([\w.\-]+)"), re.compile(r"\bindex=(\d+)")


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
                extra = past if part is layer.mixer else tokens
                results.append(part.apply(stream, w[part.slot], read, extra)[0])
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
    tokens = jax.ShapeDtypeStruct((ROWS, SEQ), jnp.int32)
    with jax.set_mesh(mesh):
        return jax.jit(forward(config)).lower(placed(config, mesh), tokens).compile().as_text()


def forward(config: ModelConfig) -> Any:
    return lambda params, tokens: transformer.forward(config, params, tokens).hidden


def scope(text: str) -> tuple[int, str] | None:
    """(layer, part) that an instruction comes from."""
    names = text.partition('op_name="')[2].partition('"')[0].split("/")
    layer = next((name for name in names if name.startswith("block_")), None)
    part = next((name for name in names if name in ("attention", "feedforward")), None)
    return (int(layer.removeprefix("block_")), part) if layer and part else None


def waits(text: str) -> dict[tuple[int, str], set[tuple[int, str]]]:
    """Of every part the parts whose sums over devices its products read, in an HLO module's text.

    A part's sum is the all-reduce that XLA makes of its last product; two that are ready together may be one operation
    of two results.
    """
    computations, entry = parse(text)
    every = computations[entry].instructions
    read: dict[str, set[tuple[int, str]]] = {}  # instruction -> the sums in it, in the order of the program
    found: dict[tuple[int, str], set[tuple[int, str]]] = {}

    def product(instruction: Instruction) -> bool:  # a fusion is what it calls
        called = (computations[c].instructions.values() for c in CALLED.findall(instruction.text))
        return any(i.opcode in ("dot", "convolution") for i in itertools.chain([instruction], *called))

    def of(name: str) -> set[tuple[int, str]]:
        own = scope(every[name].text)
        return read.get(name, set()) | ({own} if own else set())

    for name, instruction in every.items():
        operands, where = instruction.operands, scope(instruction.text)
        if instruction.opcode == "get-tuple-element" and every[operands[0]].opcode == "all-reduce":
            read[name] = of(every[operands[0]].operands[int(INDEX.findall(instruction.text)[0])])
        elif instruction.opcode == "all-reduce":
            read[name] = set().union(*map(of, operands))
        else:
            read[name] = set().union(*(read.get(operand, set()) for operand in operands))
        if where and product(instruction):
            found[where] = found.get(where, set()) | read[name]
    return found


@pytest.mark.parametrize("wiring", [PreNorm(), Ladder()], ids=["prenorm", "ladder"])
def test_products_of_a_ladder_do_not_wait_for_the_sum_of_the_part_before(wiring: Any) -> None:
    found = waits(program(wiring))
    parts = [(layer, part) for layer in range(4) for part in ("attention", "feedforward")]
    assert set(found) == set(parts)
    for k, part in enumerate(parts):
        known = k if isinstance(wiring, PreNorm) else max(0, k - 1)
        assert found[part] == set(parts[:known]), part


@needs_libtpu
@pytest.mark.slow  # two programs of the TPU compiler
def test_a_tpu_multiplies_while_the_sums_of_a_ladder_are_under_way() -> None:
    """Sums and gathers that are under way (start ... done) while the program multiplies: none without the ladder."""
    config = dataclasses.replace(CONFIG, d_model=1024, n_layers=4, n_heads=16, head_dim=64, n_kv_heads=16, d_ff=4096,
                                 pattern=(Layer(),), dtype="bfloat16")  # fmt: skip
    four = mesh_of(tensor=4)
    everywhere = jax.sharding.NamedSharding(four, jax.sharding.PartitionSpec())
    tokens = jax.ShapeDtypeStruct((8, 1024), jnp.int32, sharding=everywhere)

    def hidden(wiring: Wiring) -> int:
        wired = dataclasses.replace(config, wiring=wiring)
        computations, entry = parse(compiled(forward(wired), four, placed(wired, four), tokens).as_text())
        under_way = found = 0
        for name, instruction in computations[entry].instructions.items():  # in the order in which they run
            under_way += name.startswith("async-collective-start") - name.startswith("async-collective-done")
            found += under_way > 0 and instruction.opcode == "fusion" and "dot_general" in instruction.text
        return found

    assert hidden(PreNorm()) == 0
    assert hidden(Ladder()) >= 3


@pytest.mark.slow  # two programs, one of them over two devices
def test_stages_that_begin_backward_early_hand_on_both_arrays() -> None:
    """1F1B keeps inputs and returns cotangents of what layers hand on, here a pair."""
    config = dataclasses.replace(CONFIG, n_layers=2, pattern=(Layer(),), scan_layers=True)
    params = quick(functools.partial(transformer.init, config))(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (4, SEQ + 1), 0, 32)
    want = quick(jax.value_and_grad(lambda p: transformer.loss(config, p, tokens)[0]))(params)
    mesh = make_mesh(MeshConfig(stage=2), jax.devices()[:2])
    shardings = weight_shardings(transformer.weights(config), DEFAULT_RULES, mesh)
    with jax.set_mesh(mesh):
        run = quick(jax.value_and_grad(lambda p: pipelined_loss(config, Schedule("1f1b", 2, 2), p, tokens)[0]))
        found = run(jax.device_put(params, shardings))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, want)
