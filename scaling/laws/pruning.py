"""Data pruning (Sorscher et al. 2022, arXiv:2206.14486): keep a share f of the data, the smaller the more there is.

At a fixed share f the error is a power of the kept data; the best share f*(D) moves along the lower envelope of those
curves, which can fall faster than any of them. There is no closed form of the envelope: `pruning_envelope` fits the
power law of every share and takes the lowest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from models.errors import ConfigError
from scaling.fitting.fit import Fit, fit
from scaling.fitting.runs import Runs, as_table, missing
from scaling.laws.hestness import HESTNESS


def pruning_envelope(runs: Runs, tokens: ArrayLike, *, share: str = "share_kept",
                     columns: Mapping[str, str] | None = None, **options: Any) -> tuple[pd.DataFrame, dict[float, Fit]]:
    """Per initial data size in `tokens` the best share to keep and the error there, and the fit of every share.

    runs: tokens (before pruning), `share`, loss; shares with fewer than four sizes are left out. Columns of the
    table: tokens, share_kept, loss, slope (d ln(loss - floor) / d ln tokens of the winning share).
    """
    table = as_table(runs, columns, ("tokens", share, "loss"))
    for name in ("tokens", share, "loss"):
        if name not in table.columns:
            missing(name, table.columns)
    fits = {float(kept): fit(HESTNESS, group, **options) for kept, group in table.groupby(share)
            if group["tokens"].nunique() >= 4}
    if not fits:
        raise ConfigError("runs", "no share was tried at four data sizes", "give a grid of shares and sizes")
    at = np.atleast_1d(np.asarray(tokens, float))
    curves = np.array([one.law(one.params, tokens=at) for one in fits.values()])
    winner, shares = np.argmin(curves, axis=0), np.array(list(fits))
    slopes = np.array([one.params.b for one in fits.values()])
    return pd.DataFrame({"tokens": at, "share_kept": shares[winner], "loss": curves.min(0),
                         "slope": slopes[winner]}), fits
