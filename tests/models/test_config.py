"""A model config derives what it can and names the field and the fix of what it cannot use."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import presets
from models.config import ModelConfig, divisors
from models.errors import ConfigError, nearest


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 0}, "model.d_model: is 0: give a positive integer"),
        ({"vocab_size": -1}, "model.vocab_size: is -1: give a positive integer"),
        ({"n_layers": 0}, "model.n_layers: is 0: give a positive integer"),
        ({"d_ff": 0}, "model.d_ff: is 0: give a positive integer or None"),
        ({"mup_base_width": -64}, "model.mup_base_width: is -64: give a positive integer or None"),
        (
            {"d_model": 6, "n_heads": 4},
            "model.n_heads: 4 heads do not divide d_model 6: use one of [1, 2, 3, 6] heads, or set model.head_dim",
        ),
        ({"n_kv_heads": 3}, "model.n_kv_heads: 3 key-value heads do not divide 4 heads: use one of [1, 2, 4]"),
        (
            {"head_dim": 5},
            "model.head_dim: is 5, but rotary positions rotate pairs: use an even head_dim or positions='learned'",
        ),
        ({"norm_eps": 0.0}, "model.norm_eps: is 0.0: give a positive number such as 1e-5"),
        ({"rope_theta": -1.0}, "model.rope_theta: is -1.0: give a positive number such as 1e4"),
        ({"init_std": 0.0}, "model.init_std: is 0.0: give a positive number, or None"),
        ({"mup_base_head_dim": 16}, "model.mup_base_head_dim: is set, but muP is off: set model.mup_base_width too"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_a_fix_on_one_line(fields, message):
    with pytest.raises(ConfigError) as error:
        ModelConfig(**fields)
    assert str(error.value) == message
    assert isinstance(error.value, ValueError)


def test_odd_heads_are_fine_where_nothing_rotates_and_any_head_dim_where_it_is_given():
    assert ModelConfig(d_model=9, n_heads=3, positions="learned").resolved().head_dim == 3
    assert ModelConfig(d_model=10, n_heads=4, head_dim=6).resolved().head_dim == 6


def test_resolving_derives_heads_and_the_feedforward_width():
    gelu, gated = (ModelConfig(d_model=100, n_heads=10, activation=a).resolved() for a in ("gelu", "swiglu"))
    assert (gelu.n_kv_heads, gelu.head_dim, gelu.d_ff) == (10, 10, 400)
    assert gated.d_ff == 272  # 8/3 x 100 = 266.7, rounded up to a multiple of 8
    assert ModelConfig(d_model=96, d_ff=7).resolved().d_ff == 7


@given(st.integers(1, 64), st.integers(1, 8), st.booleans())
def test_resolving_is_idempotent_and_overriding_the_width_stays_consistent(width, heads, gated):
    config = ModelConfig(d_model=2 * width * heads, n_heads=heads, activation="geglu" if gated else "gelu")
    resolved = config.resolved()
    assert resolved.resolved() == resolved
    assert resolved.d_ff % 8 == 0 and 0 <= resolved.d_ff - (8 / 3 if gated else 4) * config.d_model < 8
    wider = dataclasses.replace(config, d_model=2 * config.d_model).resolved()
    assert wider.head_dim == 2 * resolved.head_dim


@given(st.integers(1, 500))
def test_divisors_divide(n):
    assert divisors(n) == [k for k in range(1, n + 1) if n % k == 0]


def test_configs_are_hashable_and_equal_by_value():
    assert hash(ModelConfig(d_model=64)) == hash(ModelConfig(d_model=64))
    assert ModelConfig(d_model=64) != ModelConfig(d_model=128)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().d_model = 3


def test_every_rung_of_the_ladder_is_one_family():
    rungs = [presets.ladder(width).resolved() for width in (8, 16, 24, 32, 48, 64)]
    assert {(c.n_layers, c.activation, c.d_ff // c.d_model) for c in rungs} == {(3, "gelu", 4)}
    assert all(c.n_heads * c.head_dim == c.d_model for c in rungs)


def test_the_near_name_is_suggested_only_when_there_is_one():
    fields = [field.name for field in dataclasses.fields(ModelConfig)]
    assert nearest("d_modle", fields) == "d_model"
    assert nearest("zzz", fields) is None


def test_a_config_error_crosses_process_borders_whole():
    error = ConfigError("data.path", "does\nnot exist", "give a folder")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "data.path: does not exist: give a folder"
    assert (again.field, again.fix) == ("data.path", "give a folder")
