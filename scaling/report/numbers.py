"""How numbers read in a report: counts as 12.3k or 3.4M, FLOPs as 2.1e13, losses with four decimals, times in words."""

from __future__ import annotations

import math

MISSING = "–"
SUFFIXES = ("", "k", "M", "B", "T", "Q")


def _finite(x) -> bool:
    return isinstance(x, (int, float)) and math.isfinite(x)


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(x: float, digits: int = 3) -> str:
    """A count to `digits` significant figures with a suffix: 950, 12.3k, 3.4M, 1.4T."""
    x = float(x)
    if not _finite(x):
        return MISSING
    if x == 0:
        return "0"
    x = float(f"{x:.{digits - 1}e}")  # round first: 999,950 is 1M, not 1000k
    power = min(max(math.floor(math.log10(abs(x))) // 3, 0), len(SUFFIXES) - 1)
    return _trim(f"{x / 1000**power:.{digits}g}" if abs(x) < 1e18 else f"{x:.{digits - 1}e}") + SUFFIXES[power]


def scientific(x: float, digits: int = 3) -> str:
    """FLOPs and other quantities without a natural prefix: 2.1e13."""
    x = float(x)
    if not _finite(x):
        return MISSING
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    return f"{_trim(mantissa)}e{int(exponent)}"


def loss(x: float) -> str:
    """Nats per token, four decimals: differences below that are noise of the evaluation."""
    return f"{float(x):.4f}" if _finite(float(x)) else MISSING


def percent(fraction: float, signed: bool = False) -> str:
    """A fraction as percent with two significant figures below ten: 0.57 %."""
    value = 100 * float(fraction)
    if not _finite(value):
        return MISSING
    decimals = 2 if abs(value) < 9.995 else 1
    return f"{value:{'+' if signed else ''}.{decimals}f} %"


def level(fraction: float) -> str:
    """The level of an interval: 90 %, 99.5 %."""
    return f"{100 * float(fraction):.3g} %" if _finite(float(fraction)) else MISSING


def significant(x: float, digits: int = 4) -> str:
    """A parameter value to `digits` significant figures, scientific outside [1e-3, 1e6)."""
    x = float(x)
    if not _finite(x):
        return MISSING
    if x != 0 and not 1e-3 <= abs(x) < 1e6:
        return scientific(x, digits)
    return f"{x:.{digits}g}" if abs(x) < 10 ** (digits - 1) else f"{x:.0f}"


def ratio(x: float) -> str:
    """A compute ratio: 8x, 0.31x."""
    x = float(x)
    return f"{count(x, 2)}x" if _finite(x) else MISSING


def duration(seconds: float) -> str:
    """Seconds as 12.3 s, 3 min 20 s, 2 h 5 min."""
    seconds = float(seconds)
    if not _finite(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min"


def plural(n: int, singular: str, several: str | None = None) -> str:
    """1 run, 3 runs."""
    return f"{n:,} {singular if n == 1 else several or singular + 's'}"
