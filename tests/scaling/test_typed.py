"""Every config field has the type that it says, and every number a bound, wherever the config was made."""

from __future__ import annotations

import json

import numpy as np
import pytest

from models.errors import ConfigError
from models.serialize import digest, to_json
from scaling.sweep.config import Prediction, SweepConfig
from scaling.sweep.isoflop import Isoflop
from scaling.train.config import TrainConfig
from scaling.train.limits import Limits

ISOFLOP = {"budgets": (1e9,), "widths": (8,)}


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (TrainConfig, {"steps": "100"}, "train.steps: '100' is not an integer: give an integer"),
        (TrainConfig, {"steps": True}, "train.steps: True is not an integer"),
        (TrainConfig, {"learning_rate": float("nan")}, "train.learning_rate: nan is not a finite number"),
        (TrainConfig, {"learning_rate": 1e-320}, "train.learning_rate: is 1e-320, which is 0 in float32"),
        (TrainConfig, {"learning_rate": 1e300}, "train.learning_rate: is 1e+300: give at most 1e+06"),
        (TrainConfig, {"log_every": 2**64}, "train.log_every: is 18,446,744,073,709,551,616"),
        (TrainConfig, {"batch_size": 10**9}, "train.batch_size: is 1,000,000,000: give at most 16,777,216"),
        (TrainConfig, {"schedule": "cosin"}, "train.schedule: 'cosin' is not one of cosine, wsd, constant: did"),
        (Isoflop, ISOFLOP | {"budgets": "1e9"}, "isoflop.budgets: '1e9' is not a list, each a finite number"),
        (Isoflop, ISOFLOP | {"min_steps": -1}, "isoflop.min_steps: is -1: give a positive number of steps"),
        (Isoflop, ISOFLOP | {"widths": (10**9,)}, "isoflop.widths: has 1000000000: give at most 1,048,576"),
        (Isoflop, ISOFLOP | {"widths": range(1, 10**4)}, "isoflop.widths: range(1, 10000) is not a list"),
        (Isoflop, ISOFLOP | {"widths": tuple(range(1, 5000))}, "isoflop.widths: has 4,999 entries: give at most 1,000"),
        (Prediction, {"widths": [-1]}, "prediction.widths: has -1: give widths from 1 to 1,048,576"),
        (Prediction, {"factor": 1e300}, "prediction.factor: is 1e+300: give at most 1e+06"),
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


def test_lists_and_numpy_numbers_become_what_the_fields_say_and_change_no_digest():
    plan = Isoflop(budgets=[1e9, np.float64(2e9)], widths=[np.int64(8), 16])
    assert plan == Isoflop(budgets=(1e9, 2e9), widths=(8, 16)) and type(plan.widths[0]) is int
    hash(plan)
    assert digest(TrainConfig(learning_rate=1, steps=1e3)) == digest(TrainConfig(learning_rate=1.0, steps=1000))
    sweep = SweepConfig(points=[{"train.learning_rate": np.float64(0.1), "train.seed": np.int64(3)}])
    assert json.loads(json.dumps(to_json(sweep)))["points"] == [{"train.learning_rate": 0.1, "train.seed": 3}]
