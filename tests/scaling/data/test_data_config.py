from __future__ import annotations

import dataclasses
import json

import pytest

from models.errors import ConfigError
from scaling.data import DataConfig, Source


@pytest.mark.parametrize(
    "config",
    [
        DataConfig(),
        DataConfig(source="jsonl", path="a.jsonl", prompt_field="question", field="answer", loss_mask="completion"),
        DataConfig(tokenizer="bpe", vocab_size=1024, unique_tokens=10**6, packing="segments"),
        DataConfig(mixture=(Source(weight=0.7), Source("text", "books", weight=0.3))),
    ],
)
def test_a_config_survives_json(config):
    assert DataConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "embeded"}, "data.source: 'embeded' is not one of embedded, text, jsonl, hub, task: did"),
        ({"source": "text"}, "data.path: is None, but the source 'text' needs one: give a file or a folder"),
        ({"path": "x"}, "data.path: is 'x', which the embedded corpus ignores"),
        ({"source": "text", "path": "x", "prompt_field": "q"}, "data.prompt_field"),
        ({"tokenizer": "byte"}, "did you mean 'bytes'?"),
        ({"tokenizer": "bpe"}, "data.vocab_size: is None, but 'bpe' needs"),
        ({"tokenizer": "bpe", "vocab_size": 256}, "data.vocab_size: is 256"),
        ({"vocab_size": 512}, "data.vocab_size: is 512, but the byte tokenizer has 256 tokens"),
        ({"end_of_document": "</s>"}, "data.end_of_document"),
        ({"unique_tokens": 0}, "data.unique_tokens: is 0"),
        ({"unique_tokens": 1.5}, "data.unique_tokens: 1.5 is not an integer or None"),
        ({"packing": "segment"}, "did you mean segments?"),
        ({"loss_mask": "prompt"}, "data.loss_mask: 'prompt' is not one of none, completion"),
        ({"loss_mask": "completion"}, "data.loss_mask: is 'completion' but no source has a prompt"),
        ({"heldout_fraction": 0.0}, "data.heldout_fraction: is 0.0"),
        ({"heldout_fraction": 0.6}, "data.heldout_fraction: is 0.6"),
        ({"path": 3, "source": "text"}, "data.path: 3 is not text or None"),
        ({"unique_tokens": 2**60}, "data.unique_tokens: is 1,152,921,504,606,846,976: give at most"),
        ({"mixture": [{"weight": 1e30}]}, "data.mixture.weight: is 1e+30: give a number from 1e-6 to 1e6"),
        ({"seed": -1}, "data.seed: is -1"),
        ({"mixture": [{"source": "embedded", "wieght": 2}]}, "data.mixture.wieght: is no field of a source: did you"),
        ({"mixture": [{"weight": 0}]}, "data.mixture.weight: is 0"),
        ({"mixture": [{"weight": float("nan")}]}, "data.mixture.weight: nan is not a finite number"),
        ({"mixture": "embedded"}, "data.mixture: is 'embedded'"),
        ({"mixture": [Source()], "source": "text", "path": "x"}, "data.mixture: is given together with"),
    ],
)
def test_a_bad_field_is_named_with_its_fix(fields, message):
    with pytest.raises(ConfigError) as caught:
        DataConfig(**fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
