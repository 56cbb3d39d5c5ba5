"""How accuracy rises with inference compute. This file is the package's table of contents.

Names load on first use, so that a command line can read a config without importing jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.engine.config import EngineConfig
    from search.engine.engine import Engine
    from search.engine.request import Completion, Request
    from search.engine.sampling import Sampling
    from search.engine.speculative import Speculation, SpeculativeEngine
    from search.ledger import Ledger
    from search.policy import Policy, load_policy

_HOME = {
    "Engine": "search.engine.engine",  # many samples of many prompts at once, each as if it ran alone
    "EngineConfig": "search.engine.config",  # its static shapes and numerics
    "Request": "search.engine.request",  # samples of one prompt
    "Completion": "search.engine.request",  # one finished sample
    "Sampling": "search.engine.sampling",  # how tokens are drawn
    "SpeculativeEngine": "search.engine.speculative",  # the same samples' distribution with fewer calls of the model
    "Speculation": "search.engine.speculative",  # how it drafts
    "Ledger": "search.ledger",  # what everything cost
    "Policy": "search.policy",  # a trained model with its tokenizer
    "load_policy": "search.policy",  # a trial's directory or a Hugging Face folder -> Policy
}

__all__ = ["Completion", "Engine", "EngineConfig", "Ledger", "Policy", "Request", "Sampling",
           "Speculation", "SpeculativeEngine", "load_policy"]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
