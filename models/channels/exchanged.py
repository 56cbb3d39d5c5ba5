"""Exchanged: what a channel sends between devices, as the estimates of traffic want it."""

from __future__ import annotations

from typing import NamedTuple


class Exchanged(NamedTuple):
    """Collectives over the mesh axis `expert` in one forward pass, and as many of the same size in the backward pass.

    kind: of collective, as XLA calls it. elements: of the whole array that a group has or makes together. times: per
    forward pass.
    """

    kind: str
    elements: int
    times: int
    purpose: str
