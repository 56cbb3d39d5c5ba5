"""Tones: what is said clearly is read as it was said, the best cut is the best of all cuts, codes are the nearest."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.tasks.tones import Codebook, Listener, Recogniser, Tones


def cuts(tones: Tones, frames: int, last: int = -1) -> Iterator[list[tuple[int, int]]]:
    """Every way to fill so many frames: (letter, duration) each."""
    if frames == 0:
        yield []
    for duration in range(tones.shortest, min(tones.longest, frames) + 1):
        for letter in set(range(tones.letters)) - {last}:
            for rest in cuts(tones, frames - duration, letter):
                yield [(letter, duration), *rest]


@pytest.mark.parametrize("frames", [1, 2, 5, 7])
def test_the_reading_is_that_of_the_best_of_all_cuts(frames: int) -> None:
    tones = Tones(letters=3, shortest=2, longest=3)
    scores = np.random.default_rng(frames).normal(size=(frames, 3))
    found, best = [], -np.inf
    for cut in cuts(tones, frames):
        letters = np.repeat([letter for letter, _ in cut], [duration for _, duration in cut])
        score = scores[np.arange(frames), letters].sum()
        if score > best:
            found, best = [letter for letter, _ in cut], score
    assert tones.read(scores) == found


def test_what_is_said_without_noise_is_read_by_both_who_listen() -> None:
    tones, rng = Tones(detuned=0.0, noise=0.0), np.random.default_rng(0)
    texts = [tones.text(rng, 6) for _ in range(60)]
    assert all(a != b for text in texts for a, b in pairwise(text))
    said = [tones.spoken(rng, text) for text in texts]
    frames, letters = (np.concatenate(parts) for parts in zip(*said, strict=True))
    book = Codebook.of(frames, 64)
    counted = Recogniser.of(tones, book.encode(frames), letters, 64)
    listener = Listener.of(tones, frames, letters)
    for text in texts:
        heard = tones.spoken(rng, text)
        assert 2 * len(text) <= len(heard.frames) <= 4 * len(text)
        assert listener.read(heard.frames) == text == counted.read(book.encode(heard.frames))


def test_a_code_is_the_nearest_centre_and_more_of_them_are_nearer() -> None:
    frames = Tones().spoken(np.random.default_rng(1), [0, 5, 2, 7, 3] * 20).frames
    errors = []
    for size in (2, 8, 32):
        book = Codebook.of(frames, size)
        codes = book.encode(frames)
        errors.append(((frames - book.centres[codes]) ** 2).sum())
        for frame, code in zip(frames[:20], codes, strict=False):
            assert code == np.argmin([np.linalg.norm(frame - centre) for centre in book.centres])
    assert errors[0] > errors[1] > errors[2]
    with pytest.raises(ConfigError, match="codes: is 1000 for"):
        Codebook.of(frames, 1000)
