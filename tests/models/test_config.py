"""A model config derives what it can and names the field and the fix of what it cannot use."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import presets
from models.channels import Experts
from models.config import Layer, ModelConfig, RopeScaling
from models.errors import ConfigError, divisors, nearest
from models.mixers import Mamba2
from models.serialize import canonical, digest, from_json
from models.sharding import MeshConfig
from tests.models.parts import PARTS


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
        ({"norm_eps": 0.0}, "model.norm_eps: is 0.0: give a positive number such as 1e-5, at most 1"),
        ({"rope_theta": -1.0}, "model.rope_theta: is -1.0: give a positive number such as 1e4"),
        ({"init_std": 0.0}, "model.init_std: is 0.0: give a positive number, or None"),
        (
            {"query_pre_attn_scalar": 4.0, "mup_base_head_dim": 32, "mup_base_width": 64},
            "model.query_pre_attn_scalar: and mup_base_head_dim both set the scale of the scores: "
            "leave one of them None",
        ),
        ({"sliding_window": 0}, "model.sliding_window: is 0: give a positive integer or None"),
        ({"logit_softcap": -1.0}, "model.logit_softcap: is -1.0: give a positive number, or None"),
        ({"layer_types": ()}, "model.layer_types: is empty: name at least one layer type"),
        (
            {"rope_theta_local": 1e4},
            "model.rope_theta_local: is set, but no layer is sliding and rotary: "
            "set model.sliding_window and positions='rope' too",
        ),
        (
            {"rope_scaling": RopeScaling("linear", 2.0), "positions": "learned"},
            "model.rope_scaling: is set, but positions are learned: use positions='rope'",
        ),
        (
            {"rope_scaling": RopeScaling("dynamic", 2.0, 8), "head_dim": 2},
            "model.rope_scaling: is dynamic, but only 2 dims of a head rotate: use more, or another kind",
        ),
        (
            {"partial_rotary_factor": 0.1},
            "model.partial_rotary_factor: is 0.1, which rotates 3.2 of 32 dims: "
            "give a share in (0, 1] that rotates an even number of dims",
        ),
        ({"mup_base_head_dim": 16}, "model.mup_base_head_dim: is set, but muP is off: set model.mup_base_width too"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_a_fix_on_one_line(fields, message):
    with pytest.raises(ConfigError) as error:
        ModelConfig(**fields)
    assert str(error.value) == message
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "linear", "factor": 0.0}, "rope_scaling.factor: is 0.0: give a positive number"),
        (
            {"kind": "yarn", "factor": 2.0},
            "rope_scaling.original_max_seq_len: is None, but yarn scaling needs it: "
            "give the context length of pre-training",
        ),
        (
            {"kind": "llama3", "factor": 2.0, "original_max_seq_len": 8, "high_freq_factor": 1.0},
            "rope_scaling.high_freq_factor: is 1.0, not above low_freq_factor 1.0: give a larger one",
        ),
        (
            {"kind": "yarn", "factor": 2.0, "original_max_seq_len": 8, "attention_factor": 0.0},
            "rope_scaling.attention_factor: is 0.0: give a positive number, or None",
        ),
    ],
)
def test_a_bad_field_of_rope_scaling_is_named_too(fields, message):
    with pytest.raises(ConfigError) as error:
        RopeScaling(**fields)
    assert str(error.value) == message


def test_a_nested_config_survives_json_and_equal_models_have_one_digest():
    config = presets.LLAMA32_1B
    assert from_json(ModelConfig, json.loads(canonical(config))) == config
    assert from_json(ModelConfig, json.loads(canonical(presets.GEMMA3_1B))) == presets.GEMMA3_1B


def test_the_pattern_of_layer_types_repeats_and_means_nothing_without_a_window():
    config = ModelConfig(n_layers=5, sliding_window=4, layer_types=("sliding", "full"))
    assert config.sliding == (True, False, True, False, True)
    assert dataclasses.replace(config, sliding_window=None).sliding == (False,) * 5
    assert sum(presets.GEMMA3_1B.sliding) == 22 and not presets.GEMMA3_1B.sliding[5]


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


def test_a_wiring_that_was_the_only_one_keeps_its_id_and_every_wiring_comes_back():
    normed, parallel = dataclasses.replace(PARTS["normed_results"], n_layers=2), PARTS["parallel"]
    assert digest(normed) == "0383f73688a08e3fb4a6bc0ae20f11649d5d16fbf04c6d04fd6c776d5ea25ff0"
    for config in (normed, parallel):
        assert from_json(ModelConfig, json.loads(canonical(config))) == config


HUGE = 10**18


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ModelConfig(d_model=HUGE), "model.d_model"),
        (lambda: Experts(experts=HUGE), "experts"),
        (lambda: Experts(capacity_tokens=HUGE), "capacity_tokens"),
        (lambda: ModelConfig(pattern=(Layer(Mamba2(state=HUGE)),)), "model.pattern.mixer.state"),
        (lambda: MeshConfig(tensor=HUGE), "mesh.tensor"),
    ],
)
def test_a_size_that_no_model_has_is_refused_before_anything_counts_up_to_it(make, field):
    with pytest.raises(ConfigError, match=rf"^{field}: is {HUGE}: give at most 16777216$"):
        make()


@pytest.mark.parametrize("n", [1, 2, 12, 36, 97, 2**16])
def test_divisors_are_all_of_them(n):
    assert divisors(n) == [k for k in range(1, n + 1) if n % k == 0]
