"""Tokenizers: text to token ids and back, and how many bytes of text each token stands for."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import tokenizers

from models import limits
from models.errors import ConfigError, nearest, require
from models.huggingface.tokenizer import BYTE_LETTERS, spelling, token_bytes
from scaling.data.config import BYTE_VOCABULARY

END_OF_DOCUMENT = "<|endoftext|>"
# The names under which published tokenizers keep the token that ends a document.
_KNOWN_ENDS = (END_OF_DOCUMENT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<|im_end|>", "[SEP]")


class Tokenizer(Protocol):
    """What the data pipeline asks of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to vocab_size - 1."""

    @property
    def end_of_document(self) -> int:
        """The id that ends every document of a token stream."""

    @property
    def digest(self) -> str:
        """sha256, equal for tokenizers that give equal tokens."""

    def encode(self, text: str) -> np.ndarray:
        """Token ids [tokens] int32; no end-of-document token is added."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of every text, in parallel where the tokenizer can."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of token ids; bytes that are not UTF-8 (a cut character) become U+FFFD."""

    @property
    def token_bytes(self) -> np.ndarray:
        """Bytes of text that each id stands for [vocab_size] int32, 0 for the end of a document."""

    @property
    def spelling(self) -> Sequence[bytes]:
        """What each id adds to a text that has begun."""


@dataclass(frozen=True)
class ByteTokenizer:
    """The 256 bytes of UTF-8 text. Byte 0, which text does not use, ends a document, so 256 ids suffice."""

    vocab_size: int = BYTE_VOCABULARY
    end_of_document: int = 0
    digest: str = hashlib.sha256(b"utf-8 bytes, 0 ends a document").hexdigest()

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def decode(self, tokens: Iterable[int]) -> str:
        return np.asarray(list(tokens), np.uint8).tobytes().decode(errors="replace")

    @property
    def token_bytes(self) -> np.ndarray:
        return (np.arange(self.vocab_size) != self.end_of_document).astype(np.int32)

    @property
    def spelling(self) -> Sequence[bytes]:
        return tuple(bytes([byte]) for byte in range(self.vocab_size))

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json that gives the same tokens."""
        letters = {byte: letter for letter, byte in BYTE_LETTERS.items()}
        names = {END_OF_DOCUMENT: self.end_of_document} | {letters[byte]: byte for byte in range(1, self.vocab_size)}
        made = tokenizers.Tokenizer(tokenizers.models.BPE(names, []))
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.decoder = tokenizers.decoders.ByteLevel()
        made.add_special_tokens([END_OF_DOCUMENT])
        made.save(str(path))


_OTHER = "change the text, or use another tokenizer"


class FileTokenizer:
    """A tokenizer.json of the `tokenizers` library: one that `train_bpe` made, or a published one."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, end_of_document: str | None = None, name: str = "tokenizer"):
        # Text that spells the end-of-document token is text; only the pipeline ends documents.
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.end_of_document = _end_of_document(tokenizer, end_of_document, name)
        identity = [json.loads(tokenizer.to_str()), self.end_of_document]
        self.digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def __reduce__(self):
        end = self._tokenizer.id_to_token(self.end_of_document)
        return _from_json, (self._tokenizer.to_str(), end)

    def encode(self, text: str) -> np.ndarray:
        with limits.foreign("text", "cannot be read by the tokenizer", _OTHER):
            return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        with limits.foreign("text", "cannot be read by the tokenizer", _OTHER):
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, tokens: Iterable[int]) -> str:
        return self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=False)

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        return token_bytes(self._tokenizer)

    @functools.cached_property
    def spelling(self) -> Sequence[bytes]:
        return spelling(self._tokenizer)

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json."""
        Path(path).write_text(self._tokenizer.to_str())


def train_bpe(texts: Iterable[str], vocab_size: int) -> FileTokenizer:
    """Train a byte-level BPE tokenizer (the scheme of GPT-2) with the end-of-document token as id 0.

    Raises:
      ConfigError: the text has too few different words for `vocab_size` tokens.
    """
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(byte_level.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab_size()
    require(
        found == vocab_size,
        "data.vocab_size",
        f"is {vocab_size}, but the train split yields only {found} tokens",
        f"set it to {found} or less, or give more text",
    )
    return FileTokenizer(tokenizer)


def load_tokenizer(path: str | Path, end_of_document: str | None = None) -> FileTokenizer:
    """Load a tokenizer.json; `end_of_document` names the token that ends a document if no common name does.

    Raises:
      ConfigError: the file does not exist, is no tokenizer, or has no such token.
    """
    require(Path(path).is_file(), str(path), "does not exist", "give data.tokenizer an existing tokenizer.json")
    limits.check_tokenizer(Path(path))
    with limits.foreign(str(path), "is no tokenizer.json", "give a file of `tokenizers`"):
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    return FileTokenizer(tokenizer, end_of_document, str(path))


def _from_json(text: str, end_of_document: str) -> FileTokenizer:
    return FileTokenizer(tokenizers.Tokenizer.from_str(text), end_of_document)


def _end_of_document(tokenizer: tokenizers.Tokenizer, name: str | None, where: str) -> int:
    for candidate in _KNOWN_ENDS if name is None else (name,):
        if (id := tokenizer.token_to_id(candidate)) is not None:
            return id
    if name is None:
        problem = f"has no end-of-document token under a common name ({', '.join(_KNOWN_ENDS)})"
        raise ConfigError(where, problem, "set data.end_of_document to the token it uses")
    match = nearest(name, tokenizer.get_vocab(with_added_tokens=True))
    fix = f"did you mean {match!r}?" if match else "name a token of its vocabulary"
    raise ConfigError("data.end_of_document", f"{name!r} is no token of {where}", fix)
