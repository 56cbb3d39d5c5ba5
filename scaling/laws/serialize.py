"""A fit as JSON: everything needed to predict and plan again, every float64 exactly (repr round-trips)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.errors import ConfigError
from scaling.laws.bootstrap import Draws
from scaling.laws.calibration import Calibration
from scaling.laws.certificate import Certificate
from scaling.laws.law import Law, Values
from scaling.laws.objectives import Objective

if TYPE_CHECKING:
    from scaling.laws.fit import Fit

FORMAT = 1
_FIX = "give the fit.json that a fit wrote"


def fit_to_json(fit: Fit) -> str:
    """The fit's data, parameters, certificate, draws and calibration (made now, so that reading it costs nothing)."""
    table = dataclasses.asdict(fit.table)
    document = {
        "format": FORMAT,
        "law": fit.law.name,
        "formula": fit.law.formula,
        "params": dict(fit.params),
        "derived": dict(fit.derived),
        "objective": dataclasses.asdict(fit.objective),
        "seed": fit.seed,
        "fixed": fit.fixed,
        "certificate": dataclasses.asdict(fit.certificate),
        "z": fit.z,
        "draws": None if fit.draws is None else dataclasses.asdict(fit.draws),
        "calibration": dataclasses.asdict(fit.calibrated),
        "table": table,
    }
    return json.dumps(document, default=_plain, indent=1, allow_nan=True)


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not serialisable")


def fit_from_json(source: str | Path, law: Law | None = None) -> Fit:
    """The fit in `source` (a path, or the text itself); ConfigError when it is not one."""
    from scaling.laws.fit import Fit, Table

    text, name = str(source), "fit"
    if not text.lstrip().startswith("{"):
        name = text
        try:
            text = Path(source).read_text()
        except OSError as error:
            raise ConfigError(name, f"cannot be read ({error.strerror})", _FIX) from None
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise KeyError(f"format {document['format']}")
        if law is None:
            from scaling.laws.catalogue import by_name

            law = by_name(document["law"])
        table: dict = {
            k: np.array(v) if isinstance(v, list) and k != "rows" else v for k, v in document["table"].items()
        }
        table["inputs"] = {k: np.array(v, float) for k, v in document["table"]["inputs"].items()}
        certificate: dict = {k: tuple(v) if isinstance(v, list) else v for k, v in document["certificate"].items()}
        draws = document["draws"]
        rolled: dict = {k: np.array(v) if isinstance(v, list) else v for k, v in document["calibration"].items()}
        return Fit(
            law,
            Values(document["params"]),
            Certificate(**certificate),
            Objective(**document["objective"]),
            Table(**table),
            np.array(document["z"]),
            None if draws is None else Draws(**{**draws, "z": np.array(draws["z"])}),
            document["seed"],
            document["fixed"],
            Calibration(**rolled),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ConfigError(name, f"is not a saved fit ({type(error).__name__}: {error})", _FIX) from None
