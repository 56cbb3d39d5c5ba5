"""Scores of multiple-choice items from the likelihoods of their choices: pure functions of what was measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.evaluate.item import NORMALISATIONS


@dataclass(frozen=True)
class Likelihoods:
    """What was measured of one item, an entry for each of its K choices (of a cloze, one for each gold answer).

    logp: nats of the whole continuation. first: of its first token. unconditional: nats without the question. greedy:
    whether every token of the continuation was the likeliest. tokens, chars, bytes: its length; chars and bytes (of
    UTF-8) without what separates it from the question.
    """

    logp: np.ndarray  # [K] float64
    unconditional: np.ndarray  # [K] float64
    greedy: np.ndarray  # [K] bool
    right_tokens: np.ndarray  # [K] int64: how many tokens were the likeliest
    tokens: np.ndarray  # [K] int64
    chars: np.ndarray  # [K] int64
    bytes: np.ndarray  # [K] int64

    def normalised(self, by: str) -> np.ndarray:
        """[K] what the pick maximises: the sum, or divided by a length (Brown et al. 2020), or less the unconditional.

        lm-eval's `acc_norm` is "char": it divides by characters without the delimiter, though papers say bytes.
        """
        return {
            "raw": lambda: self.logp,
            "token": lambda: self.logp / self.tokens,
            "char": lambda: self.logp / self.chars,
            "byte": lambda: self.logp / self.bytes,
            "unconditional": lambda: self.logp - self.unconditional,
        }[by]()

    def picks(self) -> dict[str, int]:
        """The choice that each normalisation picks, the first of equals."""
        return {by: int(np.argmax(self.normalised(by))) for by in NORMALISATIONS}

    def tied(self, by: str) -> bool:
        """Whether the pick had an equal."""
        scores = self.normalised(by)
        return int((scores == scores.max()).sum()) > 1

    def probabilities(self) -> np.ndarray:
        """[K] the choices' probabilities, renormalised over the choices."""
        shifted = np.exp(self.logp - self.logp.max())
        return shifted / shifted.sum()


def brier(probabilities: np.ndarray, gold: tuple[int, ...]) -> float:
    """sum over choices of (p - 1[right])^2, 0 to 2; several right choices share the one."""
    target = np.zeros(len(probabilities))
    target[list(set(gold))] = 1 / len(set(gold))
    return float(((probabilities - target) ** 2).sum())


def log_loss(probabilities: np.ndarray, gold: tuple[int, ...]) -> float:
    """-log of the probability of the right choices, nats."""
    return float(-np.log(max(probabilities[list(set(gold))].sum(), np.finfo(float).tiny)))


def bits_per_byte(likelihoods: Likelihoods, index: int) -> float:
    """Bits per byte of one continuation."""
    return float(-likelihoods.logp[index] / (np.log(2) * likelihoods.bytes[index]))
