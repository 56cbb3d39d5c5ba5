"""Dataset: what a DataConfig means on this machine, ready to be drawn from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import require
from scaling.data.batches import Batches
from scaling.data.config import DataConfig
from scaling.data.corpus import open_corpus
from scaling.data.heldout import HeldOut, heldout_batches
from scaling.data.summary import LEFT_OUT
from scaling.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from scaling.data.tokens import TokenFile, default_cache_dir, token_files, trained_tokenizer
from scaling.tasks.text import CharTokenizer, TaskText


@dataclass(frozen=True, eq=False)
class Dataset:
    """Token files of all sources and the tokenizer that made them; cheap to pickle and to share."""

    config: DataConfig
    tokenizer: Tokenizer
    train: tuple[TokenFile, ...]  # one per source
    heldout: tuple[TokenFile, ...]

    @property
    def digest(self) -> str:
        """sha256 over the tokenizer and all token files: equal digests, equal tokens."""
        files = [file.digest for file in (*self.train, *self.heldout)]
        return hashlib.sha256(json.dumps([self.tokenizer.digest, files]).encode()).hexdigest()

    @property
    def record(self) -> dict[str, Any]:
        """What a run directory keeps of it: its digest, and what became of the documents of each source."""
        names = [source.path or source.source for source in self.config.sources]
        sources = [
            {"name": name, "train": _size(train), "heldout": _size(heldout)}
            | {fact: int(train.sidecar.get(fact, 0)) for fact in LEFT_OUT}
            for name, train, heldout in zip(names, self.train, self.heldout, strict=True)
        ]
        return {"digest": self.digest, "heldout_fraction": self.config.heldout_fraction, "sources": sources}

    @property
    def train_tokens(self) -> int:
        """Tokens of the train split, all sources together."""
        return sum(file.count for file in self.train)

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the sources, relative to each other."""
        return tuple(source.weight for source in self.config.sources)

    def batches(self, seq_len: int, batch_size: int, seed: int | None = None) -> Batches:
        """The training batches; `seed` replaces data.seed."""
        batches = Batches(
            self.train,
            seq_len,
            batch_size,
            self.config.seed if seed is None else seed,
            weights=self.weights,
            unique_tokens=self.config.unique_tokens,
            packing=self.config.packing,
            tokenizer_digest=self.tokenizer.digest,
        )
        problem = f"{sum(batches.windows):,} training windows of {seq_len} tokens have no token that carries loss"
        fix = "lengthen the sequence beyond the prompts, or set data.loss_mask='none'"
        require(batches.scores_anything(), "train.seq_len", problem, fix)
        return batches

    def heldout_batches(self, seq_len: int, batch_size: int, limit_tokens: int | None = 2**20) -> HeldOut:
        """The held-out windows, the same for every trial of one seq_len; None takes all of them."""
        return heldout_batches(
            self.heldout,
            self.tokenizer,
            seq_len=seq_len,
            batch_size=batch_size,
            limit_tokens=limit_tokens,
            weights=self.weights,
            packing=self.config.packing,
        )


def _size(file: TokenFile) -> dict[str, int]:
    return {"tokens": file.count, "documents": len(file.documents) - 1}


def prepare(config: DataConfig, vocab_size: int | None = None) -> Dataset:
    """Find, tokenize (once: the result is cached) and map the data of a config.

    Args:
      vocab_size: of the model; checked before anything is read, where the tokenizer is known by then.

    Raises:
      ConfigError: bad or missing data, or a model whose vocabulary does not fit.
    """
    config = config.placed()
    cache = _cache_of(config)
    tokenizer = _given_tokenizer(config)
    known = config.vocab_size if tokenizer is None else tokenizer.vocab_size
    if vocab_size is not None and known is not None:
        check_vocabulary(vocab_size, known)
    corpora = [open_corpus(source) for source in config.sources]
    if tokenizer is None:
        tokenizer = trained_tokenizer(corpora, int(config.vocab_size or 0), config.heldout_fraction, cache)
    pairs = [
        token_files(
            corpus,
            tokenizer,
            heldout_fraction=config.heldout_fraction,
            mask_prompts=config.loss_mask == "completion" and source.has_prompts,
            cache=cache,
        )
        for corpus, source in zip(corpora, config.sources, strict=True)
    ]
    return Dataset(config, tokenizer, tuple(train for train, _ in pairs), tuple(held for _, held in pairs))


def tokenizer_of(config: DataConfig) -> Tokenizer:
    """The tokenizer that `prepare` would use, without tokenising anything; "bpe" comes from the cache or is trained."""
    config = config.placed()
    tokenizer = _given_tokenizer(config)
    if tokenizer is not None:
        return tokenizer
    corpora = [open_corpus(source) for source in config.sources]
    return trained_tokenizer(corpora, int(config.vocab_size or 0), config.heldout_fraction, _cache_of(config))


def _cache_of(config: DataConfig) -> Path:
    return Path(config.cache_dir).expanduser() if config.cache_dir else default_cache_dir()


def _given_tokenizer(config: DataConfig) -> Tokenizer | None:
    """The tokenizer that the config itself fixes; None for "bpe", which is trained on the data."""
    if config.tokenizer == "bytes":
        return ByteTokenizer()
    if config.tokenizer == "bpe":
        return None
    tokenizer: Tokenizer
    if config.tokenizer == "characters":
        tokenizer = CharTokenizer.of(*(TaskText.of(str(source.path)).task for source in config.sources))
    else:
        tokenizer = load_tokenizer(Path(config.tokenizer).expanduser(), config.end_of_document)
    require(
        config.vocab_size in (None, tokenizer.vocab_size),
        "data.vocab_size",
        f"is {config.vocab_size}, but {config.tokenizer} has {tokenizer.vocab_size} tokens",
        "leave it out",
    )
    return tokenizer


def check_vocabulary(model: int, tokenizer: int) -> None:
    """A model's vocabulary is the tokenizer's, or that rounded up to a multiple of 128, which hardware likes.

    Raises:
      ConfigError: it is neither; the message names model.vocab_size.
    """
    padded = -(-tokenizer // 128) * 128
    require(
        model in (tokenizer, padded),
        "model.vocab_size",
        f"is {model}, but the tokenizer has {tokenizer} tokens",
        f"set it to {tokenizer}" if padded == tokenizer else f"set it to {tokenizer}, or {padded} for padding",
    )
