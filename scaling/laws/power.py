"""Plain power laws of one or more columns, y = k x**p ..., fitted on logarithms: compute-optimal sizes and the like.

`power_law` makes one for any columns; a line in a paper such as "N* ~ C**0.5" is `OPTIMAL_PARAMS`. Weights are inverse
variances of ln y (a reported standard deviation s enters as 1 / s**2).
"""

from __future__ import annotations

from collections.abc import Mapping

from scaling.fitting.law import Law

EXPONENT_STARTS = (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0)


def power_law(name: str, output: str, inputs: Mapping[str, str], units: Mapping[str, str], source: str,
              scale: str = "k") -> Law:
    """y = k x1**p1 x2**p2 ...: inputs maps each input column to the name of its exponent, units has every column."""
    def predict(p, x):
        value = p[scale]
        for column, exponent in inputs.items():
            value = value * x[column] ** p[exponent]
        return value

    terms = " * ".join([scale, *(f"{column}**{exponent}" for column, exponent in inputs.items())])
    return Law(
        name=name, formula=f"{output} = {terms}", inputs=tuple(inputs), output=output, predict=predict,
        linear=(scale,), exponents=tuple(inputs.values()),
        bounds={scale: (0, None), **dict.fromkeys(inputs.values(), (None, None))},
        start=dict.fromkeys(inputs.values(), EXPONENT_STARTS),
        units=dict(units), objective="gaussian", source=source)


OPTIMAL_PARAMS = power_law(
    "optimal_params", "params", {"flops": "a"}, dict(flops="FLOP", params="parameters"), scale="G",
    source="N* = G C**a: Hoffmann et al. 2022 (arXiv:2203.15556); what moves a: Porian et al. 2024 (arXiv:2406.19146)")

OPTIMAL_TOKENS = power_law(
    "optimal_tokens", "tokens", {"flops": "b"}, dict(flops="FLOP", tokens="tokens"), scale="H",
    source="D* = H C**b: Hoffmann et al. 2022 (arXiv:2203.15556)")

LAWS = (OPTIMAL_PARAMS, OPTIMAL_TOKENS)
# Porian et al., RefinedWeb, tuned, weighted fit: published and read [P].
CONSTANTS = {OPTIMAL_PARAMS.name: dict(G=0.118926484, a=0.4968950782),
             OPTIMAL_TOKENS.name: dict(H=1.401425999, b=0.5031049218)}
RANGES = dict(flops=(1e16, 1e19))
