"""What a trial is: an id that depends on every field that its result depends on, and on nothing else."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.channels.experts import Experts
from models.config import ModelConfig, RopeScaling
from models.errors import ConfigError
from models.layer import Layer
from models.serialize import field_types, from_json, to_json
from models.sharding import MeshConfig
from models.wiring.prenorm import PreNorm
from scaling.data import DataConfig, Source
from scaling.sweep.combinators import grid
from scaling.sweep.config import SweepConfig
from scaling.sweep.trial import BOOKKEEPING, Trial, override
from scaling.train.adaptation import SparseLowRank
from scaling.train.config import TrainConfig
from scaling.train.evaluations import Evaluations
from scaling.train.objectives import Completions

REPOSITORY = Path(__file__).resolve().parents[3]
OTHER = {  # for fields whose other values must fit the rest of the config
    "model.mup_base_width": 64,
    "model.n_kv_heads": 2,
    "data.source": None,
    "data.path": None,
    "data.field": None,
    "data.prompt_field": None,
    "data.loss_mask": None,
    "data.tokenizer": "x.json",
    "data.vocab_size": 256,
    "data.root": "/x",
    "data.end_of_document": None,
    "data.mixture": (Source(weight=2.0),),
    "model.n_heads": 2,
    "model.mup_base_head_dim": None,
    "model.rope_theta_local": None,
    "model.rope_scaling": RopeScaling("linear", 2.0),
    "model.partial_rotary_factor": 0.5,
    "model.layer_types": ("sliding", "full"),
    "model.moe": Experts(),
    "model.pattern": (Layer(),),
    "model.prologue": None,  # only beside a pattern
    "data.rejected_field": None,  # only beside a source with fields
    "model.wiring": PreNorm(after=True),
    "model.embedding_gradient": 0.5,
    "train.accumulate": 2,
    "train.zero": 2,
    "train.objective": Completions(),
    "train.trains": SparseLowRank(),
    "train.evaluations": Evaluations(("choice.modular:items=20",)),
}


def other_value(path: str, value: object, annotation: object) -> object:
    """A valid value of a field that differs from `value`."""
    if path in OTHER:
        return OTHER[path]
    choices = [c for c in typing.get_args(annotation) if not isinstance(c, type)]
    if isinstance(value, str) and choices:
        return next(c for c in choices if c != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, float) and value < 1:
        return value / 2
    if isinstance(value, int | float):
        return value * 2 if value else value + 1
    kind = next(k for k in typing.get_args(annotation) if k is not type(None))
    return {str: "x", int: 4, float: 0.5, bool: True}[kind]


def fields() -> list[tuple[str, object]]:
    """(dotted field, other value) of every field of a trial that can change alone."""
    trial, found = Trial(), []
    for group, cls in (("model", ModelConfig), ("data", DataConfig), ("train", TrainConfig)):
        for name, annotation in field_types(cls).items():
            path, value = f"{group}.{name}", getattr(getattr(trial, group), name)
            if OTHER.get(path, 0) is not None:
                found.append((path, other_value(path, value, annotation)))
    return [*found, ("threads", 2), ("mesh.data", 2)]


@pytest.mark.parametrize(("path", "value"), fields())
def test_the_id_depends_on_every_field_but_the_bookkeeping(path, value):
    changed = override(Trial(), {path: value})
    assert (changed.id == Trial().id) == (path in BOOKKEEPING)


@pytest.mark.parametrize("changes", [{"source": "text", "path": "a"}, {"source": "text", "path": "b"}])
def test_the_id_depends_on_fields_that_change_together(changes):
    assert Trial(data=DataConfig(**changes)).id != Trial().id
    prompts = DataConfig(source="jsonl", path="a", prompt_field="p")
    masked = dataclasses.replace(prompts, loss_mask="completion")
    assert len({Trial(data=data).id for data in (DataConfig(**changes), prompts, masked)}) == 3


def test_a_derived_field_written_out_is_the_same_trial():
    assert Trial(ModelConfig()).id == Trial(ModelConfig(n_kv_heads=4, head_dim=32, d_ff=344)).id


@given(st.floats(1e-6, 1e3), st.integers(1, 10**9), st.integers(0, 2**32 - 1))
def test_a_trial_read_from_its_json_has_the_same_id(rate, steps, seed):
    trial = Trial(train=TrainConfig(learning_rate=rate, steps=steps, seed=seed)).resolved()
    again = from_json(Trial, json.loads(json.dumps(to_json(trial))))
    assert again == trial and again.id == trial.id


def test_ids_are_the_same_in_another_process():
    trials = SweepConfig(points=tuple(grid({"train.learning_rate": [1e-3, 3e-3]})), seeds=2).trials()
    code = (
        "from scaling.sweep.config import SweepConfig; from scaling.sweep.combinators import grid\n"
        "points = tuple(grid({'train.learning_rate': [1e-3, 3e-3]}))\n"
        "print([t.id for t in SweepConfig(points=points, seeds=2).trials()])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True)
    assert done.stdout.strip() == str([t.id for t in trials]), done.stderr


def test_ids_are_those_that_run_directories_already_hold():
    assert Trial().id == "742659f3d152"
    data = DataConfig(source="text", path="books", cache_dir="c")
    assert Trial(data=data, train=TrainConfig(log_every=7, init_from="runs/a")).id == "ee809d5cfe2f"


def test_a_sweep_writes_down_where_its_relative_paths_start_and_keeps_its_ids(tmp_path, monkeypatch):
    data = DataConfig(source="jsonl", path="a", tokenizer="t.json", cache_dir="c")
    sweep = SweepConfig(data=data, train=TrainConfig(init_from="runs/a"))
    anchored = sweep.anchored(tmp_path)
    assert [t.id for t in anchored.trials()] == [t.id for t in sweep.trials()] and anchored.anchored(
        Path("/")
    ) == anchored
    monkeypatch.chdir("/")
    (trial,) = anchored.trials()
    placed = trial.data.placed()
    assert [placed.path, placed.tokenizer, placed.cache_dir, trial.init_from] == [
        str(tmp_path / name) for name in ("a", "t.json", "c", "runs/a")
    ]
    monkeypatch.chdir(tmp_path)
    assert trial.data.placed() == trial.data and trial.init_from == "runs/a"  # messages say what the user wrote
    mixed = DataConfig(mixture=(Source("text", "b"), Source("text", "/c"), Source("task", "countdown")))
    monkeypatch.chdir("/")
    places = dataclasses.replace(mixed, root=str(tmp_path)).placed().mixture
    assert [source.path for source in places] == [str(tmp_path / "b"), "/c", "countdown"]
    assert SweepConfig().anchored(tmp_path) == SweepConfig()
    assert SweepConfig(points=({"train.init_from": "a"},)).anchored(tmp_path).data.root == str(tmp_path)


def test_a_sweep_repeats_every_point_with_consecutive_seeds_and_drops_repeated_trials():
    points = ({"train.steps": 5}, {"train.steps": 6}, {"train.steps": 5})
    trials = SweepConfig(points=points, seeds=3, train=TrainConfig(seed=10)).trials()
    assert [(t.train.steps, t.train.seed) for t in trials] == [(s, 10 + i) for s in (5, 6) for i in range(3)]
    assert [t.train for t in SweepConfig().trials()] == [TrainConfig()]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model.d_modle", 8, "model.d_modle: no such field: did you mean model.d_model?"),
        ("trian.steps", 8, "trian: no such field: did you mean train?"),
        ("train.steps.x", 8, "train.steps: is 1000, not a group of fields: set train.steps itself"),
        ("train.step", 8, "train.step: no such field: did you mean train.steps?"),
        ("thread", 1, "thread: no such field: did you mean threads?"),
        ("train.steps", 0, "train.steps: is 0: give a positive integer"),
        ("model.n_heads", 3, "model.n_heads: 3 heads do not divide d_model 128: use one of"),
    ],
)
def test_an_override_that_is_wrong_names_the_field_and_the_near_one(path, value, words):
    with pytest.raises(ConfigError) as caught:
        override(Trial(), {path: value})
    assert str(caught.value).startswith(words)


def test_fields_that_need_each_other_change_at_once():
    assert override(Trial(), {"model.d_model": 10, "model.n_heads": 5}).model.n_heads == 5
    assert override(Trial(), {"model.n_heads": 5, "model.d_model": 10}).model.d_model == 10


def test_a_sequence_longer_than_the_position_table_is_refused():
    with pytest.raises(ConfigError, match=r"train\.seq_len: 256 tokens do not fit the 64 learned positions: lower"):
        Trial(ModelConfig(positions="learned", max_seq_len=64))


def test_stages_imply_stacked_layers():
    staged = Trial(mesh=MeshConfig(stage=2), train=TrainConfig(batch_size=16))
    assert staged.model.scan_layers and staged == override(staged, {"model.scan_layers": True})
    assert staged.id == Trial(ModelConfig(scan_layers=True)).id


def test_a_vocabulary_that_a_mesh_does_not_divide_is_to_be_padded():
    with pytest.raises(ConfigError, match=r"301 tokens do not divide over tensor=2: pad it: set .*=384"):
        Trial(ModelConfig(vocab_size=301), mesh=MeshConfig(tensor=2))
    Trial(ModelConfig(vocab_size=384), mesh=MeshConfig(tensor=2))
