"""Layer: a mixer and a channel; and which layers repeat, so that a scan runs over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from models.channels import Channel
from models.channels.dense import Dense
from models.mixers import Mixer
from models.mixers.attention import Attention


@dataclass(frozen=True)
class Layer:
    """How tokens read each other, and how each is transformed alone after that (None: it is not)."""

    mixer: Mixer = Attention()
    channel: Channel | None = Dense()

    @property
    def parts(self) -> tuple[Any, ...]:
        """Both, in order."""
        return (self.mixer,) if self.channel is None else (self.mixer, self.channel)


class Repeats(NamedTuple):
    """Layers `first`, `first` + 1, ... come in `groups` groups of `period` that are alike: what a scan runs over.

    The layers before them and those after, which are no whole group, are unrolled. together: all layers of the model
    declare the same weights, so that these lie in one stack whatever the period.
    """

    first: int
    period: int
    groups: int
    together: bool

    @property
    def stop(self) -> int:
        """The first layer after them."""
        return self.first + self.period * self.groups

    def layers(self, position: int) -> range:
        """The layers at one position of the groups."""
        return range(self.first + position, self.stop, self.period)
