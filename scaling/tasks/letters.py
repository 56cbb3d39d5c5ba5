"""Letters: how often a letter is in a word that is read in letters or in pieces; said at once or spelled first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.tasks.sequences import Labelled


@dataclass(frozen=True)
class LetterCount:
    """The pieces of a word, the letter that is asked for, a mark; then its count, or each letter with the count so far.

    Letter l is token l, count c token `letters` + c, the mark the next after all counts. `piece` letters in a row are
    one token beyond the mark, whose letters are not shown; also where `piece` is 1, so that spelling must be learned
    alike for both. Counts are uniform in 0 to `length`: no count is a better guess than another.
    """

    letters: int = 6
    length: int = 8
    piece: int = 1  # letters of a token of the word
    spelled: bool = False

    def __post_init__(self) -> None:
        require(2 <= self.letters <= 64, "letters.letters", f"is {self.letters}", "use 2 to 64")
        require(1 <= self.length <= 256, "letters.length", f"is {self.length}", "use 1 to 256")
        whole = 1 <= self.piece <= 4 and self.length % self.piece == 0
        fix = f"use 1 to 4 letters of which {self.length} is a multiple"
        require(whole, "letters.piece", f"is {self.piece}", fix)

    @property
    def vocab_size(self) -> int:
        """Letters, counts, the mark and the pieces."""
        return self.mark + 1 + self.letters**self.piece

    @property
    def mark(self) -> int:
        """The token after which the answer stands."""
        return self.letters + self.length + 1

    @property
    def asked_at(self) -> int:
        """The place of the mark."""
        return self.length // self.piece + 1

    @property
    def size(self) -> int:
        """Places of a sequence; the label of the last is the count."""
        return self.asked_at + (2 * self.length if self.spelled else 1)

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, size]` each; every place from the mark on has the next token as its label."""
        asked, count = rng.integers(self.letters, size=(rows, 1)), rng.integers(self.length + 1, size=(rows, 1))
        others = (asked + rng.integers(1, self.letters, (rows, self.length))) % self.letters
        at = np.argsort(rng.random((rows, self.length)), axis=1)
        return self.sequences(np.where(at < count, asked, others), asked[:, 0])

    def sequences(self, words: np.ndarray, asked: np.ndarray) -> Labelled:
        """Of words `[rows, length]` and letters `[rows]`."""
        rows = len(words)
        places = self.letters ** np.arange(self.piece)[::-1]
        pieces = self.mark + 1 + words.reshape(rows, -1, self.piece) @ places
        so_far = self.letters + np.cumsum(words == asked[:, None], axis=1)
        told = np.stack([words, so_far], axis=2).reshape(rows, -1) if self.spelled else so_far[:, -1:]
        whole = np.concatenate([pieces, asked[:, None], np.full((rows, 1), self.mark), told], axis=1).astype(np.int32)
        scored = np.broadcast_to(np.arange(self.size) >= self.asked_at, (rows, self.size))
        return Labelled(whole[:, :-1], np.where(scored, whole[:, 1:], 0), scored)
