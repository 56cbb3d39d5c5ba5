"""Many programs, few submissions (AlphaCode, Li et al. 2022): filter on examples, cluster by behaviour, largest first.

Clusters that behave alike on generated inputs are taken for one program, so that ten submissions are ten different
ones; the largest come first, and one member of each is submitted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

SUBMISSIONS = 10


def submitted(
    counts: ArrayLike, passed: ArrayLike, behaviour: ArrayLike, right: ArrayLike, most: int = SUBMISSIONS
) -> float:
    """The chance that one of `most` submissions is right.

    Of every kind of program `[kinds]`: counts, how often it was drawn; passed, whether it gives what the examples show;
    behaviour, a code of what it gives on generated inputs; right, whether it passes the hidden tests. Programs that are
    right behave alike. A cluster submits each of its draws as likely as any other; of equal clusters the lower code
    comes first.
    """
    counts = np.where(np.asarray(passed, bool), np.asarray(counts, float), 0.0)
    codes = np.asarray(behaviour)
    size = np.bincount(codes, counts)
    good = np.bincount(codes, counts * np.asarray(right, float), minlength=len(size))
    first = np.argsort(-size, kind="stable")[:most]
    first = first[size[first] > 0]
    return float((good[first] / size[first]).sum())
