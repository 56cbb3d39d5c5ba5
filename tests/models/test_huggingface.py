"""A Hugging Face checkpoint computes the same logits here, comes out as it went in, and says what is wrong with it.

tests/models/golden holds tiny random checkpoints that `transformers` wrote, with the logits that it computed.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from models import presets, transformer
from models.config import ModelConfig, RopeScaling
from models.errors import ConfigError
from models.huggingface import export_model, import_weights
from models.huggingface.config import FAMILIES, family_of, read_config, write_config
from models.huggingface.tensors import Checkpoint
from tests.models import write_huggingface_golden as golden

# float32: sums of a few dozen terms of order 1 through two layers; logits are of order 1
TOLERANCE = 1e-4
apply = jax.jit(transformer.apply, static_argnums=0)


def expected(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [1, seq] and the logits [1, seq, vocab] that `transformers` computed."""
    with np.load(golden.GOLDEN / name / "expected.npz") as arrays:
        return arrays["tokens"], arrays["logits"]


def assert_equal(got, params) -> None:
    """Equal trees of arrays, dtypes included."""
    assert jax.tree.structure(got) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(params), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the qwen2 checkpoint that a test may spoil."""
    return shutil.copytree(golden.GOLDEN / "qwen2", tmp_path / "qwen2")


def rewrite(folder: Path, keys=(), **changes) -> None:
    """Change or remove keys of config.json."""
    data = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in data.items() if k not in keys}))


def retensor(folder: Path, change) -> None:
    """Save model.safetensors again after `change(tensors)`."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def message(folder: Path) -> str:
    with pytest.raises(ConfigError) as error:
        import_weights(folder)
    return str(error.value).replace(f"{folder}/", "")


# -- logits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden.COMMITTED)
def test_logits_equal_those_of_transformers(name):
    config, params = import_weights(golden.GOLDEN / name)
    tokens, logits = expected(name)
    assert config.dtype == "float32"
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {config.param_dtype} == {golden.COMMITTED[name].dtype}
    np.testing.assert_allclose(apply(config, params, tokens), logits, atol=TOLERANCE)


def test_scanned_layers_of_two_kinds_give_the_same_logits():
    config, params = import_weights(golden.GOLDEN / "gemma3_text", scan_layers=True, param_dtype="float32")
    tokens, logits = expected("gemma3_text")
    assert params["blocks"]["attention"]["qkv"].shape == (2, 16, 2, 4, 8)
    np.testing.assert_allclose(apply(config, params, tokens), logits, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gemma2", {"sliding_window": None}),
        ("gemma2", {"attention_softcap": None, "logit_softcap": None}),
        ("gemma3_text", {"rope_theta_local": None}),
        ("llama", {"rope_scaling": None}),
    ],
)
def test_the_golden_logits_depend_on_the_features_that_they_are_there_to_check(name, change):
    config, params = import_weights(golden.GOLDEN / name)
    tokens, logits = expected(name)
    without = dataclasses.replace(config, **change)
    assert np.abs(transformer.apply(without, params, tokens) - logits).max() > 100 * TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", golden.COMMITTED | golden.OTHERS)
def test_transformers_agrees_before_and_after_a_round_trip(name, tmp_path):
    pytest.importorskip("torch", reason="compares with torch, which the test install leaves out")
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is left out")
    case = (golden.COMMITTED | golden.OTHERS)[name]
    if case.model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {case.model_type}")
    if name in golden.BEFORE_5 and golden.is_before_5():
        pytest.skip(f"transformers {transformers.__version__} {golden.BEFORE_5[name]}")
    tokens, logits = golden.write(tmp_path / "theirs", case)
    config, params = import_weights(tmp_path / "theirs")
    np.testing.assert_allclose(apply(config, params, tokens), logits, atol=TOLERANCE)
    export_model(tmp_path / "ours", config, params, shard_bytes=10_000)
    again, read = import_weights(tmp_path / "ours")
    assert again == config
    assert_equal(read, params)
    # equal tensors; torch adds in another order where they lie otherwise in their file
    np.testing.assert_allclose(golden.logits(tmp_path / "ours", tokens), logits, atol=TOLERANCE / 10)


# -- round trips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden.COMMITTED)
@pytest.mark.parametrize("scan_layers", [False, True])
def test_what_is_exported_is_what_was_imported(name, scan_layers, tmp_path):
    config, params = import_weights(golden.GOLDEN / name, scan_layers=scan_layers)
    export_model(tmp_path / "out", config, params, model_type=golden.COMMITTED[name].model_type)
    with Checkpoint(golden.GOLDEN / name) as theirs, Checkpoint(tmp_path / "out") as ours:
        assert sorted(ours) == sorted(theirs)
        for tensor in ours:
            assert ours.dtype(tensor) == theirs.dtype(tensor)
            np.testing.assert_array_equal(ours.read(tensor), theirs.read(tensor))
    again, read = import_weights(tmp_path / "out", scan_layers=scan_layers)
    assert again == config
    assert_equal(read, params)


def test_an_export_is_cut_into_files_of_the_given_size_that_an_index_lists(tmp_path):
    config, params = import_weights(golden.GOLDEN / "gpt2", param_dtype="float32")
    export_model(tmp_path / "out", config, params, shard_bytes=9000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3 and files[-1].name == f"model-{len(files):05}-of-{len(files):05}.safetensors"
    assert all(sum(x.nbytes for x in safetensors.numpy.load_file(file).values()) <= 9000 for file in files)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in jax.tree.leaves(params))
    assert_equal(import_weights(tmp_path / "out")[1], params)


@pytest.mark.parametrize(
    ("config", "model_type"),
    [
        (presets.gpt2_style(16, 2, 4, seq_len=12, vocab_size=23), "gpt2"),
        (dataclasses.replace(presets.llama_style(16, 3, 4, 2, 24, vocab_size=23), param_dtype="bfloat16"), "llama"),
        (ModelConfig(23, 16, 2, 4, head_dim=6, sliding_window=3, rope_scaling=RopeScaling("linear", 2.0)), "mistral"),
    ],
)
def test_a_model_of_our_own_goes_out_and_comes_back(config, model_type, tmp_path):
    shapes = jax.eval_shape(lambda: transformer.init(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), shapes)
    export_model(tmp_path / "out", config, params)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == model_type
    again, read = import_weights(tmp_path / "out", dtype=config.dtype, scan_layers=config.scan_layers)
    assert again == config.resolved()
    assert_equal(read, params)


# -- reading published configs ------------------------------------------------------------------------------------

LLAMA32_1B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "hidden_act": "silu",
    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072, "rope_theta": 500000.0, "tie_word_embeddings": True, "mlp_bias": False,
    "attention_bias": False, "pretraining_tp": 1, "torch_dtype": "bfloat16",
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3",
                     "original_max_position_embeddings": 8192},
}  # fmt: skip
GEMMA2_2B = {
    "model_type": "gemma2", "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "head_dim": 256,
    "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "sliding_window": 4096, "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}  # fmt: skip
GEMMA3_1B = {
    "model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 1152, "intermediate_size": 6912, "head_dim": 256,
    "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1, "max_position_embeddings": 32768,
    "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6, "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": None, "final_logit_softcapping": None,
}  # fmt: skip
QWEN3_06B = {
    "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "max_position_embeddings": 40960,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000000, "tie_word_embeddings": True,
    "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28, "attention_bias": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("data", "preset"),
    [
        (LLAMA32_1B, presets.LLAMA32_1B),
        (GEMMA2_2B, presets.GEMMA2_2B),
        (GEMMA3_1B, presets.GEMMA3_1B),
        (QWEN3_06B, presets.QWEN3_06B),
    ],
)
def test_the_config_of_a_published_model_is_its_preset(data, preset):
    config = read_config(FAMILIES[data["model_type"]], data, "config.json")
    numerics = {"dtype": config.dtype, "scan_layers": config.scan_layers}
    assert config == dataclasses.replace(preset, **numerics).resolved()


@pytest.mark.parametrize(
    "name", [name for name in dir(presets) if name.isupper() and getattr(presets, name).moe is None]
)
def test_every_dense_preset_can_be_exported_and_reads_back_as_itself(name):
    config = dataclasses.replace(getattr(presets, name), dtype="float32", scan_layers=False).resolved()
    family, written = write_config(config)
    assert read_config(family, json.loads(json.dumps(written)), "config.json") == config


GEMMA3_4B = {  # as published: what the family supplies is left out
    "model_type": "gemma3", "eos_token_id": [1, 106], "vision_config": {"hidden_size": 1152},
    "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                    "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                    "sliding_window": 1024},
}  # fmt: skip


def test_a_published_config_that_leaves_out_what_its_family_supplies_is_read():
    config = read_config(*family_of(GEMMA3_4B, "config.json"), "config.json")
    assert (config.vocab_size, config.n_heads, config.n_kv_heads, config.head_dim) == (262_208, 8, 4, 256)
    assert config.sliding == ((True,) * 5 + (False,)) * 5 + (True,) * 4
    assert (config.rope_theta, config.rope_theta_local, config.tied_embeddings) == (1e6, 1e4, True)


def supplied(model_type: str, keys: dict) -> ModelConfig | str:
    """The model of these keys, or why there is none."""
    try:
        return read_config(FAMILIES[model_type], keys, "config.json")
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_a_config_leaves_out_is_what_transformers_takes_for_it(model_type):
    kept = json.loads(golden.DEFAULTS.read_text())
    assert supplied(model_type, {}) == supplied(model_type, kept[model_type])


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_kept_defaults_are_those_of_the_transformers_that_is_installed(model_type):
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is left out")
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    theirs = golden.defaults(model_type)
    assert supplied(model_type, theirs) == supplied(model_type, {"transformers_version": transformers.__version__})


@pytest.mark.parametrize(
    ("model_type", "old", "new"), [("cohere", 1e4, 5e5), ("olmo3", 1e4, 5e5), ("persimmon", 25e3, 1e4)]
)
def test_a_theta_that_a_file_leaves_out_is_that_of_the_release_that_wrote_it(model_type, old, new):
    for version, theta in [("4.57.6", old), ("4.34.0.dev0", old), ("5.24.0", new), ("40.1", new), (None, new)]:
        written = {"transformers_version": version}
        assert read_config(FAMILIES[model_type], written, "config.json").rope_theta == theta
        assert read_config(FAMILIES[model_type], written | {"rope_theta": 7.0}, "config.json").rope_theta == 7


def test_every_case_that_older_releases_cannot_be_compared_on_is_one():
    assert golden.BEFORE_5.keys() <= (golden.COMMITTED | golden.OTHERS).keys()


# -- what names and files may look like ---------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "language_model.model.", "model.language_model."])
def test_tensors_are_found_under_the_names_of_bare_and_of_seeing_models(prefix, folder):
    expected_params = import_weights(folder)[1]

    def change(tensors):
        for name in list(tensors):
            tensors[name.replace("model.", prefix, 1)] = tensors.pop(name)
        tensors["lm_head.weight"] = tensors[f"{prefix}embed_tokens.weight"]  # some files repeat the tied table
        tensors["vision_tower.patch.weight"] = np.zeros(3, np.float32)
        tensors[f"{prefix}layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(3, np.float32)

    retensor(folder, change)
    assert_equal(import_weights(folder)[1], expected_params)


def test_a_seeing_gemma_is_read_by_its_text_config():
    data = json.loads((golden.GOLDEN / "gemma3_text" / "config.json").read_text())
    family, text = family_of({"model_type": "gemma3", "text_config": data, "vision_config": {}}, "c")
    assert read_config(family, text, "c") == import_weights(golden.GOLDEN / "gemma3_text", param_dtype="float32")[0]
    outer = {"model_type": "gemma3", "text_config": {}, "transformers_version": "4.57.6"}
    assert family_of(outer, "c")[1] == {"transformers_version": "4.57.6"}


def test_half_precision_becomes_float32(folder):
    retensor(folder, lambda tensors: tensors.update({k: v.astype(np.float16) for k, v in tensors.items()}))
    config, params = import_weights(folder)
    assert config.param_dtype == "float32" and params["tokens"].dtype == jnp.float32


NAME = "model.layers.1.mlp.down_proj.weight"
TABLE = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop(NAME), f"model.safetensors: tensor {NAME} is missing: copy the checkpoint again"),
        (
            lambda t: t.update(extra=np.zeros(2, np.float32)),
            "model.safetensors: tensor extra has no place in this model: "
            "use the config.json that belongs to these tensors",
        ),
        (
            lambda t: t.update({NAME: t[NAME][:, :-1].copy()}),
            f"model.safetensors: tensor {NAME} has shape [16, 23], where config.json asks for [16, 24]: "
            "use the config.json that belongs to these tensors",
        ),
        (
            lambda t: t.update({NAME: t[NAME].astype(np.int8)}),
            f"model.safetensors: tensor {NAME} is of type I8: use a checkpoint that is not quantised",
        ),
        (
            lambda t: t.update({"lm_head.weight": 2 * t[TABLE]}),
            f"model.safetensors: tensor lm_head.weight differs from {TABLE}, to which config.json ties it: "
            "set tie_word_embeddings to false in config.json, or remove the tensor",
        ),
        (lambda t: t.clear(), f"model.safetensors: tensor {TABLE} is missing: copy the checkpoint again"),
    ],
)
def test_a_wrong_tensor_is_named_with_its_file(change, told, folder):
    retensor(folder, change)
    assert message(folder) == told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"model_type": "qwen"},
            f"config.json: model_type 'qwen' is none that can be read: use one of {', '.join(FAMILIES)}",
        ),
        (
            {"model_type": "mpt"},
            "config.json: model_type 'mpt' needs ALiBi positions, which no model here has: "
            f"use one of {', '.join(FAMILIES)}",
        ),
        (
            {"model_type": "Gemma-2"},
            "config.json: model_type 'Gemma-2' is none that can be read: did you mean 'gemma2'? "
            f"use one of {', '.join(FAMILIES)}",
        ),
        ({"hidden_act": "relu"}, "config.json: hidden_act is 'relu': use a checkpoint with one of silu, "
         "gelu_pytorch_tanh, gelu"),
        ({"hidden_size": "16"}, "config.json: hidden_size is '16': give a value of type int"),
        ({"num_attention_heads": True}, "config.json: num_attention_heads is True: give a value of type int"),
        (
            {"num_attention_heads": 3},
            "config.json: model.n_heads 3 heads do not divide d_model 16: "
            "use one of [1, 2, 4, 8, 16] heads, or set model.head_dim",
        ),
        (
            {"rope_scaling": {"type": "longrope", "factor": 2.0}},
            "config.json: rope_scaling is of type 'longrope': use one of linear, dynamic, llama3, yarn",
        ),
        (
            {"num_hidden_layers": 10**6},
            "config.json: num_hidden_layers is 1000000, above 4096: copy the checkpoint again",
        ),
        ({"hidden_size": 10**9}, "config.json: hidden_size is 1000000000, above 262144: copy the checkpoint again"),
        ({"vocab_size": -1}, "config.json: vocab_size is -1: give a number up to 16,777,216"),
        ({"rope_scaling": {"type": "linear"}}, "config.json: rope_scaling has no factor: "
         "copy the config.json of the model again"),
        ({"rope_parameters": {"full_attention": {}, "sliding_attention": {}}}, "config.json: rope_parameters differ by "
         "layer type (full_attention, sliding_attention): use one for all"),
        ({"partial_rotary_factor": 0.5}, "config.json: partial_rotary_factor is 0.5, which is not supported: "
         "use a checkpoint without it"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "config.json: quantization_config says that its tensors "
         "are quantised (mxfp4): load it with transformers, dequantised, and save_pretrained to another folder"),
        ({"use_sliding_window": True, "sliding_window": 4, "layer_types": ["chunked_attention"] * 2},
         "config.json: layer_types names 'chunked_attention': "
         "give one of sliding_attention, full_attention for each layer"),
        ({"use_sliding_window": True, "sliding_window": 4, "layer_types": ["full_attention"]},
         "config.json: layer_types has 1 entries for 2 layers: "
         "give one of sliding_attention, full_attention for each layer"),
    ],
)  # fmt: skip
def test_a_wrong_key_of_config_json_is_named(change, told, folder):
    rewrite(folder, **change)
    assert message(folder) == told


def test_a_key_that_is_missing_has_the_default_of_the_family(folder):
    rewrite(folder, keys=("hidden_size",))
    assert message(folder) == (
        f"model.safetensors: tensor {TABLE} has shape [64, 16], where config.json asks for [64, 4096]: "
        "use the config.json that belongs to these tensors"
    )


def test_files_that_are_missing_damaged_or_unsafe_are_named(folder, tmp_path):
    assert "nowhere: is no directory" in message(tmp_path / "nowhere")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-7])
    assert message(folder).startswith("model.safetensors: is damaged (")
    (folder / "model.safetensors").write_bytes(b"")
    assert message(folder).startswith("model.safetensors: is damaged (")
    (folder / "model.safetensors").unlink()
    assert message(folder) == "model.safetensors: does not exist: give a folder with the model's safetensors"
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    assert message(folder) == (
        "pytorch_model.bin: is a pickle, which can run code when it is read: "
        "convert it with transformers: model.save_pretrained(folder, safe_serialization=True)"
    )
    (folder / "config.json").write_text("{")
    assert message(folder).startswith("config.json: is not JSON (")
    (folder / "config.json").unlink()
    assert message(folder) == "config.json: does not exist: give the folder of a Hugging Face model"


def test_an_index_that_names_other_files_than_there_are_is_refused(tmp_path):
    folder = shutil.copytree(golden.GOLDEN / "llama", tmp_path / "llama")
    second = folder / "model-00002-of-00002.safetensors"
    tensors = safetensors.numpy.load_file(second)
    lost = sorted(tensors)[0]
    safetensors.numpy.save_file({k: v for k, v in tensors.items() if k != lost}, second)
    index = "model.safetensors.index.json"
    assert message(folder) == (
        f"{second.name}: tensor {lost} is missing, which {index} puts there: copy the checkpoint again"
    )
    second.unlink()
    assert message(folder) == f"{second.name}: does not exist, but {index} names it: copy the checkpoint again"
    (folder / index).write_text(json.dumps({"weight_map": {"x": "../outside.safetensors"}}))
    assert message(folder) == f"{index}: has no weight_map of tensors to files beside it: copy the checkpoint again"


# -- exports that cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"activation": "gelu", "qk_norm": True}, "activation"),
        ({"partial_rotary_factor": 0.5, "qk_norm": True}, "partial_rotary_factor"),
        ({"norm": "layernorm"}, "norm"),
        ({"positions": "none"}, "positions"),
        ({"logit_softcap": 5.0}, "logit_softcap"),
        ({"sliding_window": 4, "rope_theta_local": 5.0}, "rope_theta_local"),
        ({"mup_base_width": 8}, "mup_base_width"),
        ({"bias": "all", "qk_norm": True}, "qk_norm"),
        ({"norm_plus_one": True}, "norm_plus_one"),
    ],
)
def test_an_export_names_the_field_that_no_family_can_express(fields, field, tmp_path):
    config = ModelConfig(vocab_size=23, d_model=16, n_layers=2, n_heads=2, **fields)
    with pytest.raises(ConfigError) as error:
        export_model(tmp_path / "out", config, {})
    assert error.value.field == f"model.{field}"
    assert "cannot be expressed by" in error.value.problem
    assert not (tmp_path / "out").exists()


def test_an_export_to_a_given_family_or_a_full_folder_says_what_is_wrong(tmp_path):
    config, params = import_weights(golden.GOLDEN / "qwen3")
    with pytest.raises(ConfigError, match="model.qk_norm: True cannot be expressed by llama: leave the family open"):
        export_model(tmp_path / "out", config, params, model_type="llama")
    with pytest.raises(ConfigError, match="model_type: 'lama' is no family that can be written: use one of llama"):
        export_model(tmp_path / "out", config, params, model_type="lama")
    other = dataclasses.replace(config, d_ff=8)
    with pytest.raises(ConfigError, match=r"params: .*gate_up has shape \[16, 2, 24\], where .* \[16, 2, 8\]"):
        export_model(tmp_path / "out", other, params)
    with pytest.raises(ConfigError, match="params: blocks/attention_norm/gain is missing"):
        export_model(tmp_path / "out", dataclasses.replace(config, scan_layers=True), params)
    with pytest.raises(ConfigError, match="is not empty: give a new folder"):
        export_model(golden.GOLDEN / "qwen3", config, params)
