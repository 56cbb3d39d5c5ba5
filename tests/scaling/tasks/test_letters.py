"""Letter counting: a reader of the tokens alone finds every label, and what a model writes is a greedy loop's text."""

from __future__ import annotations

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.tasks import probe
from scaling.tasks.letters import LetterCount


def read(kind: LetterCount, tokens: list[int]) -> list[int]:
    """The labels from the mark on, by decoding the pieces of the question and counting."""
    word: list[int] = []
    for token in tokens[: kind.length // kind.piece]:
        number, letters = token - kind.mark - 1, []
        for _ in range(kind.piece):
            number, letter = divmod(number, kind.letters)
            letters.append(letter)
        word += letters[::-1]
    asked, mark = tokens[kind.length // kind.piece : kind.asked_at + 1]
    assert mark == kind.mark
    told = [x for i, letter in enumerate(word) for x in (letter, kind.letters + word[: i + 1].count(asked))]
    return told if kind.spelled else told[-1:]


@pytest.mark.parametrize("piece", [1, 2, 3])
@pytest.mark.parametrize("spelled", [False, True])
def test_every_label_follows_from_the_tokens_of_the_question(piece: int, spelled: bool) -> None:
    kind = LetterCount(letters=4, length=6, piece=piece, spelled=spelled)
    data = kind.draw(np.random.default_rng(0), 50)
    assert data.tokens.shape == (50, kind.size) and data.tokens.max() < kind.vocab_size
    for tokens, labels, scored in zip(*map(np.ndarray.tolist, data), strict=True):
        assert labels[kind.asked_at :] == read(kind, tokens) and sum(scored) == len(labels) - kind.asked_at
        assert all(scored[kind.asked_at :]) and tokens[kind.asked_at + 1 :] == labels[kind.asked_at : -1]


def test_no_count_is_a_better_guess_and_words_must_be_whole_pieces() -> None:
    kind = LetterCount()
    last = kind.draw(np.random.default_rng(1), 9000).labels[:, -1]
    counted = np.bincount(last - kind.letters, minlength=9)
    assert len(counted) == 9 and np.abs(counted - 1000).max() < 5 * np.sqrt(1000)
    with pytest.raises(ConfigError, match="piece"):
        LetterCount(length=8, piece=3)


def test_what_is_written_reads_what_was_written_and_no_later_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def says_the_sum(model: object, params: int, tokens: np.ndarray) -> np.ndarray:
        return np.cumsum(tokens, axis=1) % params

    monkeypatch.setattr(probe, "_said", says_the_sum)
    given = np.array([[1, 2, 3, 50, 60], [4, 0, 0, 70, 80]])
    expected = [[6, 12 % 100, 24], [4, 8, 16]]
    assert probe.written(None, 100, given, 2).tolist() == expected  # type: ignore[arg-type]
    assert given[0, 3] == 50
