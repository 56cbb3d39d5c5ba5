"""Units of numeric answers: SI factors, so that 1.5 km and 1500 m are one answer."""

from __future__ import annotations

import re

from models.errors import ConfigError, nearest

# unit -> (dimension, factor to the SI unit of it)
UNITS: dict[str, tuple[str, float]] = {
    "": ("1", 1.0), "%": ("1", 0.01),
    "m": ("length", 1.0), "km": ("length", 1e3), "cm": ("length", 1e-2), "mm": ("length", 1e-3),
    "um": ("length", 1e-6), "nm": ("length", 1e-9),
    "kg": ("mass", 1.0), "g": ("mass", 1e-3), "mg": ("mass", 1e-6), "t": ("mass", 1e3),
    "s": ("time", 1.0), "ms": ("time", 1e-3), "us": ("time", 1e-6), "ns": ("time", 1e-9),
    "min": ("time", 60.0), "h": ("time", 3600.0),
    "m/s": ("speed", 1.0), "km/h": ("speed", 1 / 3.6), "cm/s": ("speed", 1e-2), "km/s": ("speed", 1e3),
    "m/s^2": ("acceleration", 1.0),
    "N": ("force", 1.0), "kN": ("force", 1e3),
    "J": ("energy", 1.0), "kJ": ("energy", 1e3), "MJ": ("energy", 1e6), "eV": ("energy", 1.602176634e-19),
    "W": ("power", 1.0), "kW": ("power", 1e3), "MW": ("power", 1e6),
    "Pa": ("pressure", 1.0), "kPa": ("pressure", 1e3), "MPa": ("pressure", 1e6), "bar": ("pressure", 1e5),
    "V": ("voltage", 1.0), "mV": ("voltage", 1e-3), "kV": ("voltage", 1e3),
    "A": ("current", 1.0), "mA": ("current", 1e-3),
    "ohm": ("resistance", 1.0), "kohm": ("resistance", 1e3),
    "C": ("charge", 1.0), "Hz": ("frequency", 1.0), "kHz": ("frequency", 1e3), "MHz": ("frequency", 1e6),
    "K": ("temperature", 1.0), "mol": ("amount", 1.0), "m^2": ("area", 1.0), "m^3": ("volume", 1.0),
    "L": ("volume", 1e-3), "mL": ("volume", 1e-6),
}  # fmt: skip
_NUMBER = r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][-+]?\d{1,3})?"
_FRACTION = rf"(?P<over>{_NUMBER})\s*/\s*(?P<under>\d{{1,40}})"
_WITH_UNIT = re.compile(
    rf"(?:{_FRACTION}|(?P<number>{_NUMBER}))(?:\s*(?P<unit>%|[A-Za-z]+(?:\^\d)?(?:/[A-Za-z]+(?:\^\d)?)?))?"
)


def unit_of(name: str) -> tuple[str, float]:
    """(dimension, factor) of a unit; ConfigError for one that is not known."""
    if name not in UNITS:
        match = nearest(name, UNITS)
        raise ConfigError(
            "gold.unit", f"{name!r} is not known", f"did you mean {match!r}?" if match else "use SI units"
        )
    return UNITS[name]


def last_number(text: str) -> tuple[float, str] | None:
    """(value, unit as written, "" where there is none) of the last number of a text: 3, -1.5e3 km, 3/4, 20 %.

    A fraction is one number where its denominator is not 0. None where there is no number.
    """
    found = None
    for match in _WITH_UNIT.finditer(text):
        unit = match["unit"] or ""
        if match["over"] is None:
            found = float(match["number"]), unit
        elif float(match["under"]):
            found = float(match["over"]) / float(match["under"]), unit
    return found
