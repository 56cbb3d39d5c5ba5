"""Shaping: a verifier's reward changed by how a completion is written, such as how long it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import require
from scaling.typed import at_most, typed


@dataclass(frozen=True)
class CosineLength:
    """A reward that depends on the length as half a cosine, less one for n-grams that come again.

    With n tokens, the end included, of at most `longest`: v_L + (v_0 - v_L) (1 + cos(pi n / longest)) / 2, where v_0
    and v_L are those of a right answer (a reward above 0) or of a wrong one; so that right answers are better short,
    and wrong ones worse. What is longer, or was cut off, gets `exceeded`. Yeo et al. 2025, arXiv:2502.03373, who take
    the penalty from every token that is repeated.
    """

    longest: int = 32  # tokens of a completion, the end included
    right_short: float = 1.0  # v_0 of a right answer
    right_long: float = 0.5  # its v_L
    wrong_short: float = -1.0  # v_0 of a wrong one
    wrong_long: float = -0.5  # its v_L
    exceeded: float = -1.0  # what is longer, or cut off
    ngram: int = 4  # tokens of what counts as repeated
    repeated: float = 1.0  # subtracted, times the share of n-grams that stood before

    def __post_init__(self) -> None:
        at = "rollouts.shaping"
        typed(self, at)
        at_most(self, at, longest=2**20, ngram=2**20)
        for name in ("longest", "ngram"):
            require(getattr(self, name) >= 1, f"{at}.{name}", f"is {getattr(self, name)}", "give 1 or more")
        require(self.repeated >= 0, f"{at}.repeated", f"is {self.repeated}", "give 0 or more, which is subtracted")

    def shaped(self, reward: float, tokens: Sequence[int], cut: bool) -> float:
        """The reward of a completion of these tokens, of its own, that a verifier gave `reward`; NaN stays NaN."""
        if not math.isfinite(reward):
            return reward
        length = len(tokens)
        if cut or length > self.longest:
            found = self.exceeded
        else:
            right, wrong = (self.right_short, self.right_long), (self.wrong_short, self.wrong_long)
            short, long = right if reward > 0 else wrong
            found = long + (short - long) * (1 + math.cos(math.pi * length / self.longest)) / 2
        return found - self.repeated * repeated_share(tokens, self.ngram)


def repeated_share(tokens: Sequence[int], n: int) -> float:
    """The share of the n-grams of a text that stood before in it; 0 where there are none."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
