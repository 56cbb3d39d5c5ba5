"""Splicing: a thought without the segments that do not help it, as completions of what is left tell.

A trace is segmented, and every segment is tried: if completions from the trace without it are right as often as those
with it, it goes. Traces that were spliced are preferred to what they were (An et al. 2025, arXiv:2505.21765, who also
look for the place where a thought may end, and have a language model say which segments to try).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from models.errors import require

# numbers of traces [n], each with the beginning of a completion [n] -> share of its completions that are right [n]
Success = Callable[[Sequence[int], Sequence[str]], np.ndarray]


def segments(text: str, marks: str) -> list[str]:
    """A text cut after each of these characters; joined they are the text."""
    require(bool(marks), "marks", "are none", "give the characters that end a segment")
    found, start = [], 0
    for place, character in enumerate(text, 1):
        if character in marks:
            found.append(text[start:place])
            start = place
    return [*found, text[start:]] if start < len(text) else found


def spliced(traces: Sequence[Sequence[str]], success: Success) -> list[list[str]]:
    """The segments of each trace that stay, from left to right.

    A segment stays where success falls without it: completions of what stayed before and the segment after it, against
    the same with it between them. The last one stays. `success` is asked twice for each place, of all traces that have
    one, so that an engine draws them at once; it should draw both with the same random numbers.
    """
    kept: list[list[str]] = [[] for _ in traces]
    for place in range(max(map(len, traces), default=0)):
        asked = [i for i, trace in enumerate(traces) if place < len(trace) - 1]
        following = [traces[i][place + 1] for i in asked]
        before = ["".join(kept[i]) for i in asked]
        if not asked:
            break
        whole = [b + traces[i][place] + after for b, i, after in zip(before, asked, following, strict=True)]
        without = success(asked, [b + after for b, after in zip(before, following, strict=True)])
        fallen = np.asarray(without) < np.asarray(success(asked, whole))
        for i, helps in zip(asked, fallen, strict=True):
            kept[i] += [traces[i][place]] * bool(helps)
    return [[*stays, *trace[-1:]] for stays, trace in zip(kept, traces, strict=True)]
