"""Where a way to spend compute at test time stands in the survey of Zhang et al. 2025 (arXiv:2503.24235).

What is scaled: samples side by side (parallel), one text after the other (sequential), both (hybrid), or what the
policy was trained to write by itself (internal). How: by tuning it (imitation, reinforcement) or at inference. Where:
what a problem must offer. How well: what it is for besides being right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

What = Literal["single", "parallel", "sequential", "hybrid", "internal"]
How = Literal["imitation", "reinforcement", "stimulation", "verification", "search", "aggregation"]
Where = Literal["any text", "answers", "steps", "thoughts", "threads"]
Well = Literal["accuracy", "efficiency", "controllability", "scalability"]


class Tags(NamedTuple):
    """what is scaled; how; where: any text, answers that compare, texts in steps, thoughts with an end, or threads that
    a policy opens; well: the measures that it is for."""

    what: What
    how: tuple[How, ...]
    where: Where
    well: tuple[Well, ...]


# Objectives of training after which a policy decides by itself how much it writes, by the names of their classes.
TRAINED: Mapping[str, Tags] = {
    "Completions": Tags("internal", ("imitation",), "any text", ("accuracy",)),
    "PolicyGradient": Tags("internal", ("reinforcement",), "answers", ("accuracy", "scalability")),
}


def matrix(tags: Mapping[str, Tags]) -> str:
    """The parts by their tags, as a Markdown table: one row for those that share all of them."""
    rows: dict[Tags, list[str]] = {}
    for name, one in tags.items():
        rows.setdefault(one, []).append(f"`{name}`")
    order = get_args(What)
    lines = ["| what | how | where | how well | which |", "|---|---|---|---|---|"]
    for one in sorted(rows, key=lambda tag: (order.index(tag.what), tag.how, tag.where)):
        how, well = ", ".join(one.how) or "-", ", ".join(one.well)
        lines.append(f"| {one.what} | {how} | {one.where} | {well} | {' '.join(rows[one])} |")
    return "\n".join(lines) + "\n"
