"""Lent: a layer's past that also has what earlier layers read, for layers that keep nothing of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from models.context import Lead
from models.errors import require
from models.kept import Kept
from models.past import Arrays, Past, Read, Step, keys_and_values
from models.span import Span

MEMORY = "memory"  # what a mixer that carries a state read out of it, by the name of `takes`


@dataclass(frozen=True)
class Lent(Past):
    """`own` past of a layer, and beside it `given` `[batch, seq, features]`: of what is asked for, the last that a
    layer attended to (k, v) or read out of a state (memory). It notes what the layer itself does.

    source: the past of the layer whose k and v these are, before they were written to it.
    """

    positions: jax.Array
    own: Past
    given: Mapping[str, jax.Array]
    source: Past
    keeps: bool = True

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, Lent]:  # fmt: skip
        """As `own` does; k and v of the new tokens are lent from here on."""
        besides: dict[str, Any] = {} if lead is None else {"lead": lead}
        y, own = self.own.attend(q, new, span, read, **besides)
        if "k" not in self.given or not {"k", "v"} <= set(new):
            return y, dataclasses.replace(self, own=own)
        return y, self._lending(own, {name: new[name] for name in ("k", "v")}, self.own)

    def carry(self, step: Step, inputs: Any, kept: Mapping[str, Kept], size: int) -> tuple[Any, Lent]:
        """As `own` does; what comes out is lent from here on."""
        y, own = self.own.carry(step, inputs, kept, size)
        if MEMORY not in self.given:
            return y, dataclasses.replace(self, own=own)
        return y, self._lending(own, {MEMORY: y}, self.source)

    def _lending(self, own: Past, new: Mapping[str, jax.Array], source: Past) -> Lent:
        flat = {name: x.reshape(*x.shape[:2], -1) for name, x in new.items()}
        for name, x in flat.items():
            asked = self.given[name].shape[-1]
            problem = f"hands on {x.shape[-1]} features of {name}, but a later layer reads {asked}"
            require(x.shape[-1] == asked, "model.wiring", problem, "give both layers as many")
        return dataclasses.replace(self, own=own, given={**self.given, **flat}, source=source)

    def again(self, q: jax.Array, span: Span, kv_heads: int) -> jax.Array:
        """The source's past is asked once more with the keys and values that it was asked with: a past is not written
        in place, so that what the new tokens kept there is as it was."""
        new = {name: (x := self.given[name]).reshape(*x.shape[:2], kv_heads, -1) for name in ("k", "v")}
        return self.source.attend(q, new, span)[0]

    @property
    def memory(self) -> jax.Array:
        """What the last layer with a state read out of it."""
        return self.given[MEMORY]
