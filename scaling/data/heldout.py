"""The held-out set: fixed windows, with the bytes of text behind them, so that bits per byte are exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.data.batches import gather, scored, windows_in
from scaling.data.config import Packing
from scaling.data.mixture import Mixture, largest_remainders
from scaling.data.tokenizer import Tokenizer
from scaling.data.tokens import TokenFile


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Batches of held-out windows. The loss is sum(weights * nats) / scored_tokens over all batches."""

    tokens: np.ndarray  # [count, batch, seq + 1] int32
    weights: np.ndarray  # [count, batch, seq] float32: 0 for masked tokens and for the rows that fill the last batch
    segments: np.ndarray | None  # [count, batch, seq + 1] int32 with packing "segments"
    scored_tokens: int  # predictions with weight 1
    scored_bytes: float  # of UTF-8 text behind them (ends of documents: 0)

    def bits_per_byte(self, loss: float) -> float:
        """Bits per byte of a loss in nats/token."""
        return loss * self.scored_tokens / (self.scored_bytes * math.log(2))

    def batches(self) -> dict[str, np.ndarray]:
        """The arrays by the names that `Batches.batches` uses, [count, ...]."""
        arrays = {"tokens": self.tokens, "weights": self.weights}
        return arrays if self.segments is None else arrays | {"segments": self.segments}


def heldout_batches(
    files: Sequence[TokenFile],
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    batch_size: int,
    limit_tokens: int | None = 2**20,
    weights: Sequence[float] = (1.0,),
    packing: Packing = "concatenate",
) -> HeldOut:
    """Windows of the held-out streams, spread evenly over each; sources share `limit_tokens` by weight.

    Of pairs they are the better completions alone.

    Bytes are counted token by token. A vocabulary whose token names do not spell their bytes exactly (it is not
    byte-level) is scaled so that the whole stream has its true number of bytes.

    Raises:
      ConfigError: a held-out stream is shorter than one window.
    """
    available = [windows_in(file, seq_len, packing) for file in files]
    for file, windows in zip(files, available, strict=True):
        name = file.sidecar.get("corpus", "the corpus")
        problem = f"the held-out part of {name} has {file.count} tokens, less than one window of {seq_len} + 1"
        require(windows >= 1, "data.heldout_fraction", problem, "raise it, shorten train.seq_len, or give more text")
    wanted = available
    if limit_tokens is not None:
        require(limit_tokens >= 1, "limit_tokens", f"is {limit_tokens}", "give a positive number of tokens")
        mixture = Mixture.of(weights)
        shares = [quota / mixture.period for quota in mixture.quotas]
        wanted = largest_remainders(shares, max(limit_tokens // seq_len, len(files)))
    counts = [min(max(want, 1), windows) for want, windows in zip(wanted, available, strict=True)]
    source = np.repeat(np.arange(len(files)), counts)
    window = np.concatenate([_spread(count, windows) for count, windows in zip(counts, available, strict=True)])
    if packing == "pairs":
        arrays = gather(files, source, 2 * window, seq_len, "documents", window.shape)
    else:
        arrays = gather(files, source, window, seq_len, packing, window.shape)
    weight = scored(arrays)
    found = HeldOut(
        tokens=_fill(arrays["tokens"], batch_size),
        weights=_fill(weight, batch_size),
        segments=_fill(arrays["segments"], batch_size) if packing == "segments" else None,
        scored_tokens=int(np.count_nonzero(weight)),
        scored_bytes=_bytes(files, tokenizer, source, arrays["tokens"][:, 1:], weight),
    )
    problem = f"{len(window)} held-out windows of {seq_len} tokens have no text that carries loss"
    fix = "raise it or train.eval_sequences, lengthen train.seq_len, or give more text"
    require(found.scored_tokens > 0 and found.scored_bytes > 0, "data.heldout_fraction", problem, fix)
    return found


def _spread(count: int, windows: int) -> np.ndarray:
    """`count` of 0..windows-1 at even distances: the middles of equal parts."""
    return (2 * np.arange(count) + 1) * windows // (2 * count)


def _bytes(files: Sequence[TokenFile], tokenizer: Tokenizer, source, targets: np.ndarray, scored: np.ndarray) -> float:
    per_row = (tokenizer.token_bytes[targets] * (scored > 0)).sum(axis=1, dtype=np.int64)
    total = 0.0
    for number, file in enumerate(files):
        table = file.sidecar["table_bytes"]
        scale = 1.0 if table in (file.text_bytes, 0) else file.text_bytes / table
        total += int(per_row[source == number].sum()) * scale
    return total


def _fill(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """[n, ...] -> [batches, batch_size, ...]; zeros fill the last batch."""
    missing = -len(rows) % batch_size
    padded = np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])
    return padded.reshape(-1, batch_size, *rows.shape[1:])
