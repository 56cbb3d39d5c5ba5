"""A checkpoint under another trial's directory is not taken for that trial's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.config import ModelConfig
from models.errors import ConfigError
from models.serialize import to_json
from scaling.sweep.parameters import check_parameters
from scaling.sweep.trial import Trial, override
from scaling.train.checkpoint import Checkpoints

ONE = Trial(model=ModelConfig(d_model=8, n_layers=1, n_heads=2)).resolved()
OTHER = override(ONE, {"train.seed": 1})  # of equal shapes


def written(folder: Path, trial: Trial) -> Path:
    path = folder / trial.id
    with Checkpoints(path / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(3, {"params": {"w": np.zeros(2)}}, {"config": to_json(trial), "manifest": {}})
    (path / "config.json").write_text(json.dumps(to_json(trial)))
    return path


def test_swapped_checkpoints_of_equal_shapes_are_refused(tmp_path: Path) -> None:
    one, other = written(tmp_path, ONE), written(tmp_path, OTHER)
    check_parameters(one, "--checkpoint")
    check_parameters(other, "--checkpoint")
    shutil.rmtree(one / "checkpoints")
    shutil.copytree(other / "checkpoints", one / "checkpoints")
    with pytest.raises(ConfigError, match=rf"--checkpoint: .* holds the parameters of trial {OTHER.id}, .* {ONE.id}"):
        check_parameters(one, "--checkpoint")


def test_bookkeeping_and_the_name_of_the_folder_say_nothing_of_whose_parameters_they_are(tmp_path: Path) -> None:
    one = written(tmp_path, ONE)
    moved = override(ONE, {"train.log_every": 7, "data.cache_dir": "elsewhere"})
    (one / "config.json").write_text(json.dumps(to_json(moved)))
    check_parameters(one.rename(tmp_path / "best"), "--checkpoint")
    check_parameters(tmp_path / "nothing", "--checkpoint")
