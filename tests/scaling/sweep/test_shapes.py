"""Shape rules: what a factor of compute does to shapes and kept bytes, against closed forms."""

from __future__ import annotations

import pytest

from models.config import ModelConfig
from models.errors import ConfigError
from scaling.sweep.shapes import ShapeRule, kept_bytes

MODEL = ModelConfig(256, d_model=64, n_layers=2, n_heads=4)


def test_a_factor_of_compute_goes_where_the_rule_sends_it() -> None:
    wide, length = ShapeRule(width=1.0).scaled(MODEL, 32, 16)
    assert (wide.d_model, wide.n_heads, wide.n_layers, length) == (256, 16, 2, 32)
    deep, length = ShapeRule(depth=1.0).scaled(MODEL, 32, 16)
    assert (deep.d_model, deep.n_heads, deep.n_layers, length) == (64, 4, 32, 32)
    mixed, length = ShapeRule(0.25, 0.5, 0.25).scaled(MODEL, 32, 16)
    assert (mixed.d_model, mixed.n_heads, mixed.n_layers, length) == (128, 8, 4, 64)
    assert mixed.n_layers * mixed.d_model**2 * length == 16 * MODEL.n_layers * MODEL.d_model**2 * 32
    assert ShapeRule.fast(0.8).growth == pytest.approx(0.6) and ShapeRule(depth=1.0).growth == 1


def test_kept_bytes_are_proportional_to_depth_and_of_one_more_layer_are_one_layers() -> None:
    of = {layers: kept_bytes(ModelConfig(256, d_model=64, n_layers=layers, n_heads=4), 32) for layers in (1, 2, 6)}
    assert of[2] == 2 * of[1] and of[6] == 6 * of[1]


@pytest.mark.parametrize("shares", [(0.5, 0.4, 0.0), (-0.1, 0.6, 0.5)])
def test_shares_that_are_no_division_of_one_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="shares"):
        ShapeRule(*shares)
    with pytest.raises(ConfigError, match="d_ff"):
        ShapeRule(width=1.0).scaled(ModelConfig(256, d_model=64, n_heads=4, d_ff=100), 32, 4)
