"""Shortest programs: nothing shorter writes the row, and what they write and cost is as counted by hand."""

from __future__ import annotations

import itertools
import math
import zlib

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.tasks.shortest import BLANK, FORMS, KINDS, MARK, PARTS, ShortestProgram, deflated_bits

KIND = ShortestProgram(16)
CYCLE, RAMP, DOWN = PARTS, PARTS + 4, PARTS + 5


def spelled(form: int, *parts: list[int]) -> list[int]:
    """A program with its blanks."""
    filled = [part + [BLANK] * (5 - len(part)) for part in [*parts, [], []][:2]]
    return [form, *filled[0], *filled[1]]


def test_programs_write_what_their_text_says_and_other_tokens_write_nothing() -> None:
    assert KIND.run(spelled(FORMS, [CYCLE + 1, 7, 9])) == [7, 9] * 8
    assert KIND.run(spelled(FORMS + 1, [RAMP, 254], [DOWN, 1])) == [254, 255, *range(6), 1, 0, *range(255, 249, -1)]
    for form, *parts in ((FORMS,), (CYCLE, [CYCLE, 1]), (BLANK, [CYCLE, 1]), (FORMS, [1, 1]), (FORMS, [CYCLE, MARK]),
                         (FORMS + 1, [CYCLE, 1]), (FORMS, [CYCLE + 3, 1, 2, 3])):  # fmt: skip
        assert KIND.run(spelled(form, *parts)) is None


def test_no_program_is_shorter_than_the_shortest() -> None:
    """Every program of one part over two values, and many of two, cheapest first."""
    parts = [
        [PARTS + kind, *values]
        for kind in range(KINDS) for values in itertools.product(range(2), repeat=kind + 1 if kind < 4 else 1)
    ]  # fmt: skip
    cost = {len(part): math.log2(6) + 8 * (len(part) - 1) for part in parts}
    whole = [(1 + cost[len(a)], spelled(FORMS, a)) for a in parts]
    rng = np.random.default_rng(0)
    pairs = [(parts[i], parts[j]) for i, j in rng.integers(len(parts), size=(900, 2))]
    two = [(1 + cost[len(a)] + cost[len(b)], spelled(FORMS + 1, a, b)) for a, b in pairs]
    least: dict[tuple[int, ...], float] = {}
    for bits, program in sorted(whole + two, key=lambda pair: pair[0]):
        least.setdefault(tuple(KIND.run(program) or ()), bits)
    rows = np.array(list(least))
    programs, bits = KIND.shortest(rows)
    assert all(found <= known + 1e-9 for found, known in zip(bits, least.values(), strict=True))
    by_one = {tuple(KIND.run(program) or ()) for _, program in whole}
    alone = np.array([row in by_one for row in least])
    assert np.allclose(bits[alone], np.array(list(least.values()))[alone]) and alone.sum() > 16  # two parts cost more
    for program, row, cheapest in zip(programs, rows, bits, strict=True):
        assert KIND.run(program) == row.tolist() and np.isclose(KIND.bits(program, row), 1 + cheapest)


def test_rows_of_random_programs_have_programs_and_random_rows_cost_their_bytes() -> None:
    data = KIND.draw(np.random.default_rng(1), 200)
    assert data.tokens.shape == (200, KIND.size) and (data.tokens[:, 16] == MARK).all()
    for tokens, labels, scored in zip(*data, strict=True):
        assert KIND.run(labels[16:]) == tokens[:16].tolist() and scored.tolist() == [False] * 16 + [True] * 11
        assert tokens[17:].tolist() == labels[16:-1].tolist()
    noise = np.random.default_rng(2).integers(256, size=(5, 16))
    programs, bits = KIND.shortest(noise)
    assert np.isinf(bits).all() and (programs == BLANK).all()
    assert [KIND.bits(program, row) for program, row in zip(programs, noise, strict=True)] == [1 + 8 * 16] * 5
    with pytest.raises(ConfigError, match="length"):
        ShortestProgram(17)


def test_deflate_is_gzip_without_its_header_and_sum() -> None:
    row = np.arange(48) % 5
    whole = zlib.compressobj(9, zlib.DEFLATED, 31)
    assert deflated_bits(row) == 8 * (len(whole.compress(bytes(row.tolist())) + whole.flush()) - 18)
