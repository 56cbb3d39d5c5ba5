"""Evaluate a model on items: one row per item, from which every score follows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from models import counts
from models.config import ModelConfig
from models.errors import require
from scaling.evaluate.choice import Likelihoods, bits_per_byte, brier, log_loss
from scaling.evaluate.grading import Extract, Verify, after_marker, grade
from scaling.evaluate.item import NORMALISATIONS, Item
from scaling.evaluate.likelihood import continuations
from scaling.evaluate.reading import Reader, Tokens

Generate = Callable[[Sequence[Tokens]], list[str]]
"""contexts -> the text that each is answered with, greedily: what package `search` hands in."""

# name -> (unit or meaning, Arrow type); the first ones are those of every results table
COLUMNS: dict[str, tuple[str, pa.DataType]] = {
    "task": ("suite of the item", pa.string()),
    "problem": ("id of the item in its suite", pa.string()),
    "correct": ("whether the item's own normalisation, or the grading of the answer, is right", pa.bool_()),
    "score": ("0 to 1: correct, or what a partial score gives (an ordering: (1 + tau) / 2)", pa.float64()),
    "format": ("choice, cloze, generate, ordering or numeric", pa.string()),
    "subset": ("part of the suite", pa.string()),
    "level": ("of difficulty, as the item's author sees it", pa.int64()),
    "chance": ("what guessing scores", pa.float64()),
    "human": ("share of people who are right", pa.float64()),
    "shots": ("solved examples before the question", pa.int64()),
    **{f"correct_{by}": (f"whether the pick by {by} log-likelihood is right", pa.bool_()) for by in NORMALISATIONS},
    "tied": ("whether the pick by the item's normalisation had an equal", pa.bool_()),
    "probability": ("of the right choices, renormalised over the choices", pa.float64()),
    "confidence": ("of the pick by raw log-likelihood, renormalised over the choices", pa.float64()),
    "brier": ("sum over choices of (p - 1[right])^2, 0 to 2", pa.float64()),
    "log_loss": ("nats, of the right choices", pa.float64()),
    "gold_logprob": ("nats of the first right continuation, over the whole vocabulary", pa.float64()),
    "gold_bits_per_byte": ("of the first right continuation", pa.float64()),
    "exact": ("whether greedy decoding gives the first right continuation", pa.bool_()),
    "token_accuracy": ("share of its tokens that are the likeliest after all right ones before", pa.float64()),
    "logprobs": ("nats of each choice, or of the gold of a cloze", pa.list_(pa.float64())),
    "unconditional": ("nats of each without the question", pa.list_(pa.float64())),
    "greedy": ("whether every token of it is the likeliest", pa.list_(pa.bool_())),
    "right_tokens": ("how many of its tokens are the likeliest", pa.list_(pa.int64())),
    "lengths_tokens": ("tokens of each", pa.list_(pa.int64())),
    "lengths_chars": ("characters of each", pa.list_(pa.int64())),
    "lengths_bytes": ("bytes of each", pa.list_(pa.int64())),
    "text": ("the generated answer", pa.string()),
    "parsed": ("what was read of it", pa.string()),
    "fault": ("parse, wrong, unit or permutation; empty where it is right", pa.string()),
    "tau": ("Kendall's, of an ordering", pa.float64()),
    "prompt_tokens": ("read", pa.int64()),
    "flops": ("to read them; of generated answers without the generation, which its own ledger has", pa.float64()),
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model that is evaluated: what it is, how it reads items, and how many tokens it was made to read at once."""

    model: ModelConfig
    params: Any
    reader: Reader
    most: int | None = None


def evaluate(
    subject: Subject, items: Sequence[Item], generate: Generate | None = None, verify: Verify | None = None,
    extract: Extract = after_marker,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row (see COLUMNS) for each item, in their order.

    generate: for items whose answer is generated; ConfigError where there are such and none is given. verify, extract:
    see `grading.grade`.
    """
    measured = [i for i, item in enumerate(items) if item.format in ("choice", "cloze")]
    written = [i for i in range(len(items)) if i not in set(measured)]
    rows: dict[int, dict[str, Any]] = {}
    for i, found, tokens in _measured(subject, [items[i] for i in measured], measured):
        rows[i] = _common(items[i]) | _likely(items[i], found) | _cost(subject.model, tokens)
    if written:
        first = items[written[0]]
        fix = "hand in a generator, or ask for choice and cloze items only"
        require(generate is not None, first.suite, f"has {first.format} items, whose answers are generated", fix)
        assert generate is not None
        contexts = [subject.reader.question(items[i])[0] for i in written]
        for i, context, text in zip(written, contexts, generate(contexts), strict=True):
            rows[i] = (
                _common(items[i]) | _graded(items[i], text, extract, verify) | _cost(subject.model, [len(context)])
            )
    return [rows[i] for i in range(len(items))]


def table(rows: Sequence[Mapping[str, Any]], free: Mapping[str, pa.DataType] | None = None) -> pa.Table:
    """Rows as an Arrow table with units in the field metadata; `free` columns come first."""
    kinds = dict(free or {}) | {name: kind for name, (_, kind) in COLUMNS.items()}
    units = {name: {"unit": COLUMNS[name][0]} if name in COLUMNS else None for name in kinds}
    schema = pa.schema([pa.field(name, kind, metadata=units[name]) for name, kind in kinds.items()])
    return pa.Table.from_pylist([{name: row.get(name) for name in kinds} for row in rows], schema)


def _common(item: Item) -> dict[str, Any]:
    return {
        "task": item.suite, "problem": item.id, "format": item.format, "subset": item.subset, "level": item.level,
        "chance": item.chance, "human": item.human, "shots": len(item.shots),
    }  # fmt: skip


def _cost(model: ModelConfig, tokens: Sequence[int]) -> dict[str, Any]:
    return {"prompt_tokens": int(sum(tokens)), "flops": float(sum(_flops(model, n) for n in tokens))}


@functools.lru_cache(4096)
def _flops(model: ModelConfig, tokens: int) -> int:
    return counts.forward_flops(model, tokens)


def _measured(
    subject: Subject, items: Sequence[Item], places: Sequence[int]
) -> list[tuple[int, Likelihoods, list[int]]]:
    """(place, likelihoods of its choices, tokens of each row read) of choice and cloze items."""
    pairs: list[tuple[Tokens, Tokens]] = []
    for item in items:
        for text in _texts(item):
            pairs += [subject.reader.question(item, text), subject.reader.unconditional(item, text)]
    scored = iter(continuations(subject.model, subject.params, pairs, subject.most))
    lengths = iter(len(context) + len(continuation) - 1 for context, continuation in pairs)
    found = []
    for place, item in zip(places, items, strict=True):
        texts = _texts(item)
        each = [(next(scored), next(scored)) for _ in texts]
        read = [next(lengths) for _ in range(2 * len(texts))]
        likelihoods = Likelihoods(
            logp=np.array([given.logprobs.sum() for given, _ in each]),
            unconditional=np.array([without.logprobs.sum() for _, without in each]),
            greedy=np.array([bool(given.greedy.all()) for given, _ in each]),
            right_tokens=np.array([int(given.greedy.sum()) for given, _ in each]),
            tokens=np.array([len(given.logprobs) for given, _ in each]),
            chars=np.array([len(text) for text in texts]),
            bytes=np.array([len(text.encode()) for text in texts]),
        )
        found.append((place, likelihoods, read))
    return found


def _texts(item: Item) -> list[str]:
    return list(item.choices) if item.format == "choice" else [str(gold) for gold in item.gold]  # type: ignore[union-attr]


def _likely(item: Item, found: Likelihoods) -> dict[str, Any]:
    """The columns of an item whose choices, or gold, were measured."""
    gold = tuple(int(g) for g in item.gold) if item.format == "choice" else (0,)  # type: ignore[union-attr]
    first = gold[0]
    row: dict[str, Any] = {
        "gold_logprob": float(found.logp[first]),
        "gold_bits_per_byte": bits_per_byte(found, first),
        "exact": bool(found.greedy[first]),
        "token_accuracy": float(found.right_tokens[first] / found.tokens[first]),
        "logprobs": found.logp.tolist(),
        "unconditional": found.unconditional.tolist(),
        "greedy": found.greedy.tolist(),
        "right_tokens": found.right_tokens.tolist(),
        "lengths_tokens": found.tokens.tolist(),
        "lengths_chars": found.chars.tolist(),
        "lengths_bytes": found.bytes.tolist(),
    }
    if item.format == "cloze":
        right = bool(found.greedy.any())
        return row | {"correct": right, "score": float(right)}
    probabilities = found.probabilities()
    picks = found.picks()
    right = picks[item.normalisation] in gold
    return row | {
        "correct": right,
        "score": float(right),
        **{f"correct_{by}": pick in gold for by, pick in picks.items()},
        "tied": found.tied(item.normalisation),
        "probability": float(probabilities[list(set(gold))].sum()),
        "confidence": float(probabilities.max()),
        "brier": brier(probabilities, gold),
        "log_loss": log_loss(probabilities, gold),
    }


def _graded(item: Item, text: str, extract: Extract, verify: Verify | None) -> dict[str, Any]:
    """The columns of an item whose answer was generated."""
    made = grade(item, text, extract, verify)
    score = float(made.correct) if made.tau is None or made.fault not in ("", "wrong") else (1 + made.tau) / 2
    return {"correct": made.correct, "score": score, "text": text, "parsed": made.parsed, "fault": made.fault,
            "tau": made.tau}  # fmt: skip
