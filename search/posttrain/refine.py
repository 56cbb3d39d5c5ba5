"""Refinement: a policy reads its own draft and writes it again, until it writes what it wrote before.

So it says itself when to stop, and a problem takes as many calls as it needs (ToolACE-R, Zeng et al. 2025,
arXiv:2504.01400). It learns that from its own drafts, wrong ones with what is right and right ones unchanged, of
problems that are within its reach, chosen anew as that grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from models.errors import require

# numbers of problems [n], each with its draft [n] ("" before the first) -> what the policy writes [n]
Write = Callable[[Sequence[int], Sequence[str]], Sequence[str]]


class Sample(NamedTuple):
    """What to learn from: the number of a problem, and the draft that is read, "" for none; the target is right."""

    problem: int
    draft: str


def refined(write: Write, problems: int, most: int) -> list[list[str]]:
    """All that was written for each problem, in order; the last is the answer, and their number the calls.

    A problem ends when its output is one that it had before, or after `most` calls. All that go on are written at once.
    """
    require(most >= 1, "most", f"is {most}", "give 1 or more calls")
    found: list[list[str]] = [[] for _ in range(problems)]
    going = list(range(problems))
    for _ in range(most):
        if not going:
            break
        outputs = write(going, [found[i][-1] if found[i] else "" for i in going])
        stays = []
        for i, text in zip(going, outputs, strict=True):
            if text not in found[i]:
                stays.append(i)
            found[i].append(text)
        going = stays
    return found


def within_reach(rates: np.ndarray) -> np.ndarray:
    """The numbers of problems that are right sometimes and not always, of shares of right drafts `[problems]`."""
    rates = np.asarray(rates, np.float64)
    require(bool(((rates >= 0) & (rates <= 1)).all()), "rates", "are no shares", "give numbers from 0 to 1")
    return np.flatnonzero((rates > 0) & (rates < 1))


def refinements(
    rng: np.random.Generator, drafts: Sequence[Sequence[str]], right: Sequence[str], chosen: Sequence[int]
) -> list[Sample]:
    """Of each chosen problem: the call without a draft, a wrong draft and a right one, as far as there are.

    drafts: of every problem; right: what is right. Which of several drafts is uniform; the right one stands for itself
    where no draft is right, so that what is right is always learned to stay.
    """
    found = []
    for i in chosen:
        wrong = [draft for draft in drafts[i] if draft != right[i]]
        found += [Sample(int(i), ""), Sample(int(i), right[i])]
        if wrong:
            found.append(Sample(int(i), wrong[int(rng.integers(len(wrong)))]))
    return found
