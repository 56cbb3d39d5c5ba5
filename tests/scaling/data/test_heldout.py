from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError
from scaling.data import ByteTokenizer, TokenFile, heldout_batches, train_bpe

TEXTS = [f"document {number} on the größe of models and the price of tokens, 漢字\n" for number in range(200)]


def token_file(tokenizer, texts=TEXTS):
    end = [tokenizer.end_of_document]
    tokens = np.concatenate([np.concatenate([tokenizer.encode(text), end]) for text in texts]).astype(np.uint16)
    file = TokenFile.from_array(tokens, end_of_document=end[0])
    size = sum(len(text.encode()) for text in texts)
    file.sidecar.update(text_bytes=size, table_bytes=int(tokenizer.token_bytes[tokens].sum()))
    return file


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), train_bpe(TEXTS, 300)], ids=["bytes", "bpe"])
@settings(max_examples=20)
@given(seq_len=st.integers(1, 50), batch_size=st.integers(1, 7))
def test_the_bytes_are_those_of_the_scored_text(tokenizer, seq_len, batch_size):
    heldout = heldout_batches([file := token_file(tokenizer)], tokenizer, seq_len=seq_len, batch_size=batch_size)
    scored = heldout.tokens[..., 1:][heldout.weights > 0]
    windows = (file.count - 1) // seq_len
    assert scored.tolist() == file.tokens[1 : windows * seq_len + 1].tolist()
    assert heldout.scored_tokens == heldout.weights.sum() == windows * seq_len
    spelled = sum(tokenizer.token_bytes[token] for token in scored)
    assert heldout.scored_bytes == spelled
    tail = tokenizer.token_bytes[file.tokens[windows * seq_len + 1 :]].sum()
    assert spelled == file.text_bytes - tokenizer.token_bytes[file.tokens[0]] - tail


def test_bits_per_byte_are_the_total_bits_over_the_total_bytes():
    tokenizer = train_bpe(TEXTS, 300)
    heldout = heldout_batches([token_file(tokenizer)], tokenizer, seq_len=32, batch_size=4)
    uniform = math.log(tokenizer.vocab_size)
    bits = heldout.scored_tokens * math.log2(tokenizer.vocab_size)
    assert heldout.bits_per_byte(uniform) == pytest.approx(bits / heldout.scored_bytes, rel=1e-12)


def test_bytes_of_a_vocabulary_that_does_not_spell_them_are_scaled_to_the_text():
    tokenizer, file = ByteTokenizer(), token_file(ByteTokenizer())
    file.sidecar["text_bytes"] = 2 * file.sidecar["table_bytes"]
    heldout = heldout_batches([file], tokenizer, seq_len=32, batch_size=4)
    assert heldout.scored_bytes == 2 * np.count_nonzero(heldout.tokens[..., 1:][heldout.weights > 0])


@pytest.mark.parametrize("limit", [1, 100, 1000, 10**9, None])
def test_a_limit_takes_windows_at_even_distances(limit):
    file = TokenFile.from_array(np.arange(1, 5002, dtype=np.uint16))
    heldout = heldout_batches([file], ByteTokenizer(4 * 2**14), seq_len=10, batch_size=8, limit_tokens=limit)
    starts = heldout.tokens[..., 0].ravel()
    starts = starts[starts > 0] - 1
    count = min(max((limit or 10**9) // 10, 1), 500)
    assert len(starts) == count and heldout.scored_tokens == 10 * count
    assert np.ptp(np.diff(starts)) <= 10 if count > 2 else True
    assert abs(starts.mean() - 2500) <= 10


def test_masked_tokens_are_not_scored():
    mask = np.tile([0, 0, 1, 1, 1], 100).astype(np.uint8)
    file = TokenFile.from_array(np.full(500, 65, np.uint8), mask)
    heldout = heldout_batches([file], ByteTokenizer(), seq_len=10, batch_size=4)
    assert heldout.scored_tokens == heldout.scored_bytes == mask[1:491].sum() == heldout.weights.sum()


def test_sources_share_the_limit_by_weight():
    files = [TokenFile.from_array(np.full(5000, letter, np.uint8)) for letter in (65, 66)]
    options = {"seq_len": 10, "batch_size": 5, "weights": (3, 1), "packing": "segments"}
    heldout = heldout_batches(files, ByteTokenizer(), limit_tokens=400, **options)
    letters = heldout.tokens[..., 0].ravel().tolist()
    assert (letters.count(65), letters.count(66)) == (30, 10)
    assert heldout.batches()["segments"].shape == heldout.tokens.shape


def test_a_stream_shorter_than_a_window_is_an_error():
    file = TokenFile.from_array(np.ones(10, np.uint8))
    with pytest.raises(ConfigError, match=r"data\.heldout_fraction: the held-out part of the corpus has 10 tokens"):
        heldout_batches([file], ByteTokenizer(), seq_len=10, batch_size=1)


def test_the_first_token_of_a_document_is_not_scored_where_documents_are_apart():
    file = TokenFile.from_array(np.frombuffer(b"\0".join([b"some text"] * 100), np.uint8))
    heldout = heldout_batches([file], ByteTokenizer(), seq_len=20, batch_size=4, packing="segments")
    segments = np.asarray(heldout.segments)
    same = segments[..., 1:] == segments[..., :-1]
    assert heldout.scored_tokens == heldout.weights.sum() == (same & (heldout.tokens[..., 1:] > 0)).sum()


@pytest.mark.parametrize("text", [b"q" * 500, b"\0" * 500])
def test_a_heldout_part_without_a_scored_byte_is_refused(text):
    mask = np.zeros(500, np.uint8) if text[0] else None  # prompts alone, and ends of documents alone
    file = TokenFile.from_array(np.frombuffer(text, np.uint8), mask)
    with pytest.raises(ConfigError, match=r"fraction: 4\d held-out windows of 10 tokens have no text that"):
        heldout_batches([file], ByteTokenizer(), seq_len=10, batch_size=4)
