"""Self-refinement: a policy criticises its own draft and writes it anew, until it finds nothing wrong with it.

Nothing from outside enters (Madaan et al. 2023, arXiv:2303.17651; Shashidhar et al. 2023, arXiv:2310.07611, who rank
policies by what they reach, what refinement adds, and what that costs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from models.errors import require


class Look(NamedTuple):
    """What a critic says of a draft: whether it finds nothing wrong, and the revision, None where none can be read."""

    clean: bool
    revision: Any


class Refined(NamedTuple):
    """A draft and all its revisions, in order; how often it was looked at; whether the last look found nothing."""

    versions: list[Any]
    looks: int
    clean: bool


# (places of drafts [n], what they are now [n]) -> what the critic says of each [n]
Critic = Callable[[Sequence[int], Sequence[Any]], Sequence[Look]]


def self_refined(critic: Critic, drafts: Sequence[Any], most: int) -> list[Refined]:
    """Every draft, looked at and written anew until a look finds nothing wrong, at most `most` times.

    A draft that is found right stays as it is; one whose revision cannot be read too, and is looked at again. All that
    go on are looked at together.
    """
    require(most >= 1, "most", f"is {most}", "give 1 or more looks")
    found = [Refined([draft], 0, False) for draft in drafts]
    for _ in range(most):
        going = [i for i, one in enumerate(found) if not one.clean]
        if not going:
            break
        for i, look in zip(going, critic(going, [found[i].versions[-1] for i in going]), strict=True):
            changed = not look.clean and look.revision is not None
            versions = [*found[i].versions, look.revision] if changed else found[i].versions
            found[i] = Refined(versions, found[i].looks + 1, look.clean)
    return found


def refinement_score(before: Any, after: Any, cost: Any, gain_weight: float = 1.0, thrift: float = 0.5) -> np.ndarray:
    """Scores `[policies]` by which policies are ranked, in the manner of PeRFICS: performance, refinement, cost.

    before, after: accuracy of drafts and of what is refined `[policies]`; cost: of a refined answer, in any unit.
    (before + gain_weight (after - before)) / (cost / least cost)^thrift: with a gain_weight of 1 it is what is reached
    that counts, and a thrift of 0 forgets what it costs.
    """
    before, after, cost = (np.asarray(x, np.float64) for x in (before, after, cost))
    require(bool((cost > 0).all()), "cost", f"is {cost.tolist()}", "give positive numbers")
    return (before + gain_weight * (after - before)) / (cost / cost.min()) ** thrift
