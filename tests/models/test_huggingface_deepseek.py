"""Published DeepSeek configs are the published models; what a checkpoint of theirs says beside them is left out or
refused."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from models import counts, transformer
from models.channels.dense import Dense
from models.channels.experts import Experts
from models.config import ModelConfig
from models.errors import ConfigError
from models.huggingface import export_model, import_weights
from models.huggingface.config import FAMILIES, read_config, write_config
from models.layer import Layer
from models.mixers.latent import Latent
from models.rotary import RopeScaling, Rotary
from tests.models.test_huggingface import TOLERANCE, assert_equal, expected
from tests.models.write_huggingface_golden import GOLDEN

YARN = {"beta_fast": 32, "beta_slow": 1, "factor": 40, "original_max_position_embeddings": 4096, "type": "yarn"}
V2_LITE = {
    "model_type": "deepseek_v2", "attention_bias": False, "aux_loss_alpha": 0.001, "first_k_dense_replace": 1,
    "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 10944, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_group": 1,
    "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": False, "num_attention_heads": 16,
    "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16, "q_lora_rank": None,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_theta": 10000,
    "routed_scaling_factor": 1.0, "scoring_func": "softmax", "seq_aux": True, "tie_word_embeddings": False,
    "topk_group": 1, "topk_method": "greedy", "v_head_dim": 128, "vocab_size": 102400,
    "rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
}  # fmt: skip
V2 = V2_LITE | {
    "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536, "n_group": 8,
    "n_routed_experts": 160, "num_attention_heads": 128, "num_hidden_layers": 60, "num_key_value_heads": 128,
    "q_lora_rank": 1536, "routed_scaling_factor": 16.0, "topk_group": 3, "topk_method": "group_limited_greedy",
}  # fmt: skip
V3 = {
    "model_type": "deepseek_v3", "attention_bias": False, "ep_size": 1, "first_k_dense_replace": 3,
    "hidden_act": "silu", "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8,
    "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_theta": 10000,
    "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": False, "topk_group": 4,
    "topk_method": "noaux_tc", "v_head_dim": 128, "vocab_size": 129280,
    "rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
}  # fmt: skip


def read(data: dict) -> ModelConfig:
    return read_config(FAMILIES[data["model_type"]], data, "config.json")


def changed(config: ModelConfig, mixer: dict | None = None, channel: dict | None = None) -> ModelConfig:
    """The config with other fields of every mixer and of every block of experts."""

    def other(layer: Layer) -> Layer:
        assert layer.channel is not None
        experts = channel if channel and isinstance(layer.channel, Experts) else {}
        new = dataclasses.replace(layer.channel, **experts)
        return Layer(dataclasses.replace(layer.mixer, **(mixer or {})), new)

    layers = {name: tuple(other(x) for x in getattr(config, name)) for name in ("prologue", "pattern")}
    return dataclasses.replace(config, **layers)


@pytest.mark.parametrize(
    ("data", "params", "numbers"),
    [(V2_LITE, 15_706_484_224, 27 * 576), (V2, 235_741_434_880, 60 * 576), (V3, 671_026_419_200, 61 * 576)],
    ids=["v2_lite", "v2", "v3"],
)
def test_published_configs_have_the_published_size_and_are_written_as_they_compute(data, params, numbers):
    config = read(data)
    assert counts.params(config) == params
    assert counts.kv_cache_bytes_per_token(dataclasses.replace(config, dtype="bfloat16")) == 2 * numbers
    family, written = write_config(config)
    assert family.model_type == data["model_type"] and read(json.loads(json.dumps(written))) == config
    given = {key: value for key, value in data.items() if key in written and key != "rope_scaling"}
    assert {key: written[key] for key in given} == given
    assert {key: written["rope_scaling"][key] for key in ("mscale", "mscale_all_dim")} == {
        key: data["rope_scaling"][key] for key in ("mscale", "mscale_all_dim")
    }


def test_a_published_config_becomes_dense_layers_and_then_experts_with_yarns_gain_on_the_scores():
    config, gain = read(V3), (0.1 * math.log(40) + 1) ** 2
    scaling = RopeScaling("yarn", 40.0, 4096, attention_factor=1.0)
    latent = Latent(None, 512, 1536, 128, 64, 128, Rotary(1e4, scaling, interleaved=True), gain)
    experts = Experts(
        256, 8, 2048, shared=1, dispatch="dropless", groups=8, top_groups=4, score="sigmoid", scale=2.5,
        group_score="top2", bias_rate=1e-3, balance_coefficient=1e-3, z_coefficient=0.0,
    )  # fmt: skip
    assert config.layers == (Layer(latent, Dense()),) * 3 + (Layer(latent, experts),) * 58
    assert (config.d_ff, config.norm_eps, config.positions) == (18_432, 1e-6, "rope")


@pytest.mark.parametrize(
    ("name", "mixer", "channel"),
    [
        ("deepseek_v2", {"rotary": Rotary()}, None),
        ("deepseek_v2", None, {"normalize": True}),
        ("deepseek_v2", None, {"scale": 1.0}),
        ("deepseek_v3", {"gain": 1.0}, None),
        ("deepseek_v3", {"rotary": Rotary(interleaved=True)}, None),
        ("deepseek_v3", None, {"groups": 1, "top_groups": 1, "group_score": "max"}),
        ("deepseek_v3", None, {"score": "softmax"}),
        ("deepseek_v3", None, {"bias_rate": 0.0}),
    ],
)
def test_the_golden_logits_depend_on_the_features_that_they_are_there_to_check(name, mixer, channel):
    config, params = import_weights(GOLDEN / name)
    tokens, logits = expected(name)
    without = changed(config, mixer, channel)
    if channel and channel.get("bias_rate") == 0:
        params["block_1"]["feedforward"].pop("router_bias")
    once = jax.jit(transformer.apply, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
    found = once(without, params, tokens)
    assert np.abs(found - logits).max() > 100 * TOLERANCE


def test_layers_behind_the_last_are_left_out_and_those_before_it_are_not(tmp_path: Path):
    """Published files of V3 hold one more layer, which guesses the token after the next."""
    want = import_weights(GOLDEN / "deepseek_v3")[1]
    folder = shutil.copytree(GOLDEN / "deepseek_v3", tmp_path / "more")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    behind = {"model.layers.2.eh_proj.weight": np.zeros((2, 3), np.float32),
              "model.layers.12.enorm.weight": np.zeros(3, np.float32)}  # fmt: skip
    safetensors.numpy.save_file(tensors | behind, folder / "model.safetensors")
    assert_equal(import_weights(folder)[1], want)
    extra = {"model.layers.1.enorm.weight": np.zeros(3, np.float32)}
    safetensors.numpy.save_file(tensors | extra, folder / "model.safetensors")
    with pytest.raises(ConfigError, match="tensor model.layers.1.enorm.weight has no place in this model"):
        import_weights(folder)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (V3 | {"num_key_value_heads": 8}, "config.json: num_key_value_heads is 8, but all 128 heads have keys of their "
         "own: use the config.json of the checkpoint"),
        (V3 | {"rms_norm_eps": 1e-5}, "config.json: rms_norm_eps is 1e-05, which is not supported: "
         "use a checkpoint without it"),
        (V3 | {"scoring_func": "softmax"}, "config.json: scoring_func is 'softmax', which is not supported: "
         "use a checkpoint without it"),
        (V2 | {"norm_topk_prob": True}, "config.json: norm_topk_prob is True, which is not supported: "
         "use a checkpoint without it"),
        (V2 | {"n_group": None}, "config.json: n_group is missing: use the config.json of the checkpoint"),
        (V3 | {"n_routed_experts": 255}, "config.json: groups 8 groups do not divide 255 experts: use one of "
         "[1, 3, 5, 15, 17, 51, 85, 255]"),
        ({k: v for k, v in V2.items() if k != "num_experts_per_tok"}, "config.json: num_experts_per_tok is missing: "
         "copy the config.json of the model again"),
    ],
)  # fmt: skip
def test_what_is_no_such_model_is_said_in_one_line(data, told):
    with pytest.raises(ConfigError) as error:
        read(data)
    assert str(error.value) == told


MIXER = Latent(rank=6, key_dim=4, rotary_dim=4, value_dim=4, rotary=Rotary(interleaved=True))
OWN = ModelConfig(
    vocab_size=17, d_model=12, n_layers=3, n_heads=2, d_ff=8, tied_embeddings=False, norm_eps=1e-6,
    pattern=(Layer(MIXER, Experts(4, 2, 8, shared=1, normalize=False)),), prologue=(Layer(MIXER),),
)  # fmt: skip


def test_a_model_of_our_own_goes_out_whatever_only_its_training_asks_for_and_comes_back(tmp_path: Path):
    """Slots, losses and the rate of the biases are of training; heads may be the mixer's own."""
    config = changed(OWN, {"heads": 3, "query_rank": 5}, {"bias_rate": 0.01, "score": "sigmoid", "normalize": True})
    shapes = jax.eval_shape(lambda: transformer.init(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), shapes)
    export_model(tmp_path / "out", config, params)
    again, found = import_weights(tmp_path / "out")
    assert write_config(again)[0].model_type == "deepseek_v3"
    assert_equal(jax.tree.map(np.asarray, found), params)
    assert again.layers[2].mixer.heads is None and again.n_heads == 3


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (dataclasses.replace(OWN, norm_eps=1e-5), "norm_eps"),
        (changed(OWN, None, {"shared_gate": True}), "pattern"),
        (changed(OWN, None, {"score": "sigmoid"}), "pattern"),  # no biases
        (changed(OWN, None, {"normalize": True}), "pattern"),
        (dataclasses.replace(OWN, prologue=(), pattern=(Layer(MIXER), *OWN.pattern)), "pattern"),
    ],
    ids=["norm_eps", "shared_gate", "sigmoid", "normalize", "alternating"],
)
def test_an_export_names_what_keeps_it_from_the_family(config: ModelConfig, field: str):
    with pytest.raises(ConfigError) as error:
        write_config(config, "deepseek_v2")
    assert error.value.field == f"model.{field}"
    with pytest.raises(ConfigError):
        write_config(config)
