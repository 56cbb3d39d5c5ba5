"""Adaptation: which weights train.

adaptation.py   what a part says: declarations of what trains, the params that they make with a base, FLOPs
masks.py        everything, or weights by name (BitFit)
prefix.py       keys and values before every layer's own (prefix tuning), or prompt tokens that make them
products.py     parts around frozen matrices (LoRA, (IA)^3, adapters)
sparse.py       low rank plus sparse, from scratch (SLTrain)
rounded.py      everything, with products of few bits (FP8)
"""

from scaling.train.adaptation.adaptation import Adaptation
from scaling.train.adaptation.masks import Everything, Only
from scaling.train.adaptation.prefix import Prefix, Prompt, with_prefix
from scaling.train.adaptation.products import Bottleneck, Gains, LowRank
from scaling.train.adaptation.rounded import LowPrecision
from scaling.train.adaptation.sparse import SparseLowRank

AnyAdaptation = Everything | Only | Prefix | Prompt | LowRank | Gains | Bottleneck | SparseLowRank | LowPrecision

__all__ = [
    "Adaptation",
    "AnyAdaptation",
    "Bottleneck",
    "Everything",
    "Gains",
    "LowPrecision",
    "LowRank",
    "Only",
    "Prefix",
    "Prompt",
    "SparseLowRank",
    "with_prefix",
]
