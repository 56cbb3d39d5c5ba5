"""How the layers' parts read and write the residual stream: one file per wiring, and `Wiring`, the union of them.

A wiring is a frozen dataclass, a `Residual`, with weights(stream, layer), the declarations of one layer with its parts'
among them, and apply(stream, layer, w, x, past, tokens) -> (x, past, routings), one entry per part that routes; tokens
are the ids `[batch, seq]` int32 that the model reads. What layers hand on is a tree of arrays `[batch, seq, ...]`;
`enter` and `leave` go from the stream to it and back.
"""

from __future__ import annotations

from models.wiring.deepnorm import DeepNorm
from models.wiring.ladder import Ladder
from models.wiring.parallel import Parallel
from models.wiring.prenorm import PreNorm
from models.wiring.shared import Shared
from models.wiring.streams import Streams

Wiring = PreNorm | Parallel | Ladder | Streams | DeepNorm | Shared

__all__ = ["DeepNorm", "Ladder", "Parallel", "PreNorm", "Shared", "Streams", "Wiring"]
