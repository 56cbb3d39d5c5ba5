"""Broken neural scaling law (Caballero et al. 2022, arXiv:2210.14891): power laws joined smoothly at breaks.

    y = a + b x**-c0 prod_i (1 + (x / d_i)**(1 / f_i))**(-c_i f_i)

d_i is the place of break i, f_i its width in ln x, c_i the change of slope there. Each break adds three parameters and
always lowers the training error: `select_breaks` chooses their number by the error on the largest inputs, left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scaling.fitting.fit import Fit, fit
from scaling.fitting.law import Law
from scaling.fitting.runs import Runs, as_table, missing
from scaling.laws.general import softplus

HELD_OUT = 0.2


def broken_law(breaks: int = 1, column: str = "tokens", output: str = "loss", unit: str = "tokens",
               places: Sequence[float] = tuple(np.geomspace(1e3, 1e12, 10)), name: str | None = None) -> Law:
    """The law with `breaks` breaks of `output` over `column`; places: where to look for breaks, in the column's unit.

    The second break onwards is given by its factor above the one before (s_i > 1), which keeps them in order; the
    places d_i are derived quantities.
    """
    def place(p, index):
        log_place = np.log(p.d1)
        for i in range(2, index + 1):
            log_place = log_place + np.log(p[f"s{i}"])
        return log_place

    def predict(p, x):
        log_x = np.log(x[column])
        exponent = -p.c0 * log_x
        for i in range(1, breaks + 1):
            width = p[f"f{i}"]
            exponent = exponent - p[f"c{i}"] * width * softplus((log_x - place(p, i)) / width)
        return p.a + p.b * np.exp(exponent)

    bounds: dict = dict(a=(0, None), b=(0, None), c0=(-2, 2))
    start: dict = dict(c0=(-0.1, 0.05, 0.15, 0.3, 0.6))
    factors = []
    for i in range(1, breaks + 1):
        bounds |= {f"c{i}": (-4, 4), f"d{i}" if i == 1 else f"s{i}": (0 if i == 1 else 1, None), f"f{i}": (0, None)}
        start |= {f"c{i}": (-0.3, 0.2, 0.7) if breaks == 1 else (-0.2, 0.4), f"f{i}": (0.3, 1.0) if i == 1 else (0.5,)}
        start |= {f"d{i}": tuple(places)} if i == 1 else {f"s{i}": (10.0, 300.0)}
        at = f"d{i}" if i == 1 else f"d1 {' '.join(f's{j}' for j in range(2, i + 1))}"
        factors.append(f"(1 + ({column} / ({at}))**(1 / f{i}))**(-c{i} * f{i})")
    derived = {f"d{i}": (lambda p, i=i: np.exp(place(p, i))) for i in range(2, breaks + 1)}
    return Law(
        name=name or f"broken{breaks}",
        formula=" * ".join([f"y = a + b * {column}**-c0", *factors]),
        inputs=(column,), output=output, predict=predict, linear=("a", "b"), exponents=("c0",), bounds=bounds,
        start=start, derived=derived, units={column: unit, output: "nats/token (or error)"},
        source="Caballero et al. 2022, Broken neural scaling laws (arXiv:2210.14891)")


def select_breaks(runs: Runs, most: int = 2, *, column: str = "tokens", output: str = "loss", unit: str = "tokens",
                  columns: Mapping[str, str] | None = None, **options: Any) -> tuple[Fit, pd.DataFrame]:
    """The fit with the number of breaks, 0 to `most`, that best predicts the largest fifth of the inputs when it is
    left out; then refitted to all rows. Also returns the table of held-out errors (mean absolute log ratio)."""
    table = as_table(runs, columns, (column, output))
    for one in (column, output):
        if one not in table.columns:
            missing(one, table.columns)
    order = table.sort_values(column)
    cut = len(order) - max(1, int(HELD_OUT * len(order)))
    seen, held = order.iloc[:cut], order.iloc[cut:]
    low, high = float(order[column].min()), float(order[column].max())
    rows, laws = [], {}
    for breaks in range(most + 1):
        law = broken_law(breaks, column, output, unit, places=tuple(np.geomspace(low, high, 8)))
        if len(seen) < len(law.parameters) + 1:
            break
        laws[breaks] = law
        fitted = fit(law, seen, **options)
        predicted = law(fitted.params, **{column: held[column].to_numpy(float)})
        with np.errstate(all="ignore"):
            error = float(np.mean(np.abs(np.log(predicted / held[output].to_numpy(float)))))
        rows.append({"breaks": breaks, "held_out_error": error, "objective": fitted.certificate.objective})
    errors = pd.DataFrame(rows, columns=["breaks", "held_out_error", "objective"])
    best = int(errors.loc[errors["held_out_error"].idxmin(), "breaks"]) if len(errors) else 0
    return fit(laws.get(best, broken_law(0, column, output, unit)), order, **options), errors


BROKEN = broken_law(1)

LAWS = (BROKEN,)
# Not of a paper: a break between the smooth and the sharp ones it shows.
CONSTANTS = {BROKEN.name: dict(a=1.6, b=20.0, c0=0.08, c1=0.25, d1=1e8, f1=0.8)}
RANGES = dict(tokens=(1e5, 1e11))
