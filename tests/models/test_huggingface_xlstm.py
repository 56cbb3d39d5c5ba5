"""The published xLSTM config is the published model; token by token its checkpoints score as a whole; the rest is said.

test_huggingface.py has the logits and the round trips of the golden checkpoint.
"""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import cache, counts, transformer
from models.channels.dense import Dense
from models.config import ModelConfig
from models.errors import ConfigError
from models.huggingface import import_weights
from models.huggingface.config import FAMILIES, computation, family_of, read_config, write_config
from models.huggingface.families import xlstm
from models.layer import Layer
from models.mixers.mlstm import MLSTM
from search.engine import decode
from tests.models.test_huggingface import TOLERANCE, expected
from tests.models.write_huggingface_golden import GOLDEN

FAMILY = FAMILIES["xlstm"]
PUBLISHED = {
    "model_type": "xlstm", "add_out_norm": True, "autocast_kernel_dtype": "bfloat16", "chunk_size": 64,
    "chunkwise_kernel": "chunkwise--triton_xl_chunk", "embedding_dim": 4096, "eps": 1e-06, "ffn_proj_factor": 2.667,
    "ffn_round_up_to_multiple_of": 64, "gate_soft_cap": 15.0, "hidden_size": 4096, "mode": "inference",
    "norm_eps": 1e-06, "norm_reduction_force_float32": True, "num_blocks": 32, "num_heads": 8, "num_hidden_layers": 32,
    "output_logit_soft_cap": 30.0, "qk_dim_factor": 0.5, "use_bias": False, "v_dim_factor": 1.0, "vocab_size": 50304,
    "weight_mode": "single",
}  # fmt: skip
OURS = ModelConfig(
    23, 16, 3, 2, d_ff=44, positions="none", logit_softcap=30.0, tied_embeddings=False,
    pattern=(Layer(MLSTM(3, 5, 7, cap=10.0)),),
)  # fmt: skip


def test_the_published_config_is_the_published_model():
    """xLSTM 7B: 6.87e9 parameters, 4 MiB of state and its norms a layer and row."""
    config = read_config(FAMILY, PUBLISHED, "config.json")
    assert config == read_config(FAMILY, {}, "config.json")
    assert counts.params(config) == 6_865_424_896
    assert config.pattern == (Layer(MLSTM(8, 256, 512)),) and config.d_ff == 10_944
    assert counts.state_bytes_per_row(config) == 32 * 4 * 8 * 256 * 513


def test_token_by_token_the_logits_are_those_of_transformers():
    config, params = import_weights(GOLDEN / "xlstm")
    tokens, logits = expected("xlstm")
    pool, zero, live = cache.empty_pool(config, 1, 4), jnp.zeros(1, jnp.int32), jnp.ones(1, bool)

    @jax.jit
    def read(blocks, states, new, at):
        return decode.forward(config, params, pool, blocks, states, (), new, zero, at, live)

    blocks, states, found = (cache.empty(config, 1, tokens.shape[1]),), cache.empty_states(config, 1), []
    for at in range(tokens.shape[1]):
        scores, blocks, states = read(blocks, states, tokens[:, at : at + 1], zero + at)
        found.append(scores)
    np.testing.assert_allclose(np.concatenate(found, axis=1), logits, atol=TOLERANCE)


def test_the_golden_logits_depend_on_both_caps():
    config, params = import_weights(GOLDEN / "xlstm")
    tokens, logits = expected("xlstm")
    (layer,) = config.pattern
    loose = dataclasses.replace(layer, mixer=dataclasses.replace(layer.mixer, cap=15.0))
    other = dataclasses.replace(config, pattern=(loose,))
    assert np.abs(jax.jit(transformer.apply, static_argnums=0)(other, params, tokens) - logits).max() > 100 * TOLERANCE
    assert np.abs(2 * np.arctanh(logits / 2) - logits).max() > 100 * TOLERANCE


@pytest.mark.parametrize("width", [7, 16, 49, 160, 4096])
def test_the_factors_of_a_file_are_cut_to_the_widths_that_they_were_written_for(width):
    sizes = range(1, 3 * width)
    factors = [xlstm._factor(features, width) for features in sizes]
    assert [int(width * factor) for factor in factors] == list(sizes)
    assert [int((width * factor + 1 - 1) // 1) for factor in factors] == list(sizes)  # as a block is rounded up by 1


def test_a_model_of_our_own_is_written_and_read_back():
    family, written = write_config(OURS)
    assert family is FAMILY and not written["use_cache"]  # 15 and 21 features fit no cache of transformers
    again = read_config(*family_of(json.loads(json.dumps(written)), "config.json"), "config.json")
    assert computation(again) == computation(OURS)
    wide = dataclasses.replace(OURS, pattern=(Layer(MLSTM(4, 16, 32)),))
    assert write_config(wide)[1]["use_cache"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"gate_soft_cap": 30.0}, "gate_soft_cap is 30: use a checkpoint with a number above 0, 20 at most"),
        ({"output_logit_soft_cap": 0.0}, "output_logit_soft_cap is 0: give a positive number"),
        ({"weight_mode": "fused"}, "weight_mode is 'fused', which is not supported: use a checkpoint without it"),
        ({"use_bias": True}, "use_bias is True, which is not supported: use a checkpoint without it"),
        ({"add_out_norm": False}, "add_out_norm is False, which is not supported: use a checkpoint without it"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True, which is not supported: "
         "use a checkpoint without it"),
        ({"eps": 0.1}, "eps is 0.1, which is not supported: use a checkpoint without it"),
        ({"num_blocks": 3}, "num_blocks is 3, where num_hidden_layers is 32: give both the same number"),
        ({"embedding_dim": 64}, "embedding_dim is 64, where hidden_size is 4096: give both the same number"),
        ({"num_heads": 3}, "num_heads is 3, which do not divide the 2048 features of qk_dim_factor: "
         "use the config.json of the checkpoint"),
        ({"num_heads": 0}, "num_heads is 0: give a positive integer"),
        ({"chunk_size": 0}, "chunk_size is 0: give a positive integer"),
        ({"v_dim_factor": 1e-9}, "v_dim_factor asks for 4.096e-06 features: give a factor for 1 to 16,777,216 of them"),
        ({"ffn_round_up_to_multiple_of": 0}, "ffn_round_up_to_multiple_of is 0: give a positive integer"),
    ],
)  # fmt: skip
def test_a_key_that_no_model_here_can_follow_is_named(keys, told):
    with pytest.raises(ConfigError) as error:
        read_config(FAMILY, PUBLISHED | keys, "config.json")
    assert str(error.value) == f"config.json: {told}"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"logit_softcap": None}, "logit_softcap"),
        ({"tied_embeddings": True}, "tied_embeddings"),
        ({"activation": "geglu"}, "activation"),
        ({"pattern": (Layer(MLSTM(3, 5, 7)), Layer(MLSTM(3, 5, 8)))}, "pattern"),
        ({"pattern": (Layer(MLSTM(3, 5, 7), None),)}, "pattern"),
        ({"pattern": (Layer(MLSTM(3, 5, 7), Dense(d_ff=48)),)}, "pattern"),
    ],
)
def test_an_export_names_what_the_family_cannot_say(fields, field):
    with pytest.raises(ConfigError) as error:
        write_config(dataclasses.replace(OURS, **fields), "xlstm")
    assert error.value.field == f"model.{field}" and "cannot be expressed by xlstm" in error.value.problem
