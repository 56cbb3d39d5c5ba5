"""Tones: letters spoken as pairs of tones, a codebook of their spectra, and a recogniser that reads them back.

A small world for a language model that speaks in audio tokens (Ye et al. 2025, Llasa, arXiv:2502.04128): how well what
it says is understood can be counted.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.cluster.vq import kmeans2

from models.errors import require

SAMPLES = 32  # of a frame
BINS = SAMPLES // 2 + 1  # of its spectrum
_LOW, _HIGH = (2.0, 3.5, 5.0, 6.5), (9.0, 10.5, 12.0, 13.5)  # cycles in a frame


class Speech(NamedTuple):
    """frames `[frames, BINS]` of spectra, and the letter of each `[frames]`."""

    frames: np.ndarray
    letters: np.ndarray


@dataclass(frozen=True)
class Tones:
    """A letter is two tones at once, one of four low and one of four high ones, for `shortest` to `longest` frames.

    Each speaker is `detuned` by a normal number of cycles in a frame, and every sample has normal noise, against a
    tone's amplitude of 1. A spectrum is the logarithm of 1 + power in each of BINS frequencies. No letter comes twice
    in a row, so that a text can be read from its frames.
    """

    letters: int = 12
    shortest: int = 2
    longest: int = 4
    detuned: float = 0.3
    noise: float = 0.5

    def __post_init__(self) -> None:
        most = len(_LOW) * len(_HIGH)
        require(2 <= self.letters <= most, "tones.letters", f"is {self.letters}", f"use 2 to {most}")
        fix = "use 1 or more frames, and no more than tones.longest"
        require(1 <= self.shortest <= self.longest, "tones.shortest", f"is {self.shortest}", fix)
        for field in ("detuned", "noise"):
            require(getattr(self, field) >= 0, f"tones.{field}", f"is {getattr(self, field)}", "use 0 or more")

    def text(self, rng: np.random.Generator, length: int) -> list[int]:
        """Letters, none of them like the one before."""
        steps = rng.integers(1, self.letters, length)
        return (np.cumsum(steps) % self.letters).tolist()

    def spoken(self, rng: np.random.Generator, text: Sequence[int]) -> Speech:
        """By a new speaker."""
        durations = rng.integers(self.shortest, self.longest + 1, len(text))
        letters = np.repeat(np.asarray(text), durations)
        low, high = np.array(_LOW)[letters % len(_LOW)], np.array(_HIGH)[letters // len(_LOW)]
        turns = (np.stack([low, high], axis=1) + self.detuned * rng.normal())[..., None] * np.arange(SAMPLES) / SAMPLES
        phases = rng.random((len(letters), 2, 1))
        wave = np.sin(2 * np.pi * (turns + phases)).sum(1) + self.noise * rng.normal(size=(len(letters), SAMPLES))
        return Speech(np.log1p(np.abs(np.fft.rfft(wave)) ** 2), letters)

    def read(self, scores: np.ndarray) -> list[int]:
        """The letters of the likeliest way to cut frames into letters of allowed durations; none where there is no way.

        scores `[frames, letters]`: log-likelihood of each frame under each letter.
        """
        frames, letters = scores.shape
        before = np.vstack([np.zeros(letters), np.cumsum(scores, axis=0)])
        best, back = np.full((frames + 1, letters), -np.inf), np.zeros((frames + 1, letters, 2), int)
        for end in range(1, frames + 1):
            for duration in range(self.shortest, min(self.longest, end) + 1):
                start = end - duration
                reached, came = _best_other(best[start]) if start else (np.zeros(letters), np.full(letters, -1))
                found = reached + before[end] - before[start]
                better = found > best[end]
                best[end][better] = found[better]
                back[end][better] = np.stack([np.full(letters, duration), came], axis=1)[better]
        end, letter, text = frames, int(best[frames].argmax()), list[int]()
        if not np.isfinite(best[frames, letter]):
            return text
        while end > 0:
            text.append(letter)
            duration, came = back[end, letter].tolist()
            end, letter = end - duration, came
        return text[::-1]


@dataclass(frozen=True)
class Codebook:
    """Centres `[codes, BINS]`: an audio token is the number of the nearest, and its sound is the centre."""

    centres: np.ndarray

    @classmethod
    def of(cls, frames: np.ndarray, codes: int, seed: int = 0) -> Codebook:
        """Of frames `[frames, BINS]`, by k-means; ConfigError when there are fewer frames than codes."""
        fix = f"give 1 to {len(frames)}"
        require(1 <= codes <= len(frames), "codes", f"is {codes} for {len(frames)} frames", fix)
        rng = np.random.default_rng(seed)
        return cls(kmeans2(frames, codes, minit="++", rng=rng, missing="warn")[0])

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Audio tokens `[frames]`."""
        return ((frames[:, None] - self.centres) ** 2).sum(2).argmin(1)


@dataclass(frozen=True)
class Recogniser:
    """Reads audio tokens by how often each stood for each letter, `chances` `[codes, letters]` in logarithms."""

    tones: Tones
    chances: np.ndarray

    @classmethod
    def of(cls, tones: Tones, codes: np.ndarray, letters: np.ndarray, size: int, pseudo: float = 0.1) -> Recogniser:
        """Counted on audio tokens and the letters that they were spoken for; so many codes, `pseudo` added to each."""
        counted = np.full((size, tones.letters), pseudo)
        np.add.at(counted, (codes, letters), 1.0)
        return cls(tones, np.log(counted / counted.sum(0)))

    def read(self, codes: Sequence[int]) -> list[int]:
        """The letters that audio tokens say."""
        return self.tones.read(self.chances[np.asarray(codes, int)])


@dataclass(frozen=True)
class Listener:
    """Reads spectra, by a normal distribution of equal covariance for each letter; `means` `[letters, BINS]`."""

    tones: Tones
    means: np.ndarray
    precision: np.ndarray

    @classmethod
    def of(cls, tones: Tones, frames: np.ndarray, letters: np.ndarray) -> Listener:
        """Fitted to spectra and the letters that they were spoken for."""
        means = np.stack([frames[letters == letter].mean(0) for letter in range(tones.letters)])
        apart = frames - means[letters]
        covariance = apart.T @ apart / len(frames) + 1e-3 * np.eye(frames.shape[1])
        return cls(tones, means, np.linalg.inv(covariance))

    def read(self, frames: np.ndarray) -> list[int]:
        """The letters that spectra `[frames, BINS]` say."""
        apart = frames[:, None] - self.means
        return self.tones.read(-0.5 * np.einsum("tli,ij,tlj->tl", apart, self.precision, apart))


def _best_other(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each entry the highest of all the others, and where it stands."""
    order = np.argsort(-scores, kind="stable")
    where = np.where(np.arange(len(scores)) == order[0], order[1], order[0])
    return scores[where], where


@functools.cache
def alphabet(letters: int, codes: int) -> tuple[str, str]:
    """(a character for each letter, a character for each code): so that a text and its sound are one string."""
    return "".join(chr(ord("a") + i) for i in range(letters)), "".join(chr(0x4E00 + i) for i in range(codes))
