"""Costs at equal loss: planted laws and sizes give the counts of the models that they point at, exactly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from models import counts
from models.channels.experts import Experts
from models.config import ModelConfig
from models.devices import DEVICES, Device
from models.errors import ConfigError
from models.layer import Layer
from models.mixers import Mamba2
from models.sharding import MeshConfig
from scaling.fitting.equal_loss import Setting, at_equal_loss
from scaling.fitting.multiplier import Multipliers
from scaling.train.config import TrainConfig
from scaling.train.memory import Share
from scaling.train.step_time import elementwise_bytes, estimate_decode, estimate_step

MODEL = ModelConfig(
    vocab_size=32, d_model=16, n_layers=2, n_heads=2, positions="rope", activation="gelu", bias="none",
    dtype="bfloat16", tied_embeddings=True,
)  # fmt: skip
LADDER = [dataclasses.replace(MODEL, d_model=width) for width in (8, 16, 32)]
TRAIN, ONE = TrainConfig(batch_size=4, seq_len=16), MeshConfig().resolve(1)
FLOPS, GAMMA = 1e12, 0.1
SAVED = (2.0, 1.6, 2.5)  # how much less compute "half" needs: the fit, and two draws


def planted() -> Multipliers:
    """Laws in which `half` needs the part 1 / SAVED of the compute, and best sizes that grow as C^0.5 to the digit:
    a model of 16 features for `dense` at FLOPS and for `half` at FLOPS / 2."""
    laws = [[(0.5, 3.0, GAMMA), (0.5, 3.0 - GAMMA * np.log(factor), GAMMA)] for factor in SAVED]
    size = counts.params(MODEL)
    rows = [
        {"group": name, "flops": budget, "params": size * (budget / at) ** 0.5, "used": True}
        for name, at in (("dense", FLOPS), ("half", FLOPS / 2))
        for budget in (FLOPS / 4, FLOPS / 2, FLOPS)
    ]
    table = pd.DataFrame(index=pd.Index(["dense", "half"]))
    return Multipliers("dense", FLOPS, "shared", {}, 0.9, table, pd.DataFrame(rows), 0.0, np.array(laws))


def test_planted_laws_cost_what_the_models_count_that_they_point_at():
    setting = Setting(device="v5e", rows=4, contexts=(64,))
    found = at_equal_loss(planted(), {"dense": LADDER, "half": LADDER}, TRAIN, setting)
    compute, seconds, read = (found.table(quantity) for quantity in ("flops", "seconds", "bytes_64"))
    assert found.loss == pytest.approx(0.5 + np.exp(3.0) * FLOPS**-GAMMA)
    np.testing.assert_allclose(compute.ratio, [1, 1 / 2], rtol=1e-9)
    low, high = np.quantile([1 / 1.6, 1 / 2.5], [0.05, 0.95])
    np.testing.assert_allclose(compute.loc["half", ["low", "high"]].astype(float), [low, high], rtol=1e-9)
    layers, width, item = 2, 16, 2
    by_hand = item * counts.params(MODEL) / 4 + 64 * layers * 2 * width * item
    np.testing.assert_allclose(read.value, [by_hand, by_hand], rtol=1e-9)
    step = estimate_step(MODEL, TRAIN, ONE, DEVICES["v5e"]).total
    steps = FLOPS / counts.train_flops(MODEL, 64, 16)
    np.testing.assert_allclose(seconds.value, [steps * step, steps * step / 2], rtol=1e-9)
    np.testing.assert_allclose(found.training_seconds("half", np.array([counts.params(MODEL)]), FLOPS), steps * step)
    assert found.lines()[1]["compute"] == "0.50 [0.41, 0.61]"


@pytest.mark.parametrize(
    ("ladders", "said"),
    [
        ({"dense": LADDER}, "0 sizes of half"),
        ({"dense": LADDER, "half": LADDER[1:2]}, "1 sizes of half"),
        ({"dense": LADDER, "half": [*LADDER[:1], dataclasses.replace(MODEL, d_model=12)]}, "add sizes around its best"),
    ],
)
def test_a_ladder_that_does_not_hold_the_best_size_is_refused(ladders, said):
    with pytest.raises(ConfigError, match=said):
        at_equal_loss(planted(), ladders, TRAIN, Setting())


@pytest.mark.parametrize("change", [{"device": "abacus"}, {"rows": 0}, {"contexts": ()}, {"contexts": (0,)}])
def test_a_setting_that_names_no_place_is_refused(change):
    with pytest.raises(ConfigError, match=f"setting.{next(iter(change))}"):
        Setting(**change)


def test_a_decode_step_reads_tables_by_the_row_and_experts_by_their_chance():
    sent = dataclasses.replace(MODEL, pattern=(Layer(channel=Experts(experts=4, top_k=2, d_ff=8)),))
    experts = 2 * (counts.params(sent) - counts.params_active(sent))  # half of them idle for one token
    others = counts.params(sent) - experts
    for rows, share in ((1, 1 / 2), (2, 3 / 4), (3, 7 / 8)):
        assert counts.weight_read_bytes(sent, rows) == 2 * (others + share * experts)
    untied = dataclasses.replace(MODEL, tied_embeddings=False)
    assert counts.weight_read_bytes(untied, 3) == 2 * (counts.params(MODEL) + 3 * 16)


def test_a_decode_step_takes_the_longer_of_reading_and_products():
    read = counts.weight_read_bytes(MODEL, 8) + 8 * counts.decode_read_bytes(MODEL, 64)
    products = 8 * counts.decode_flops(MODEL, 64)
    slow, fast = Device(1e30, 1e9, 1e6, overhead=1e-3), Device(1e6, 1e9, 1e30, efficiency=0.5)
    assert estimate_decode(MODEL, 8, 64, slow) == pytest.approx(read / 1e6 + 2 * 1e-3)
    assert estimate_decode(MODEL, 8, 64, fast) == pytest.approx(products / 0.5e6)


def test_a_state_passes_over_what_its_mixer_makes_of_the_stream():
    """4 passes over 2 x 32 features of x and z, 2 x 8 of b and c and 4 steps, as over queries, keys and values."""
    bare = dataclasses.replace(MODEL, pattern=(Layer(Mamba2(head_dim=8, state=8, block=16), None),))
    features = 4 * (2 * 32 + 2 * 8 + 4) + 8 * 16
    assert elementwise_bytes(Share.of(bare, TRAIN, ONE), fused=True) == 2 * 3 * 2 * 64 * features
