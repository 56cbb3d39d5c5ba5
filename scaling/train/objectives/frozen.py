"""Frozen models: teachers and references, from a trial's directory or a Hugging Face folder."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from models import transformer
from models.config import ModelConfig
from models.errors import require
from models.serialize import from_json
from models.sharding import DEFAULT_RULES, weight_shardings
from scaling import kept
from scaling.train.objectives.objective import Frozen, Objective

FIX = "give the directory of a finished trial, as in runs/x/trials/0123456789ab, or a folder of a Hugging Face model"


def frozen_configs(
    objective: Objective, model: ModelConfig, paths: Mapping[str, str | None] | None = None
) -> dict[str, ModelConfig]:
    """The configs of what an objective reads, checked against the trained `model`; reads no weights.

    paths: where each lies as the working directory sees it; default as the objective says. None in the objective is
    what the run starts from: `model` itself.

    Raises:
      ConfigError: nothing is there, or it does not fit.
    """
    found = {}
    for name, path in objective.reads.items():
        place = path and (paths or {}).get(name, path)
        found[name] = model.resolved() if place is None else _config(place, f"train.objective.{name}")
    objective.check(model, found)
    return found


def load_frozen(
    objective: Objective, model: ModelConfig, paths: Mapping[str, str | None], mesh: Mesh | None = None
) -> tuple[dict[str, Frozen], dict[str, str]]:
    """(models by name, digests of where they are from); on a mesh each device holds its shards.

    paths: where each lies, as the working directory sees it.
    """
    from scaling.train.initial import load_initial  # which imports orbax, and configs that name no model need none

    models, digests = {}, {}
    for name, config in frozen_configs(objective, model, paths).items():
        field, path = f"train.objective.{name}", paths[name]
        require(path is not None, field, "is what the run starts from, which no train.init_from names", FIX)
        if _is_hugging_face(str(path), field):
            config, params, digests[name] = _hugging_face(str(path), model, mesh)
        else:
            weights = transformer.weights(config)
            shardings = weight_shardings(weights, DEFAULT_RULES, mesh) if mesh is not None and mesh.size > 1 else None
            params, digests[name] = load_initial(str(path), config, field, shardings)
        models[name] = Frozen(config, jax.tree.map(jnp.asarray, params))
    return models, digests


def _hugging_face(path: str, model: ModelConfig, mesh: Mesh | None) -> tuple[ModelConfig, Any, str]:
    from models.huggingface import import_weights

    config, params = import_weights(path, dtype=model.dtype, mesh=mesh if mesh is not None and mesh.size > 1 else None)
    total = hashlib.sha256()
    for file in sorted([Path(path) / "config.json", *Path(path).glob("*.safetensors")]):
        total.update(file.name.encode() + kept.file_digest(file))
    return config.resolved(), params, total.hexdigest()


def _written(path: str, field: str) -> dict[str, Any]:
    """The config.json of a folder."""
    require((Path(path) / "config.json").is_file(), field, f"{path} has no config.json", FIX)
    return kept.read(Path(path) / "config.json", dict)


def _is_hugging_face(path: str, field: str) -> bool:
    written = _written(path, field)
    return "model_type" in written or "architectures" in written


@functools.cache
def _config(path: str, field: str) -> ModelConfig:
    """The resolved config of a folder, read once in a process: planning asks for the FLOPs of every trial."""
    if _is_hugging_face(path, field):
        from models.huggingface import import_config

        return import_config(path).resolved()
    from scaling.train.initial import check_initial

    written = _written(path, field)
    require("model" in written, field, f"{path} is no trial and no model", FIX)
    config = from_json(ModelConfig, written["model"], "model").resolved()
    check_initial(path, config, field)
    return config
