"""Batches as a pure function of the step: the whole state of the data pipeline is one integer."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import ConfigError, require
from scaling.data.config import Packing
from scaling.data.mixture import Mixture, largest_remainders
from scaling.data.permutation import permute
from scaling.data.tokens import TokenFile

# Which windows `unique_tokens` keeps is one fixed draw, so that seeds of one study repeat the same text, and a
# smaller limit keeps a part of what a larger one keeps.
_SUBSET_SEED = 0x15F10B


@dataclass(frozen=True, eq=False)
class Batches:
    """Windows of seq_len + 1 tokens in a seeded order, each exactly once per epoch, from memory-mapped streams.

    Window k of a source starts at token k seq_len, so that consecutive windows share one token and each token but
    the first is a target once. Copies with other seeds (`with_seed`) share the mapped files.
    """

    sources: tuple[TokenFile, ...]
    seq_len: int  # predicted tokens per example
    batch_size: int  # examples per step, over all hosts
    seed: int = 0
    weights: tuple[float, ...] = (1.0,)  # of the sources, relative to each other
    unique_tokens: int | None = None  # use only so many distinct tokens, shared out by weight
    packing: Packing = "concatenate"
    tokenizer_digest: str = ""
    host: int = 0  # reads its own rows of every batch
    hosts: int = 1

    def __post_init__(self) -> None:
        for field in ("seq_len", "batch_size"):
            value = getattr(self, field)
            require(value >= 1, f"train.{field}", f"is {value}", "give a positive integer")
        require(
            len(self.sources) == len(self.weights) > 0,
            "data.mixture",
            f"has {len(self.sources)} sources and {len(self.weights)} weights",
            "give one weight per source",
        )
        require(
            0 <= self.host < self.hosts,
            "hosts",
            f"host {self.host} is not one of {self.hosts}",
            "number the hosts from 0",
        )
        require(
            self.batch_size % self.hosts == 0,
            "train.batch_size",
            f"{self.batch_size} examples cannot be shared out to {self.hosts} hosts",
            f"use a multiple of {self.hosts}",
        )
        self._check_size()

    @classmethod
    def of(cls, tokens: TokenFile, seq_len: int, batch_size: int, seed: int = 0, **options) -> Batches:
        """Batches of a single token file."""
        return cls((tokens,), seq_len, batch_size, seed, **options)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of one step.

        Returns:
          tokens [batch, seq + 1] int32; with packing "segments" also segments [batch, seq + 1] int32, equal for tokens
          of one document (the end-of-document token opens the next one, of which it predicts the first token); with a
          loss mask, or with packing "documents", also weights [batch, seq] float32, of the predictions of
          tokens[:, 1:]; padding has none. With packing "pairs" both as [batch, 2, ...]: the better one, the worse.
        """
        return {name: array[0] for name, array in self.batches(step, 1).items()}

    def batches(self, step: int, count: int, rows: range | None = None) -> dict[str, np.ndarray]:
        """The batches of `count` consecutive steps, gathered at once: as `batch`, with a leading [count].

        rows: which rows of every batch to read; default those of this host.
        """
        share = self.batch_size // self.hosts
        chosen = range(self.host * share, (self.host + 1) * share) if rows is None else rows
        return self.examples(np.arange(step, step + count, dtype=np.int64)[:, None] * self.batch_size + chosen)

    def examples(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Examples [...] by their index in the order of training: as `batch`, with leading [...]."""
        index = np.asarray(index, np.int64)
        source, window = self.locate(index.ravel())
        return gather(self.sources, source, window, self.seq_len, self.packing, index.shape)

    def locate(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source [n] and the window within it [n], int64, of examples [n]."""
        source, within = self._mixture.locate(index, self.seed)
        window = np.empty_like(within)
        for number, (tokens, unique) in enumerate(zip(self.sources, self.windows, strict=True)):
            chosen = slice(None) if len(self.sources) == 1 else source == number
            epoch, place = np.divmod(within[chosen], unique)
            place = permute(place, unique, seed=self.seed, epoch=epoch, stream=number)
            if unique < (available := windows_in(tokens, self.seq_len, self.packing)):
                place = permute(place, available, seed=_SUBSET_SEED, stream=number)
            window[chosen] = place
        return source, window

    def scores_anything(self) -> bool:
        """Whether any prediction of an epoch carries loss."""
        if self.packing != "segments" and all(source.mask is None for source in self.sources):
            return True
        total = sum(self.windows)
        blocks = (self.examples(np.arange(start, min(start + 256, total))) for start in range(0, total, 256))
        return any(scored(block).any() for block in blocks)

    def for_hosts(self, host: int, hosts: int) -> Batches:
        """The same batches, of which host `host` of `hosts` reads its own rows.

        Raises:
          ConfigError: the hosts do not divide the batch.
        """
        return dataclasses.replace(self, host=host, hosts=hosts)

    def with_seed(self, seed: int) -> Batches:
        """The same windows in another order; the mapped files are shared."""
        return dataclasses.replace(self, seed=seed)

    @functools.cached_property
    def windows(self) -> tuple[int, ...]:
        """Distinct windows of each source that training draws from."""
        available = [windows_in(tokens, self.seq_len, self.packing) for tokens in self.sources]
        if self.unique_tokens is None:
            return tuple(available)
        shares = [quota / self._mixture.period for quota in self._mixture.quotas]
        return tuple(largest_remainders(shares, self.unique_tokens // self.window_tokens))

    @property
    def window_tokens(self) -> int:
        """Predicted tokens of an example, padding included."""
        return self.seq_len * (2 if self.packing == "pairs" else 1)

    @property
    def tokens_per_epoch(self) -> int:
        """Distinct predicted tokens."""
        return sum(self.windows) * self.window_tokens

    def epochs(self, steps: int) -> float:
        """How often `steps` steps read the source that they repeat most."""
        drawn = self._mixture.counts(steps * self.batch_size, self.seed)
        return max(count / windows for count, windows in zip(drawn, self.windows, strict=True))

    def unique_tokens_after(self, steps: int) -> int:
        """Distinct tokens among the predicted tokens of the first `steps` steps."""
        drawn = self._mixture.counts(steps * self.batch_size, self.seed)
        return self.window_tokens * sum(min(count, windows) for count, windows in zip(drawn, self.windows, strict=True))

    @property
    def manifest(self) -> dict[str, Any]:
        """Everything that `batch(step)` depends on, as JSON; equal on all hosts."""
        return {
            "files": [tokens.digest for tokens in self.sources],
            "tokenizer": self.tokenizer_digest,
            "counts": [tokens.count for tokens in self.sources],
            "weights": list(self.weights),
            "unique_tokens": self.unique_tokens,
            "packing": self.packing,
            "seq_len": self.seq_len,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    @property
    def manifest_hash(self) -> str:
        """sha256 of the manifest."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def _mixture(self) -> Mixture:
        return Mixture.of(self.weights)

    def _check_size(self) -> None:
        for tokens, unique in zip(self.sources, self.windows, strict=True):
            available, name = windows_in(tokens, self.seq_len, self.packing), tokens.sidecar.get("corpus", "the corpus")
            padded = self.packing in ("documents", "pairs")
            longest = int(np.diff(tokens.documents).max(initial=0)) if padded else 0
            problem = f"a document of {name} has {longest} tokens, its end included, which do not fit a row of"
            require(longest <= self.seq_len + 1, "train.seq_len", f"{problem} {self.seq_len} + 1", "raise it")
            require(
                unique <= available,
                "data.unique_tokens",
                f"is {self.unique_tokens}, but {name} has {available * self.window_tokens} tokens for its share",
                "lower it, or give more text",
            )
            require(
                unique >= 1,
                "train.seq_len" if self.unique_tokens is None else "data.unique_tokens",
                f"{name} has {tokens.count} tokens, from which no window of {self.seq_len} + 1 can be drawn",
                "shorten the sequence, raise data.unique_tokens, or give more text",
            )
        tokens_per_batch = self.batch_size * self.window_tokens
        require(
            sum(self.windows) >= self.batch_size,
            "train.batch_size" if self.unique_tokens is None else "data.unique_tokens",
            f"the corpus gives {self.tokens_per_epoch} training tokens, less than one batch of {tokens_per_batch}",
            "lower train.batch_size or train.seq_len, or give more text",
        )


def check_manifest(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse to continue a run on other data.

    Raises:
      ConfigError: the manifests differ; the message says in which entries.
    """
    names = [name for name in (*saved, *(set(current) - set(saved))) if saved.get(name) != current.get(name)]
    if names:
        changes = (f"{name} was {_short(saved.get(name))} and is now {_short(current.get(name))}" for name in names)
        problem = f"the run was started on other data ({'; '.join(changes)})"
        raise ConfigError("data manifest", problem, "restore that data and config, or use a new work directory")


def windows_in(tokens: TokenFile, seq_len: int, packing: Packing = "concatenate") -> int:
    """Windows of seq_len + 1 tokens in a stream, each sharing a token with the next; its documents where those pack,
    or pairs of them."""
    if packing in ("documents", "pairs"):
        return (len(tokens.documents) - 1) // (2 if packing == "pairs" else 1)
    return max(tokens.count - 1, 0) // seq_len


def gather(
    sources: Sequence[TokenFile],
    source: np.ndarray,
    window: np.ndarray,
    seq_len: int,
    packing: Packing,
    shape: tuple[int, ...],
) -> dict[str, np.ndarray]:
    """Copy windows out of the mapped files: source [n] and window [n] -> arrays [*shape, ...] as `Batches.batch`."""
    if packing == "pairs":
        both = 2 * np.repeat(window, 2) + np.tile([0, 1], len(window))
        return gather(sources, np.repeat(source, 2), both, seq_len, "documents", (*shape, 2))
    tokens = np.empty((len(window), seq_len + 1), np.int32)
    arrays = {"tokens": tokens}
    if packing == "documents" or any(file.mask is not None for file in sources):
        arrays["weights"] = np.ones((len(window), seq_len), np.float32)
    if packing == "segments":
        arrays["segments"] = np.empty_like(tokens)
    for number, file in enumerate(sources):
        chosen = slice(None) if len(sources) == 1 else np.flatnonzero(source == number)
        if packing == "documents":
            tokens[chosen], arrays["weights"][chosen] = _documents(file, window[chosen], seq_len)
            continue
        tokens[chosen] = _windows(file.tokens, seq_len)[window[chosen]]
        if file.mask is not None:
            arrays["weights"][chosen] = _windows(file.mask, seq_len)[window[chosen], 1:]
        if packing == "segments":
            ends = (tokens[chosen] == file.end_of_document).astype(np.int32)
            arrays["segments"][chosen] = np.cumsum(ends, axis=1, out=ends)
    return {name: array.reshape(*shape, array.shape[-1]) for name, array in arrays.items()}


def _documents(file: TokenFile, number: np.ndarray, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Documents [n] as (tokens [n, seq + 1], padded with the end of a document, weights of tokens[:, 1:])."""
    starts = np.asarray(file.documents)
    places = starts[number][:, None] + np.arange(seq_len + 1)
    inside = places < starts[number + 1][:, None]
    places = np.minimum(places, file.count - 1)
    tokens = np.where(inside, np.asarray(file.tokens)[places], file.end_of_document)
    weights = inside if file.mask is None else inside * (np.asarray(file.mask)[places] > 0)
    return tokens, weights[:, 1:]


def scored(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The weight of every prediction [..., seq] float32, of arrays as `Batches.batch` gives them.

    With segments the first token of a document carries none, as in models.transformer.loss.
    """
    targets = arrays["tokens"][..., 1:]
    weights = arrays.get("weights", np.ones(targets.shape, np.float32))
    if "segments" in arrays:
        weights = weights * (arrays["segments"][..., :-1] == arrays["segments"][..., 1:])
    return weights


def _windows(stream: np.ndarray, seq_len: int) -> np.ndarray:
    """A view [windows, seq_len + 1] of a stream; rows overlap by one token."""
    stream = np.asarray(stream)
    count, size = (len(stream) - 1) // seq_len, stream.itemsize
    return np.lib.stride_tricks.as_strided(stream, (count, seq_len + 1), (seq_len * size, size), writeable=False)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:20]}..."
