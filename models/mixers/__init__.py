"""How tokens of a sequence read each other: one file per mixer, and `Mixer`, the union of them.

A mixer is a frozen dataclass with

    slot                            name of its weights in a layer, `slot_norm` being those of its norm
    resolved(stream)                itself with every field filled that it leaves None; ConfigError for what cannot be
    weights(stream)                 declarations of its weights
    kept(stream)                    name -> what it keeps of the past
    apply(stream, w, x, past)       -> (y, past, routing or None); x, y [batch, seq, d_model], w as declared
    flops(stream, seq, before, causal)    forward FLOPs of one sequence beside those of the weights, after `before`
                                    tokens; causal=False: those that a kernel without block skipping executes
    last                            name of the weight of its last product
    undivided                       mesh axes that cannot divide it: check_mesh refuses them with the layer's name
    takes(stream)                   of one that reads what earlier layers read (models.lent): name -> features
    block                           tokens of the blocks that its state is carried by (0: it keeps no state)

models.past says what a `Past` is; tests/models/test_parts.py what every mixer promises.
"""

from __future__ import annotations

from models.mixers.attention import Attention
from models.mixers.chunk_experts import ChunkExperts
from models.mixers.cross import Cross
from models.mixers.delta import Delta
from models.mixers.factored import Factored
from models.mixers.gated_memory import GatedMemory
from models.mixers.head_spans import HeadSpans, ShiftedWindows
from models.mixers.latent import Latent
from models.mixers.linear import Linear
from models.mixers.mamba2 import Mamba2
from models.mixers.mlgru import MLGRU
from models.mixers.mlstm import MLSTM
from models.mixers.prefixed import Prefixed
from models.mixers.rwkv7 import RWKV7
from models.mixers.sinks import Sinks
from models.mixers.streamed import Streamed
from models.mixers.third_order import ThirdOrder

Mixer = (
    Attention | ChunkExperts | Cross | Delta | Factored | GatedMemory | HeadSpans | Latent | Linear | Mamba2 | MLGRU
    | MLSTM | Prefixed | RWKV7 | ShiftedWindows | Sinks | Streamed | ThirdOrder
)  # fmt: skip

__all__ = [
    "MLGRU", "MLSTM", "RWKV7", "Attention", "ChunkExperts", "Cross", "Delta", "Factored", "GatedMemory", "HeadSpans",
    "Latent", "Linear", "Mamba2", "Mixer", "Prefixed", "ShiftedWindows", "Sinks", "Streamed", "ThirdOrder",
]  # fmt: skip
