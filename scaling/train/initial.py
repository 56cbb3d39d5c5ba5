"""train.init_from: the final parameters of one trial as the start of another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.weight import walk
from scaling.train.checkpoint import NoCheckpoint, load_params


def load_initial(trial_directory: str | Path, model: ModelConfig) -> tuple[dict[str, Any], str]:
    """(params, digest): numpy leaves in the form of models.transformer.init, and the sha256 of all of them.

    Raises:
      ConfigError: the trial has no final parameters, or a weight of another shape or dtype than `model` declares.
    """
    try:
        params = load_params(trial_directory)
    except NoCheckpoint:
        fix = "name the directory of a finished trial, as in runs/x/trials/0123456789ab"
        raise ConfigError("train.init_from", f"{trial_directory} holds no final parameters", fix) from None
    found = {"/".join(path): leaf for path, leaf in flatten_dict(params).items()}
    wanted = {"/".join(path): weight.shape for path, weight in walk(transformer.weights(model.resolved()))}
    for name in sorted(found.keys() | wanted.keys()):
        given = _form(found[name].shape, found[name].dtype) if name in found else "nothing"
        needed = _form(wanted[name], model.param_dtype) if name in wanted else "nothing"
        if given != needed:
            problem = f"{name} is {given} in {trial_directory} and {needed} in this model"
            raise ConfigError("train.init_from", problem, "give model.* the values of that trial's config.json")
    total = hashlib.sha256()
    for name, leaf in sorted(found.items()):
        total.update(f"{name}\0{_form(leaf.shape, leaf.dtype)}\0".encode() + np.ascontiguousarray(leaf).tobytes())
    return params, total.hexdigest()


def _form(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"
