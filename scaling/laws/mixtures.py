"""Data mixing laws (Ye et al. 2024, arXiv:2403.16952): validation loss of a domain from the shares of a mixture.

L_i(r) = c_i + k_i exp(sum_j t_ij r_j). Shares sum to one, so adding a constant to every t_ij only rescales k_i: the
last domain is the reference with t = 0. Fit one law per validation set, on at least twice as many mixtures as domains.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from models.errors import ConfigError
from scaling.fitting.fit import Fit
from scaling.fitting.law import Law, Values


def mixture_law(domains: Sequence[str], output: str = "loss", name: str | None = None) -> Law:
    """The mixing law of the columns `domains` (shares, the last one the reference) for the loss column `output`."""
    if len(domains) < 2 or len(set(domains)) < len(domains):
        raise ConfigError("domains", f"{list(domains)} are not two or more different columns", "name each domain once")
    slopes = tuple(f"t_{domain}" for domain in domains[:-1])

    def predict(p, x):
        return p.c + p.k * np.exp(sum(p[slope] * x[domain] for slope, domain in zip(slopes, domains, strict=False)))

    # few values per slope, fewer still for many domains: the grid is their product
    values = (-4.0, -1.5, -0.5, 0.5, 1.5) if len(slopes) <= 4 else (-1.5, 0.5)
    return Law(
        name=name or f"mixture of {', '.join(domains)}",
        formula=f"L = c + k * exp({' + '.join(f'{s} * {d}' for s, d in zip(slopes, domains, strict=False))})",
        inputs=tuple(domains), output=output, predict=predict, linear=("c", "k"),
        bounds=dict(c=(0, None), k=(0, None), **dict.fromkeys(slopes, (None, None))),
        start=dict.fromkeys(slopes, values),
        units={**dict.fromkeys(domains, "share of the training tokens"), output: "nats/token"},
        source="Ye et al. 2024, Data mixing laws (arXiv:2403.16952)")


def best_mixture(fits: Sequence[Fit], weights: Sequence[float] | None = None) -> Values:
    """The shares that minimise the weighted sum of the fitted losses (equal weights unless given).

    Every fitted loss is convex in the shares (k >= 0), so the constrained minimum found from the middle is the global
    one. fits: one per validation set, all over the same domains.
    """
    domains = fits[0].law.inputs
    if any(one.law.inputs != domains for one in fits):
        raise ConfigError("fits", "their domains differ", "fit every validation set over the same columns")
    w = np.ones(len(fits)) if weights is None else np.asarray(weights, float)

    def total(shares):
        inputs = {domain: np.array([share]) for domain, share in zip(domains, shares, strict=True)}
        return sum(v * one.law(one.params, **inputs)[0] for v, one in zip(w, fits, strict=True))

    result = minimize(total, np.full(len(domains), 1 / len(domains)), method="SLSQP", bounds=[(0, 1)] * len(domains),
                      constraints={"type": "eq", "fun": lambda shares: shares.sum() - 1}, options={"ftol": 1e-12})
    return Values({domain: float(share) for domain, share in zip(domains, result.x, strict=True)})


MIXTURE = mixture_law(("share_web", "share_code", "share_books"), name="mixture")

LAWS = (MIXTURE,)
# Not of a paper: an example with a helpful and a harmful domain.
CONSTANTS = {MIXTURE.name: dict(c=1.8, k=1.2, t_share_web=-1.3, t_share_code=0.6)}
RANGES = dict.fromkeys(MIXTURE.inputs, (0.02, 0.95))
