"""A trial as a folder of Hugging Face, and a refusal where no family has its shape."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from launch import cli, export
from models import presets, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.huggingface import import_model
from models.huggingface.config import write_config
from models.serialize import to_json
from scaling.data import ByteTokenizer
from scaling.train.checkpoint import Checkpoints, load_params
from tests.scaling.sweep import tiny

PRESETS = {name: value for name, value in vars(presets).items() if isinstance(value, ModelConfig)}


def trial(root: Path, model: ModelConfig) -> Path:
    """The directory of a finished trial of this model, with random parameters."""
    one = tiny.override(tiny.trial(root), {"model": model.resolved()})
    path = root / "trials" / one.id
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(to_json(one)))
    with Checkpoints(path / "checkpoints") as checkpoints:
        params = transformer.init(model.resolved(), jax.random.key(0))
        checkpoints.save(1, {"params": params}, {"config": to_json(one)})
    return path


def test_an_exported_trial_has_its_parameters_and_its_tokenizer(tmp_path, capsys):
    model = ModelConfig(d_model=16, n_layers=1, n_heads=2, d_ff=32)
    source = trial(tmp_path, model)
    out = tmp_path / "out"
    code = cli.execute(export.main, export.FLAGS, export.__doc__, [f"--checkpoint={source}", f"--out={out}"])
    assert code == 0 and capsys.readouterr().out.startswith(f"{out}: ")
    read, params, tokenizer = import_model(out)
    tokens = ByteTokenizer().encode("some text")[None]
    assert json.loads((out / "config.json").read_text())["model_type"] == "llama"
    assert tokenizer.encode("some text").tolist() == tokens[0].tolist()
    assert read.resolved().d_ff == 32 and jax.tree.structure(params) == jax.tree.structure(load_params(source))
    assert jax.tree.all(jax.tree.map(np.array_equal, params, load_params(source)))


def test_a_trial_of_no_family_is_refused_with_the_field_and_leaves_no_folder(tmp_path, capsys):
    source, out = trial(tmp_path, presets.ladder(16, n_layers=1)), tmp_path / "out"
    code = cli.execute(export.main, export.FLAGS, export.__doc__, [f"--checkpoint={source}", f"--out={out}"])
    line = capsys.readouterr().err
    assert code == 2 and line.startswith("error: model.activation: 'gelu' cannot be expressed by ") and not out.exists()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_family_or_a_refusal_that_names_the_field(name):
    try:
        family, written = write_config(PRESETS[name])
    except ConfigError as error:
        assert error.field.startswith("model.") and "cannot be expressed by" in error.problem
    else:
        assert written["model_type"] == family.model_type
