"""Crowd: judges of known reliability, whose verdicts are weighed one after another until they are sure enough.

A judge accepts a right solution with chance c (completeness) and rejects a wrong one with chance s (soundness). The
posterior odds that a solution is right are multiplied by c / (1 - s) for a yes and by (1 - c) / s for a no; a solution
is retired, and asks nobody else, as soon as its posterior leaves [reject, accept] (SWAP: Marshall et al. 2016; Wright
et al. 2019; Walmsley et al. 2020, Galaxy Zoo Express).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from models.errors import require


class Reliability(NamedTuple):
    """completeness, soundness `[judges]`: chances to accept a right solution, and to reject a wrong one."""

    completeness: np.ndarray
    soundness: np.ndarray


class Retired(NamedTuple):
    """posterior `[items]`: chance that a solution is right when it was retired; votes `[items]`: how many it took."""

    posterior: np.ndarray
    votes: np.ndarray


def reliability(right: ArrayLike, verdicts: ArrayLike) -> Reliability:
    """Every judge's, from verdicts `[judges, known]` (0 or 1) on solutions of which `right` `[known]` is known.

    The mean of the posterior from Beta(2, 1), a judge being better than chance before anything is seen.
    """
    truth, said = np.asarray(right, bool), np.asarray(verdicts, bool)
    problem = f"are {said.shape} for {truth.shape} solutions"
    require(truth.shape == said.shape[1:], "verdicts", problem, "give a column each")
    completeness = (said[:, truth].sum(1) + 2) / (truth.sum() + 3)
    return Reliability(completeness, ((~said[:, ~truth]).sum(1) + 2) / ((~truth).sum() + 3))


def retired(
    verdicts: ArrayLike, judges: ArrayLike, known: Reliability, prior: float, reject: float = 0.01, accept: float = 0.99
) -> Retired:
    """Each solution's verdicts `[items, votes]` (0 or 1) of `judges` `[items, votes]`, until it is retired."""
    require(0 < reject < prior < accept < 1, "prior", f"is {prior}", f"give one between {reject} and {accept}")
    said, who = np.asarray(verdicts, bool), np.asarray(judges)
    c, s = known.completeness[who], known.soundness[who]
    steps = np.where(said, np.log(c) - np.log1p(-s), np.log1p(-c) - np.log(s))
    odds = np.log(prior / (1 - prior)) + np.cumsum(steps, axis=1)
    sure = (odds > np.log(accept / (1 - accept))) | (odds < np.log(reject / (1 - reject)))
    votes = np.where(sure.any(1), sure.argmax(1) + 1, said.shape[1])
    last = np.take_along_axis(odds, votes[:, None] - 1, axis=1)[:, 0]
    return Retired(1 / (1 + np.exp(-last)), votes)
