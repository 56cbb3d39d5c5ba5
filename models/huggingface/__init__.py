"""Hugging Face checkpoints in and out: a folder of config.json, safetensors and tokenizer.json <-> config and params.

A family is one file in `families` and one entry in its list. Names load on first use, so that a tokenizer can be read
without importing jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.huggingface.exports import export_model
    from models.huggingface.imports import import_config, import_model, import_weights

_HOME = {
    "import_model": "imports",  # folder -> config, params, tokenizer
    "import_weights": "imports",  # folder -> config, params
    "import_config": "imports",  # folder -> config
    "export_model": "exports",  # config, params -> folder
}

__all__ = ["export_model", "import_config", "import_model", "import_weights"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'models.huggingface' has no attribute {name!r}")
    return getattr(importlib.import_module(f"models.huggingface.{_HOME[name]}"), name)
