from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.data import DataConfig, Source, check_vocabulary, prepare
from scaling.train.objectives import Preference, check_batch


@pytest.fixture
def config(folder, tmp_path):
    return DataConfig(source="text", path=str(folder), heldout_fraction=0.1, cache_dir=str(tmp_path / "cache"))


def test_the_default_config_gives_batches_of_the_embedded_corpus(tmp_path):
    dataset = prepare(DataConfig(cache_dir=str(tmp_path)), vocab_size=256)
    assert dataset.train_tokens > 30e6
    assert 0.005 < dataset.heldout[0].count / dataset.train_tokens < 0.08
    batch = dataset.batches(seq_len=128, batch_size=4).batch(0)
    assert set(batch) == {"tokens"} and batch["tokens"].shape == (4, 129)
    assert dataset.heldout_batches(128, 4).scored_tokens >= 0.99 * min(2**20, dataset.heldout[0].count)
    assert prepare(DataConfig(cache_dir=str(tmp_path))).digest == dataset.digest


def test_a_bpe_dataset_has_the_vocabulary_asked_for(config):
    dataset = prepare(dataclasses.replace(config, tokenizer="bpe", vocab_size=300), vocab_size=300)
    assert dataset.tokenizer.vocab_size == 300
    assert dataset.batches(8, 2).batch(0)["tokens"].max() < 300
    assert dataset.digest != prepare(config).digest


def test_a_trained_tokenizer_can_be_given_as_a_file(config, tmp_path):
    trained = prepare(dataclasses.replace(config, tokenizer="bpe", vocab_size=300))
    trained.tokenizer.save(tmp_path / "tokenizer.json")
    given = prepare(dataclasses.replace(config, tokenizer=str(tmp_path / "tokenizer.json")))
    assert given.digest == trained.digest
    with pytest.raises(ConfigError, match=r"data\.vocab_size: is 301, but .* has 300 tokens"):
        prepare(dataclasses.replace(config, tokenizer=str(tmp_path / "tokenizer.json"), vocab_size=301))


def test_a_mixture_with_prompts_masks_only_its_own_source(folder, write_jsonl, tmp_path):
    path = write_jsonl(*({"q": f"what is {a} squared? ", "a": str(a * a)} for a in range(500)))
    sources = (Source("text", str(folder), weight=3), Source("jsonl", path, "a", prompt_field="q", weight=1))
    config = DataConfig(mixture=sources, loss_mask="completion", packing="segments", cache_dir=str(tmp_path / "c"))
    dataset = prepare(config)
    batches = dataset.batches(seq_len=32, batch_size=8)
    batch = batches.batch(0)
    assert set(batch) == {"tokens", "segments", "weights"}
    source, _ = batches.locate(np.arange(8))
    assert np.bincount(source).tolist() == [6, 2]
    assert (batch["weights"][source == 0] == 1).all() and 0 < batch["weights"][source == 1].mean() < 1
    assert dataset.heldout_batches(16, 4).segments is not None


def test_seeds_and_copies_share_the_files(config):
    dataset = prepare(config)
    assert dataset.batches(8, 2, seed=5).sources[0].tokens is dataset.batches(8, 2).sources[0].tokens
    assert dataset.batches(8, 2, seed=5).manifest["seed"] == 5
    assert len(pickle.dumps(dataset)) < 4000
    assert pickle.loads(pickle.dumps(dataset)).digest == dataset.digest


def test_a_corpus_smaller_than_one_batch_is_an_error(config):
    with pytest.raises(ConfigError, match=r"train\.batch_size: the corpus gives .* tokens, less than one batch"):
        prepare(config).batches(seq_len=64, batch_size=10**6)


@pytest.mark.parametrize(("model", "tokenizer"), [(256, 256), (300, 300), (384, 300)])
def test_a_vocabulary_that_fits_or_is_padded_is_accepted(model, tokenizer):
    check_vocabulary(model, tokenizer)


@pytest.mark.parametrize(
    ("model", "tokenizer", "fix"), [(50257, 256, "set it to 256"), (256, 300, "set it to 300, or 384 for padding")]
)
def test_a_vocabulary_that_does_not_fit_is_an_error(model, tokenizer, fix):
    with pytest.raises(ConfigError) as caught:
        check_vocabulary(model, tokenizer)
    assert str(caught.value) == f"model.vocab_size: is {model}, but the tokenizer has {tokenizer} tokens: {fix}"


def test_the_vocabulary_is_checked_before_anything_is_read(config):
    missing = dataclasses.replace(config, path="/no/such/folder")
    with pytest.raises(ConfigError, match=r"model\.vocab_size"):
        prepare(missing, vocab_size=512)
    with pytest.raises(ConfigError, match=r"model\.vocab_size"):
        prepare(dataclasses.replace(missing, tokenizer="bpe", vocab_size=300), vocab_size=512)


def test_training_text_that_never_carries_loss_is_refused(write_jsonl, tmp_path):
    records = [{"q": f"{number}" + "a long question " * 40, "a": "b"} for number in range(2)]
    fields = {"source": "jsonl", "path": write_jsonl(*records), "field": "a", "prompt_field": "q"}
    config = DataConfig(**fields, loss_mask="completion", heldout_fraction=0.5, cache_dir=str(tmp_path))
    words = r"train\.seq_len: 10 training windows of 64 tokens have no token that carries loss: lengthen"
    with pytest.raises(ConfigError, match=words):
        prepare(config).batches(seq_len=64, batch_size=4)
    assert prepare(config).batches(seq_len=642, batch_size=1).scores_anything()


PAIRS = DataConfig(
    source="jsonl", path="pairs.jsonl", field="good", prompt_field="q", rejected_field="bad", packing="pairs",
    loss_mask="completion", heldout_fraction=0.2,
)  # fmt: skip


def test_a_pair_is_two_rows_after_one_prompt_and_all_pairs_of_a_prompt_are_on_one_side(write_jsonl, tmp_path):
    """Against the lines of the file; held-out loss is that of the better ones, and batches are of the step alone."""
    records = [{"q": f"{a // 2}?", "good": f"yes{a}", "bad": "no" * (a % 3 + 1)} for a in range(120)]
    config = dataclasses.replace(PAIRS, path=write_jsonl(*records, records[0]), cache_dir=str(tmp_path / "c"))
    dataset = prepare(config)
    seq_len, end = 12, dataset.tokenizer.end_of_document
    assert dataset.record["sources"][0]["duplicates"] == 1

    def row(record, name):
        prompt, text = (dataset.tokenizer.encode(record[key]).tolist() for key in ("q", name))
        tokens = [*prompt, *text, end]
        weights = [float(len(prompt) <= i + 1 < len(tokens)) for i in range(seq_len)]
        return (*tokens, *[end] * (seq_len + 1 - len(tokens))), tuple(weights)

    expected = {(row(r, "good"), row(r, "bad")): r["q"] for r in records}
    batches = dataset.batches(seq_len, 4, seed=3)
    batch = batches.examples(np.arange(batches.windows[0]))
    check_batch(Preference(), batch)

    def rows(i):
        return [(tuple(t.tolist()), tuple(w.tolist())) for t, w in zip(batch["tokens"][i], batch["weights"][i])]

    drawn = [tuple(rows(i)) for i in range(batches.windows[0])]
    assert len(set(drawn)) == len(drawn) and set(drawn) < set(expected)
    held = {pair[0]: prompt for pair, prompt in expected.items() if pair not in set(drawn)}
    assert not {expected[pair] for pair in drawn} & set(held.values())
    found = dataset.heldout_batches(seq_len, 4)
    texts = [(tuple(t.tolist()), tuple(w.tolist())) for t, w in zip(found.tokens.reshape(-1, seq_len + 1),
             found.weights.reshape(-1, seq_len)) if w.any()]  # fmt: skip
    assert set(texts) == set(held)
    again, later = batches.batch(5)["tokens"], batches.batches(5, 2)["tokens"]
    assert np.array_equal(again, later[0]) and later.shape == (2, 4, 2, seq_len + 1)
    assert batches.tokens_per_epoch == 2 * seq_len * len(drawn)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rejected_field": None}, "data.packing: is 'pairs', but a source has no rejected completions"),
        ({"packing": "documents"}, "data.rejected_field: is given, but data.packing is 'documents'"),
        ({"loss_mask": "none"}, "data.loss_mask: is 'none' of pairs"),
        ({"rejected_field": "badd"}, "data.jsonl:1: has no field 'badd', but 'q', 'good', 'bad': did you mean data."),
        ({"field": "bad"}, "data.jsonl:1: has the same text in 'bad' and 'bad'"),
        ({"source": "text", "prompt_field": None}, "data.rejected_field: is 'bad', but the source 'text' has no"),
    ],
)
def test_pairs_that_prefer_nothing_are_an_error(changes, message, write_jsonl, tmp_path):
    path = write_jsonl({"q": "1?", "good": "yes", "bad": "no"}, {"q": "2?", "good": "yes", "bad": "no"})
    with pytest.raises(ConfigError) as caught:
        prepare(dataclasses.replace(PAIRS, **{"path": path, "cache_dir": str(tmp_path / "c")} | changes))
    assert message in str(caught.value)
