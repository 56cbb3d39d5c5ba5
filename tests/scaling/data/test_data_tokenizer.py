from __future__ import annotations

import pickle

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from models.errors import ConfigError
from scaling.data import ByteTokenizer, FileTokenizer, load_tokenizer, train_bpe

TEXT = [f"the loss falls with compute as a power law, run {number} of größe {number**2}\n" for number in range(300)]
BPE = train_bpe(TEXT, 400)


@pytest.fixture
def word_level():
    """A tokenizer.json of another kind: one id per word, special tokens added around a text."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "▁bé": 1, "<0x41>": 2, "[UNK]": 3}, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<stop>"])
    return tokenizer


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
@given(text=st.text())
def test_any_text_survives_the_round_trip(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokens.dtype == np.int32 and (tokens < tokenizer.vocab_size).all()


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
@given(text=st.text().filter(lambda text: "\0" not in text))
def test_the_bytes_of_tokens_add_up_to_the_bytes_of_the_text(tokenizer, text):
    assert tokenizer.token_bytes[tokenizer.encode(text)].sum() == len(text.encode())


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
@settings(max_examples=20)
@given(texts=st.lists(st.text()))
def test_a_batch_is_encoded_as_its_texts_are(tokenizer, texts):
    together = tokenizer.encode_batch(texts)
    assert [list(tokens) for tokens in together] == [list(tokenizer.encode(text)) for text in texts]


def test_bytes_need_256_ids_and_byte_0_ends_a_document():
    tokenizer = ByteTokenizer()
    assert (tokenizer.vocab_size, tokenizer.end_of_document) == (256, 0)
    assert tokenizer.token_bytes.tolist() == [0] + [1] * 255


def test_a_cut_character_decodes_to_the_replacement_character():
    assert ByteTokenizer().decode("é".encode()[:1]) == "\N{REPLACEMENT CHARACTER}"


def test_text_that_spells_the_end_of_document_token_is_text():
    tokens = BPE.encode("a<|endoftext|>b")
    assert BPE.end_of_document not in tokens
    assert BPE.decode(tokens) == "a<|endoftext|>b"


def test_training_is_deterministic_and_gives_the_vocabulary_asked_for():
    again = train_bpe(iter(TEXT), 400)
    assert again.digest == BPE.digest and again.vocab_size == 400 and again.end_of_document == 0
    assert train_bpe(TEXT, 300).digest != BPE.digest


def test_a_saved_or_pickled_tokenizer_is_the_same_tokenizer(tmp_path):
    BPE.save(tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / "tokenizer.json").digest == BPE.digest
    assert pickle.loads(pickle.dumps(BPE)).digest == BPE.digest


def test_too_little_text_for_the_vocabulary_is_an_error():
    with pytest.raises(ConfigError, match=r"data\.vocab_size: is 5000, but the train split yields only [0-9]+ tokens"):
        train_bpe(TEXT[:3], 5000)


def test_the_end_of_document_token_of_a_file_can_be_named(word_level, tmp_path):
    word_level.save(str(tmp_path / "t.json"))
    tokenizer = load_tokenizer(tmp_path / "t.json", "<stop>")
    assert tokenizer.vocab_size == 5 and tokenizer.end_of_document == 4
    assert tokenizer.token_bytes.tolist() == [1, 4, 1, 5, 0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "has no end-of-document token under a common name"),
        ("<stp>", "data.end_of_document: '<stp>' is no token of tokenizer: did you mean '<stop>'?"),
    ],
)
def test_a_file_without_the_end_of_document_token_is_an_error(word_level, name, message):
    with pytest.raises(ConfigError) as caught:
        FileTokenizer(word_level, name)
    assert message in str(caught.value)


def test_a_file_that_is_missing_or_no_tokenizer_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.json: does not exist"):
        load_tokenizer(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"broken\.json: is no tokenizer\.json"):
        load_tokenizer(tmp_path / "broken.json")


def test_the_byte_tokenizer_saved_gives_the_same_ids(tmp_path):
    ByteTokenizer().save(tmp_path / "tokenizer.json")
    saved = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert saved.get_vocab_size() == 256 and saved.token_to_id("<|endoftext|>") == ByteTokenizer().end_of_document
    assert set(ByteLevel.alphabet()) - set(saved.get_vocab()) == {chr(0x100)}  # byte 0, which text does not use
    text = "größe 漢字\n\t" + "".join(map(chr, range(1, 0x250)))
    assert saved.encode(text, add_special_tokens=False).ids == ByteTokenizer().encode(text).tolist()
    assert saved.decode(ByteTokenizer().encode(text).tolist(), skip_special_tokens=False) == text
