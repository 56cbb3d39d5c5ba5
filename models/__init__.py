"""What is computed: pure functions of (config, params, inputs). This file is the package's table of contents.

Names load on first use, so that a command line can read a config without importing jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models import counts, presets
    from models.config import ModelConfig
    from models.errors import ConfigError
    from models.huggingface import export_model, import_model
    from models.sharding import MeshConfig, Rules, make_mesh, weight_shardings
    from models.transformer import Transformer, apply, init, loss, stack_layers, unstack_layers, weights
    from models.weight import Weight

_HOME = {
    "ModelConfig": "models.config",  # the shape and the numerics of one transformer
    "ConfigError": "models.errors",  # bad input: field, problem, fix
    "Weight": "models.weight",  # one declaration per parameter
    "weights": "models.transformer",  # config -> every declaration
    "init": "models.transformer",  # config, key -> params
    "apply": "models.transformer",  # config, params, tokens -> logits
    "loss": "models.transformer",  # config, params, tokens -> summed loss, summed weight
    "Transformer": "models.transformer",  # the linen module behind apply and loss
    "import_model": "models.huggingface",  # folder of a Hugging Face model -> config, params, tokenizer
    "export_model": "models.huggingface",  # config, params -> such a folder
    "stack_layers": "models.transformer",  # unrolled params -> scanned params
    "unstack_layers": "models.transformer",  # scanned params -> unrolled params
    "MeshConfig": "models.sharding",  # devices per mesh axis
    "Rules": "models.sharding",  # logical dim -> mesh axis
    "make_mesh": "models.sharding",  # MeshConfig, devices -> mesh
    "weight_shardings": "models.sharding",  # declarations, rules, mesh -> sharding of every weight
    "counts": "models",  # exact parameters, FLOPs and bytes
    "presets": "models",  # named shapes
}

__all__ = ["ConfigError", "MeshConfig", "ModelConfig", "Rules", "Transformer", "Weight", "apply", "counts",
           "export_model", "import_model", "init", "loss", "make_mesh", "presets", "stack_layers", "unstack_layers",
           "weight_shardings", "weights"]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    if _HOME[name] == "models":
        return importlib.import_module(f"models.{name}")
    return getattr(importlib.import_module(_HOME[name]), name)
