"""Every config field has the type that it says, and every number a bound, wherever the config was made."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import typing
from typing import Any

import numpy as np
import pytest

from launch.jobs import JobConfig
from models.channels import Experts
from models.channels.free import Free
from models.config import Layer, ModelConfig
from models.errors import ConfigError
from models.mixers import Attention
from models.rotary import RopeScaling, Rotary
from models.serialize import digest, field_types, members, to_json
from scaling.sweep.config import Prediction, SweepConfig
from scaling.sweep.isoflop import Isoflop
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig
from scaling.train.limits import Limits
from search.posttrain.config import PostTrainConfig
from search.strategies.best_of_n import BestOfN
from search.study import SearchSweepConfig

ISOFLOP = {"budgets": (1e9,), "widths": (8,)}


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (TrainConfig, {"steps": "100"}, "train.steps: '100' is not an integer: give an integer"),
        (ModelConfig, {"norm_eps": 1e300}, "model.norm_eps: is 1e+300: give at most 8.5e+37"),
        (BestOfN, {"samples": -1}, "best_of_n.samples: is -1: give a number that is not negative"),
        (TrainConfig, {"steps": True}, "train.steps: True is not an integer"),
        (TrainConfig, {"learning_rate": float("nan")}, "train.learning_rate: nan is not a finite number"),
        (TrainConfig, {"learning_rate": 1e-320}, "train.learning_rate: is 1e-320, which is 0 in float32"),
        (TrainConfig, {"learning_rate": 1e30}, "train.learning_rate: is 1e+30: give at most 1e+06"),
        (TrainConfig, {"log_every": 2**64}, "train.log_every: is 18,446,744,073,709,551,616"),
        (TrainConfig, {"batch_size": 10**9}, "train.batch_size: is 1,000,000,000: give at most 16,777,216"),
        (TrainConfig, {"schedule": "cosin"}, "train.schedule: 'cosin' is not one of cosine, wsd, constant: did"),
        (Isoflop, ISOFLOP | {"budgets": "1e9"}, "isoflop.budgets: '1e9' is not a list, each a finite number"),
        (Isoflop, ISOFLOP | {"min_steps": -1}, "isoflop.min_steps: is -1: give a positive number of steps"),
        (Isoflop, ISOFLOP | {"widths": (10**9,)}, "isoflop.widths: has 1000000000: give at most 1,048,576"),
        (Isoflop, ISOFLOP | {"widths": range(1, 10**4)}, "isoflop.widths: range(1, 10000) is not a list"),
        (Isoflop, ISOFLOP | {"widths": tuple(range(1, 5000))}, "isoflop.widths: has 4,999 entries: give at most 1,000"),
        (Prediction, {"widths": [-1]}, "prediction.widths: has -1: give widths from 1 to 1,048,576"),
        (Prediction, {"factor": 1e30}, "prediction.factor: is 1e+30: give at most 1e+06"),
        (Limits, {"rungs": (0.5, "x")}, "limits.rungs[1]: 'x' is not a finite"),
        (SweepConfig, {"seeds": 10**9}, "seeds: is 1,000,000,000: give at most 100,000"),
        (SweepConfig, {"workers": 10**9}, "workers: is 1,000,000,000: give at most 100,000"),
        (SweepConfig, {"points": ({},) * 500, "seeds": 500}, "seeds: make 250,000 trials: plan at most 100,000"),
        (SweepConfig, {"train": None}, "train: None is not a TrainConfig: give a TrainConfig"),
        (SweepConfig, {"priorities": {"train.steps=1": "high"}}, "priorities[train.steps=1]: 'high' is not an integer"),
        (SweepConfig, {"points": ({"data.seed": 1},)}, "points: set data.seed, which train.seed replaces"),
    ],
)
def test_a_value_of_another_type_or_beyond_its_bound_is_refused_by_name(cls, fields, message):
    with pytest.raises(ConfigError) as caught:
        cls(**fields)
    assert str(caught.value).startswith(message)


def reachable(root: Any) -> list[type]:
    """The config classes that a config of this class may hold, itself included."""
    found, rest = [], [root]
    while rest:
        one = rest.pop()
        if isinstance(one, type) and dataclasses.is_dataclass(one) and one not in found:
            found.append(one)
            rest += field_types(one).values()
        rest += typing.get_args(one)
    return found


def made(cls: type, **fields: Any) -> None:
    """A config of these fields and of what it must be given, in the model whose part it is."""
    for field in dataclasses.fields(cls):
        if field.default is field.default_factory is dataclasses.MISSING and field.name not in fields:
            kind = next(m for m in members(field_types(cls)[field.name]) if m is not type(None))
            first = {int: 2, float: 0.5, str: "x"}.get(kind) or typing.get_args(kind)[0]
            fields[field.name] = (8,) if typing.get_origin(kind) is tuple else first
    part, kind = cls(**fields), cls.__module__.split(".")[:2]
    if kind == ["models", "mixers"]:
        ModelConfig(pattern=(Layer(part),))
    elif kind == ["models", "wiring"]:
        ModelConfig(wiring=part)
    elif cls in (RopeScaling, Rotary):
        ModelConfig(**{"rope_scaling": part} if cls is RopeScaling else {"pattern": (Layer(Attention(rotary=part)),)})
    elif kind in (["models", "channels"], ["models", "routers"]):
        routed = {"free": part} if cls is Free else {"router": part} if kind[1] == "routers" else {}
        ModelConfig(pattern=(Layer(channel=Experts(**routed) if routed else part),))


def test_no_config_takes_a_number_beyond_every_size_or_a_text_that_no_file_can_hold() -> None:
    """In any field of any config of a sweep, a study, a post-training run or an inference job."""
    roots = (SweepConfig, Trial, SearchSweepConfig, PostTrainConfig, JobConfig)
    classes = dict.fromkeys(cls for root in roots for cls in reachable(root))
    assert len(classes) > 80
    beyond = {int: (2**70, -(2**70)), float: (1e300, 1e-320, math.nan, math.inf), str: ("a\ud800b",)}
    taken = []
    for cls in classes:
        for name, annotation in field_types(cls).items():
            kinds = members(annotation)
            values = [value for kind in beyond if kind in kinds for value in beyond[kind]]
            lists = {kind for m in kinds if typing.get_origin(m) is tuple for kind in members(typing.get_args(m)[0])}
            tokens = name in ("ends", "delimiters", "allowed", "forced")  # looked up in a vocabulary, which has a size
            values += [] if tokens else [(value,) for kind in beyond if kind in lists for value in beyond[kind]]
            for value in values:
                with contextlib.suppress(ConfigError):
                    made(cls, **{name: value})
                    taken.append((cls.__name__, name, value))
    assert not taken


def test_lists_and_numpy_numbers_become_what_the_fields_say_and_change_no_digest():
    plan = Isoflop(budgets=[1e9, np.float64(2e9)], widths=[np.int64(8), 16])
    assert plan == Isoflop(budgets=(1e9, 2e9), widths=(8, 16)) and type(plan.widths[0]) is int
    hash(plan)
    assert digest(TrainConfig(learning_rate=1, steps=1e3)) == digest(TrainConfig(learning_rate=1.0, steps=1000))
    sweep = SweepConfig(points=[{"train.learning_rate": np.float64(0.1), "train.seed": np.int64(3)}])
    assert json.loads(json.dumps(to_json(sweep)))["points"] == [{"train.learning_rate": 0.1, "train.seed": 3}]
