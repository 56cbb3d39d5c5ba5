"""What a model that was specialised to one domain gained there and lost elsewhere, after Jha and Paudel 2025 (Fragile
Mastery, arXiv:2503.22698); the forms of the indices are our own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from models.errors import require


def specialisation_index(target_gain: float, general_loss: float) -> float:
    """gain / (gain + loss), of what the target gained and the rest lost in one unit: 1 where nothing was lost, 1/2
    where as much was lost as gained, 0 where nothing was gained. What is below 0 counts as none; 0 for neither.
    """
    gain, lost = max(0.0, float(target_gain)), max(0.0, float(general_loss))
    require(np.isfinite(gain + lost), "specialisation", f"of {gain} and {lost}", "give finite numbers")
    return gain / (gain + lost) if gain > 0 else 0.0


def generalisation_gap(losses: ArrayLike, target: int) -> float:
    """Perplexity of the other domains over that of the target, of losses `[domains]` in nats per token.

    The others' is the geometric mean: exp(mean of their losses - the target's).
    """
    y = np.asarray(losses, float)
    good = y.ndim == 1 and len(y) >= 2 and bool(np.isfinite(y).all())
    require(good, "losses", f"have shape {y.shape} or a missing value", "give one for each of two or more domains")
    require(0 <= target < len(y), "target", f"is {target} of {len(y)} domains", "name one of them")
    return float(np.exp(np.delete(y, target).mean() - y[target]))


def transfer(before: ArrayLike, after: ArrayLike) -> np.ndarray:
    """`[specialised to, domain]`: by how many nats per token the loss fell; below 0 where it rose.

    before `[domains]`: of the general model; after `[specialised to, domain]`: of the model of each.
    """
    old, new = np.asarray(before, float), np.asarray(after, float)
    good = old.ndim == 1 and new.ndim == 2 and new.shape[1] == len(old)
    require(good, "after", f"has shape {new.shape} for {old.shape} before", "give [specialised to, domain]")
    return old - new
