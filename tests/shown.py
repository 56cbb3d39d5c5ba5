"""Compare output that a document shows with what its code prints now."""

from __future__ import annotations

import re

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
# Rounding differs between processors: gradients at an optimum are noise, and a start may just miss it.
UNSTABLE = re.compile(r"\d+% of \d+ starts agree\w*|gradient(?:_norm)? +\S+|agreed +\S+|condition +\S+")
RELATIVE, ABSOLUTE = 0.05, 1e-3  # catches stale output, not rounding: one run of 60 may cross the end of an interval


def difference(shown: str, printed: str) -> str:
    """The first difference in words or numbers; empty when the two texts say the same."""
    texts = [UNSTABLE.sub("", text) for text in (shown, printed)]
    words = [NUMBER.sub(" # ", text).split() for text in texts]
    if words[0] != words[1]:
        pairs = zip([*words[0], "the end"], [*words[1], "the end"])
        return next(f"shows {a!r}, prints {b!r}" for a, b in pairs if a != b)
    for a, b in zip(*(NUMBER.findall(text) for text in texts)):
        if abs(float(a) - float(b)) > max(RELATIVE * abs(float(b)), ABSOLUTE):
            return f"shows {a}, prints {b}"
    return ""
