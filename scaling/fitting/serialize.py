"""Fits as JSON: everything needed to predict and plan again, every float64 exactly (repr round-trips)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import ConfigError
from scaling.fitting.bootstrap import Draws
from scaling.fitting.calibration import Calibration, axes
from scaling.fitting.certificate import Certificate
from scaling.fitting.fitted import Fitted
from scaling.fitting.law import Law, Values, by_name
from scaling.fitting.objectives import Objective
from scaling.fitting.table import Table

FORMAT = 2
TEXTS = ("rows", "notes", "doubts")
_FIX = "give the file that to_json wrote"


def write(kind: str, fields: Mapping[str, Any], path: str | Path | None = None) -> str:
    """The text of a document of this kind, its arrays as lists; written to `path` when given."""
    document = {"format": FORMAT, "kind": kind, **fields}
    text = json.dumps(document, default=_plain, indent=1, allow_nan=True)
    if path is not None:
        Path(path).write_text(text)
    return text


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not serialisable")


@contextlib.contextmanager
def reading(source: str | Path, kind: str) -> Iterator[dict[str, Any]]:
    """The document in `source` (a path, or the text itself).

    Raises ConfigError that names the file when it cannot be read, is of another kind, or is found incomplete or
    inconsistent while the caller takes it apart.
    """
    text, name = str(source), "fit"
    if not text.lstrip().startswith("{"):
        name = text
        try:
            text = Path(source).read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise ConfigError(name, f"cannot be read ({reason})", _FIX) from None
    try:
        document = json.loads(text)
        if document["format"] != FORMAT or document.get("kind", "fit") != kind:
            raise KeyError(f"format {document['format']} of kind {document.get('kind', 'fit')}")
        yield document
    except ConfigError:  # has its own words, such as for a law that is not known
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"is not a saved {kind} ({type(error).__name__}: {error})"
        raise ConfigError(name, what, _FIX) from None


def fields_of(fit: Fitted) -> dict[str, Any]:
    """The fit's data, parameters, certificate, draws and calibrations (made now, so that reading it costs nothing)."""
    fit.calibrate(axes(fit.table.inputs))
    return {
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
        "calibrations": {name: dataclasses.asdict(fit.calibrations[name]) for name in axes(fit.table.inputs)},
        "table": dataclasses.asdict(fit.table),
    }


def parts_of(document: Mapping[str, Any], law: Law | None = None) -> dict[str, Any]:
    """The fields of the fit in `fields_of`; `law` when it is not one of the catalogue. ValueError when parts are
    missing or do not belong together."""
    law = by_name(document["law"]) if law is None else law
    given = document["table"]
    table: dict = {k: np.array(v) if isinstance(v, list) and k not in TEXTS else v for k, v in given.items()}
    table |= {name: tuple(given[name]) for name in ("notes", "doubts")}
    table["inputs"] = {k: np.array(v, float) for k, v in given["inputs"].items()}
    certificate: dict = {k: tuple(v) if isinstance(v, list) else v for k, v in document["certificate"].items()}
    rolled = {name: Calibration(**one) for name, one in document["calibrations"].items()}
    draws = document["draws"]
    fit = Fitted(
        law,
        Values({name: float(document["params"][name]) for name in law.parameters}),
        Certificate(**certificate),
        Objective(**document["objective"]),
        Table(**table),
        np.array(document["z"], float),
        None if draws is None else Draws(**{**draws, "z": np.array(draws["z"], float)}),
        document["seed"],
        document["fixed"],
        rolled,
    )
    _check(fit)
    return {field.name: getattr(fit, field.name) for field in dataclasses.fields(fit)}


def _check(fit: Fitted) -> None:
    """Raise ValueError for a document whose parts do not fit each other."""
    size, t = len(fit.law.parameters), fit.table
    if fit.z.shape != (size,) or not np.isfinite(fit.z).all():
        raise ValueError(f"z has shape {fit.z.shape} or is not finite: {fit.law.name} has {size} parameters")
    if fit.draws is not None and (fit.draws.z.ndim != 2 or fit.draws.z.shape[1] != size):
        raise ValueError(f"draws have shape {fit.draws.z.shape}: {fit.law.name} has {size} parameters")
    columns = {**{name: t.inputs[name] for name in fit.law.inputs}, "measured": t.measured, "weights": t.weights}
    lengths = {name: len(column) for name, column in columns.items()}
    if len({*lengths.values(), len(t.axis), len(t.rows)}) > 1:
        raise ValueError(f"columns differ in length: {lengths}")
