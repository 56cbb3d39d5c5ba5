"""How loss falls with training compute: data, training, sweeps, laws, reports.

    tasks/   problems with exact verifiers: Countdown, arithmetic, puzzles ...
    data/    text -> tokens -> batch(step)
    train/   the train step, its optimisers, checkpoints and host loop
    sweep/   many trials to one table
    fitting/ fit a law to the table, certify it, test its extrapolation, spend a budget
    laws/    the laws, one file each
    report/  pictures and report.html

In a notebook:

    import scaling
    runs = scaling.load("runs/quickstart")
    fit = scaling.fit(scaling.laws.CHINCHILLA, runs, bootstrap=1000, seed=0)
    fit.predict(params=70e9, tokens=1.4e12, interval=0.9)

Names load on first use: laws and what fits them are a second of import, which a process that trains need not spend.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling import laws as laws
    from scaling.fitting.fit import fit as fit
    from scaling.laws import Fit as Fit
    from scaling.laws import Plan as Plan
    from scaling.laws import Prediction as Prediction
    from scaling.laws import compare as compare
    from scaling.laws import holdout as holdout
    from scaling.laws import load as load
    from scaling.laws import plan as plan
    from scaling.laws import rolling as rolling

_OF_LAWS = ("Fit", "Plan", "Prediction", "compare", "fit", "holdout", "load", "plan", "rolling")


def __getattr__(name: str) -> Any:
    if name != "laws" and name not in _OF_LAWS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    laws = importlib.import_module("scaling.laws")
    found = globals()[name] = laws if name == "laws" else getattr(laws, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), "laws", *_OF_LAWS})
