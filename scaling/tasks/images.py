"""Images: small black-and-white patterns in patches of four pixels, with labels of which a share is wrong.

A plain stem: a patch of binary pixels is one of 16, so that a table of embeddings says what a linear stem could.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from models.errors import require
from scaling.tasks.sequences import Labelled

PATCH = 2
KINDS = 2 ** (PATCH * PATCH)  # of patches


@dataclass(frozen=True)
class Images:
    """The patches of an image, row by row, and a question, whose label is the class.

    Patch p (its pixels as binary digits, row by row) is token p, the question the next, class c the c-th after that. A
    class is a smooth pattern that follows from `seed` and its number; an image of it is moved by up to `shift` pixels,
    around the edges, and every pixel is the other colour with probability `flipped`. noise: share of the images that
    have the label of another of the classes `first` to `first + classes`. side: pixels.
    """

    classes: int = 20
    first: int = 0
    most: int = 32  # classes that there are tokens for
    shift: int = 2
    flipped: float = 0.1
    noise: float = 0.0
    seed: int = 0
    side: int = 8

    def __post_init__(self) -> None:
        fits = self.classes >= 2 and self.first >= 0 and self.first + self.classes <= self.most <= 4096
        problem = f"are {self.first} to {self.first + self.classes - 1} of {self.most}"
        require(fits, "images.classes", problem, "give at least 2, that lie within images.most, up to 4096")
        fits = 2 * PATCH <= self.side <= 64 and self.side % PATCH == 0
        require(fits, "images.side", f"is {self.side}", f"use 4 to 64 pixels, in patches of {PATCH}")
        require(0 <= self.shift < self.side, "images.shift", f"is {self.shift}", f"use 0 to {self.side - 1}")
        for field in ("flipped", "noise"):
            value = getattr(self, field)
            require(0 <= value <= 1, f"images.{field}", f"is {value}", "give a share from 0 to 1")

    @property
    def vocab_size(self) -> int:
        """Patches, the question and the classes."""
        return KINDS + 1 + self.most

    @property
    def size(self) -> int:
        """Places of a sequence."""
        return (self.side // PATCH) ** 2 + 1

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, size]` each, of classes that are alike likely."""
        classes = rng.integers(self.classes, size=rows)
        pixels = _patterns(replace(self, noise=0.0))[classes]
        side = self.side
        at = np.arange(side) + rng.integers(-self.shift, self.shift + 1, (2, rows, 1))
        moved = pixels[np.arange(rows)[:, None, None], at[0][:, :, None] % side, at[1][:, None, :] % side]
        seen = moved ^ (rng.random(moved.shape) < self.flipped)
        other = (classes + rng.integers(1, self.classes, rows)) % self.classes
        told = self.first + np.where(rng.random(rows) < self.noise, other, classes)
        return self.sequences(seen, told)

    def sequences(self, pixels: np.ndarray, classes: np.ndarray) -> Labelled:
        """Of binary images `[rows, side, side]` with the classes `[rows]` that are told of them."""
        n = self.side // PATCH
        split = pixels.reshape(-1, n, PATCH, n, PATCH).transpose(0, 1, 3, 2, 4).reshape(len(pixels), n * n, -1)
        patches = split @ (2 ** np.arange(PATCH * PATCH)[::-1])
        tokens = np.concatenate([patches, np.full((len(pixels), 1), KINDS)], axis=1).astype(np.int32)
        labels, scored = np.zeros_like(tokens), np.zeros(tokens.shape, bool)
        labels[:, -1], scored[:, -1] = KINDS + 1 + classes, True
        return Labelled(tokens, labels, scored)

    def pixels(self, tokens: np.ndarray) -> np.ndarray:
        """The images `[rows, side, side]` bool that sequences `[rows, size]` show."""
        n = self.side // PATCH
        bits = tokens[:, :-1, None] >> np.arange(PATCH * PATCH)[::-1] & 1
        split = bits.reshape(-1, n, n, PATCH, PATCH).transpose(0, 1, 3, 2, 4)
        return split.reshape(-1, self.side, self.side).astype(bool)


@functools.lru_cache(maxsize=8)
def _patterns(kind: Images) -> np.ndarray:
    """`[classes, side, side]` bool: where a few waves around the edges add up to more than they do at most places."""
    made = []
    grid = 2 * np.pi * np.arange(kind.side) / kind.side
    for number in range(kind.first, kind.first + kind.classes):
        rng = np.random.default_rng([kind.seed, number])
        field = np.zeros((kind.side, kind.side))
        for across, down in ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0)):
            field += rng.normal() * np.cos(across * grid[None] + down * grid[:, None] + rng.uniform(0, 2 * np.pi))
        made.append(field > np.median(field))
    return np.stack(made)
