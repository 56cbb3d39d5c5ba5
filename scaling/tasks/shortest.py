"""Programs that write rows of bytes, in a small language with a fixed code: the shortest of a row, and what it costs.

After the KoLMogorov Test (Yoran et al. 2025, arXiv:2503.13992): to compress a row is to write a short program for it.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.tasks.sequences import Labelled

VALUES = 256
BLANK, MARK, FORMS = 256, 257, 258  # tokens beyond the bytes; the forms are FORMS and FORMS + 1
PARTS = 260  # and the first of the kinds of a part
CYCLES, STEPS = (1, 2, 3, 4), (1, -1)  # values that come round, and what a ramp adds to each value (mod 256)
PLACES = 1 + max(CYCLES)  # of a part
KINDS = len(CYCLES) + len(STEPS)
_TOLD = (*CYCLES, *(1 for _ in STEPS))  # values that a part of each kind names
_PART_BITS = np.array([math.log2(KINDS) + 8 * told for told in _TOLD])
_NEVER = 1e9


@dataclass(frozen=True)
class ShortestProgram:
    """A row of bytes, a mark, and its shortest program, whose tokens are the labels, each at the place before its own.

    A program is a form and its parts: form 0 has one part for the whole row, form 1 one for either half. A part is a
    kind and its values: cycle k repeats k values, ramp s starts with a value and adds s. Every choice costs the
    logarithm of its options: 1 bit for a form, log2 6 for a kind, 8 for a value. Written down, each of two parts has
    five places, so that a value stands where it always stands; those that its kind does not need are blank and free.
    """

    length: int = 48  # bytes of a row

    def __post_init__(self) -> None:
        whole = 16 <= self.length <= 1024 and self.length % 2 == 0
        require(whole, "programs.length", f"is {self.length}", "use a multiple of 2 from 16 to 1024")

    @property
    def vocab_size(self) -> int:
        """Bytes, blank, mark, forms and kinds."""
        return PARTS + KINDS

    @property
    def written(self) -> int:
        """Tokens of a program."""
        return 1 + 2 * PLACES

    @property
    def size(self) -> int:
        """Places of a sequence."""
        return self.length + self.written

    @property
    def literal_bits(self) -> float:
        """Of a row that is told byte by byte: one bit says that no program follows."""
        return 1 + 8.0 * self.length

    def spans(self, form: int) -> list[tuple[int, int]]:
        """Where the parts of a form begin and end."""
        half = self.length // 2
        return [(0, half), (half, self.length)] if form else [(0, self.length)]

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, size]` each, of rows that random programs write; every place from the mark on has a label."""
        return self.sequences(self.rows(rng, rows))

    def rows(self, rng: np.random.Generator, rows: int) -> np.ndarray:
        """What programs with uniform choices write, `[rows, length]` int64."""
        form, out = rng.integers(2, size=rows), np.zeros((rows, self.length), np.int64)
        for f in range(2):
            for start, stop in self.spans(f):
                kind, values = rng.integers(KINDS, size=(rows, 1)), rng.integers(VALUES, size=(rows, max(CYCLES)))
                at = np.arange(stop - start)[None]
                cycle = np.take_along_axis(values, at % (np.minimum(kind, 3) + 1), axis=1)
                step = np.array(STEPS)[np.maximum(kind - len(CYCLES), 0)]
                part = np.where(kind < len(CYCLES), cycle, (values[:, :1] + step * at) % VALUES)
                out[form == f, start:stop] = part[form == f]
        return out

    def shortest(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(programs `[rows, written]` int64, their bits `[rows]`) of rows of bytes; all blank and infinitely many bits
        where no program writes the row. Of equally short ones it is the first, by form and then by kind."""
        best = np.full(len(rows), _NEVER)
        programs = np.full((len(rows), self.written), BLANK, np.int64)
        for form in range(2):
            bits, told = np.ones(len(rows)), np.full_like(programs, BLANK)
            told[:, 0] = FORMS + form
            for part, (start, stop) in enumerate(self.spans(form)):
                costs = _costs(rows[:, start:stop])
                kind, at = costs.argmin(axis=1), 1 + part * PLACES
                bits += costs.min(axis=1)
                told[:, at] = PARTS + kind
                for i in range(max(CYCLES)):
                    told[:, at + 1 + i] = np.where(i < np.array(_TOLD)[kind], rows[:, start + i], BLANK)
            better = bits < best
            best[better], programs[better] = bits[better], told[better]
        return programs, np.where(best < _NEVER, best, np.inf)

    def run(self, program: np.ndarray | list[int]) -> list[int] | None:
        """What the tokens of a program write, `[written]` of any; None if they are none."""
        form, *told = map(int, program)
        if not FORMS <= form < PARTS:
            return None
        out: list[int] = []
        for part, (start, stop) in enumerate(self.spans(form - FORMS)):
            kind = told[part * PLACES] - PARTS
            if not 0 <= kind < KINDS:
                return None
            values = told[part * PLACES + 1 :][: _TOLD[kind]]
            if max(values) >= VALUES:
                return None
            step = 0 if kind < len(CYCLES) else STEPS[kind - len(CYCLES)]
            out += [(values[i % len(values)] + step * i) % VALUES for i in range(stop - start)]
        return out

    def bits(self, program: np.ndarray | list[int], row: np.ndarray) -> float:
        """What a row costs with a program that is offered for it: the program's code and one bit more, or that of the
        bytes themselves, if it writes another row."""
        if self.run(program) != row.tolist():
            return self.literal_bits
        kinds = [int(program[1 + i * PLACES]) - PARTS for i in range(len(self.spans(int(program[0]) - FORMS)))]
        return 1 + 1 + float(_PART_BITS[kinds].sum())

    def sequences(self, rows: np.ndarray) -> Labelled:
        """Of rows of bytes `[rows, length]`, with their shortest programs; all blank where there is none."""
        programs, _ = self.shortest(rows)
        mark = np.full((len(rows), 1), MARK)
        whole = np.concatenate([rows, mark, programs], axis=1).astype(np.int32)
        scored = np.broadcast_to(np.arange(self.size) >= self.length, (len(rows), self.size))
        return Labelled(whole[:, :-1], np.where(scored, whole[:, 1:], 0), scored)


def deflated_bits(row: np.ndarray) -> int:
    """Of a row of bytes in raw deflate (zlib, level 9): gzip without its header and sum, 18 bytes on top."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return 8 * len(packer.compress(row.astype(np.uint8).tobytes()) + packer.flush())


def _costs(part: np.ndarray) -> np.ndarray:
    """Bits of every kind of part `[rows, KINDS]` that writes what `[rows, bytes]` says; _NEVER where it does not."""
    writes = [(part[:, k:] == part[:, :-k]).all(axis=1) for k in CYCLES]
    writes += [((part[:, 1:] - part[:, :-1] - s) % VALUES == 0).all(axis=1) for s in STEPS]
    return np.where(np.stack(writes, axis=1), _PART_BITS, _NEVER)
