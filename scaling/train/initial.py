"""train.init_from: the final parameters of one trial as the start of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.weight import walk
from scaling.train.checkpoint import NoCheckpoint, digest, load, load_like, table


def load_initial(
    trial_directory: str | Path, model: ModelConfig, field: str = "train.init_from", shardings: Any = None,
    step: int | None = None,
) -> tuple[dict[str, Any], str]:  # fmt: skip
    """(params, digest): leaves in the form of models.transformer.init, and the digest of the checkpoint they are from.

    field: what an error names.
    shardings: of the parameters, in their structure; each process then reads the shards of its own devices only.
        None: numpy leaves.
    step: whose parameters; None: the newest.

    Raises:
      ConfigError: the trial has no final parameters, or a weight of another shape or dtype than `model` declares.
    """
    try:
        check_initial(trial_directory, model, field, step)
        checkpoints = Path(trial_directory) / "checkpoints"
        if shardings is None:
            loaded = load(checkpoints, step, subtree="params")
            return loaded.state, digest(checkpoints, loaded.step)
        shapes = {path: weight.shape for path, weight in walk(transformer.weights(model.resolved()))}
        places = flatten_dict(shardings)
        dtype = np.dtype(model.param_dtype)
        abstract = {p: jax.ShapeDtypeStruct(shape, dtype, sharding=places[p]) for p, shape in shapes.items()}
        loaded = load_like(checkpoints, unflatten_dict(abstract), step, subtree="params")
        return loaded.state, digest(checkpoints, loaded.step)
    except NoCheckpoint:
        if step is not None:  # it says which steps there are
            raise
        raise _nothing(trial_directory, field) from None


def check_initial(
    trial_directory: str | Path, model: ModelConfig, field: str = "train.init_from", step: int | None = None
) -> None:
    """Refuse what `load_initial` would refuse, without reading an array.

    Raises:
      ConfigError: see there; damaged arrays are only noticed when they are read.
    """
    try:
        found = table(Path(trial_directory) / "checkpoints", step, subtree="params")
    except NoCheckpoint:
        if step is not None:
            raise
        raise _nothing(trial_directory, field) from None
    wanted = {"/".join(path): weight.shape for path, weight in walk(transformer.weights(model.resolved()))}
    for name in sorted(found.keys() | wanted.keys()):
        given = _form(found[name].shape, found[name].dtype) if name in found else "nothing"
        needed = _form(wanted[name], model.param_dtype) if name in wanted else "nothing"
        if given != needed:
            problem = f"{name} is {given} in {trial_directory} and {needed} in this model"
            raise ConfigError(field, problem, "give model.* the values of that trial's config.json")


def _nothing(trial_directory: str | Path, field: str) -> ConfigError:
    fix = "name the directory of a finished trial, as in runs/x/trials/0123456789ab"
    if any(Path(trial_directory).glob("checkpoints/*")):
        problem = f"the parameters in {Path(trial_directory) / 'checkpoints'} are damaged"
        return ConfigError(field, problem, "restore them, or delete the trial's directory and run its sweep again")
    return ConfigError(field, f"{trial_directory} holds no final parameters", fix)


def _form(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"
