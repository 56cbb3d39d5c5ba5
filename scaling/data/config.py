"""DataConfig: which text a model is trained on, and how it becomes tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from models.errors import ConfigError, nearest, require
from models.serialize import added, digest
from scaling.tasks.text import TaskText
from scaling.typed import at_most, typed

Packing = Literal["concatenate", "segments", "documents", "pairs"]
SourceName = Literal["embedded", "text", "jsonl", "hub", "task"]
BYTE_VOCABULARY = 256
_PATHS = {"hub": "give the name of a dataset", "task": "give the name of a task, such as 'countdown'"}
_TOKENIZERS = ("bytes", "bpe", "characters")


@dataclass(frozen=True)
class Source:
    """One source of a mixture; `weight` is its share of the training examples, relative to the other sources."""

    source: SourceName = "embedded"  # as in DataConfig
    path: str | None = None  # text, jsonl: a file or a folder; hub: "owner/name" or "owner/name:configuration";
    # task: a name of scaling.tasks with its knobs, and how many examples: "countdown:numbers=4,examples=50000"
    field: str = "text"  # jsonl, hub: the field that holds the text (the completion, where there is a prompt)
    prompt_field: str | None = None  # jsonl, hub: a field that precedes `field` in the same document
    weight: float = 1.0  # relative to the other sources
    rejected_field: str | None = added(None)  # jsonl, hub: a field that holds a worse completion than `field` does

    def __post_init__(self) -> None:
        typed(self, "data.mixture")
        _check_source(self, "data.mixture")
        fix = "give a number from 1e-6 to 1e6 (weights are relative to each other)"
        require(1e-6 <= self.weight <= 1e6, "data.mixture.weight", f"is {self.weight!r}", fix)

    @property
    def is_file(self) -> bool:
        """Whether `path` names a file or a folder."""
        return self.source in ("text", "jsonl")

    @property
    def has_prompts(self) -> bool:
        """Whether its documents have a prompt, on which `loss_mask` can leave out the loss."""
        return self.prompt_field is not None or self.source == "task"


@dataclass(frozen=True)
class DataConfig:
    """Text, tokenizer, split and order of the training data; nothing is read before `prepare(config)`.

    The split holds out whole documents by the sha256 of their text, so a document stays on its side whatever
    else is added, removed or reordered, and exact duplicates cannot straddle the split. What is long for its corpus
    (a book) is cut first, and its pieces are split.
    """

    source: SourceName = "embedded"  # embedded: sources of the standard library and of our own dependencies; text:
    # UTF-8 files; jsonl: an object a line (both also .gz, .zst); hub: a dataset of Hugging Face; task: one of ours
    path: str | None = None  # a file, a folder, a dataset or a task, as in Source
    field: str = "text"  # jsonl, hub: the field that holds the text, as in Source
    prompt_field: str | None = None  # jsonl, hub: a field that precedes it, as in Source
    mixture: tuple[Source, ...] = ()  # several weighted sources instead of the single one above
    tokenizer: str = "bytes"  # "bytes", "bpe" (trained on the train split), "characters" (those of the tasks that are
    # the sources), or the path of a tokenizer.json
    vocab_size: int | None = None  # of the tokenizer; required by "bpe", otherwise known
    end_of_document: str | None = None  # the token of a tokenizer.json that ends a document, if no common name does
    unique_tokens: int | None = None  # train on only so many distinct tokens, repeated (repeated-data studies)
    packing: Packing = "concatenate"  # windows over one stream of documents; "segments" also gives the document of
    # every token, so that attention can stay within a document; "documents": one document a row, padded; "pairs": two,
    # of which the first is preferred (field and rejected_field, each after the prompt)
    loss_mask: Literal["none", "completion"] = "none"  # "completion": tokens of the prompt carry no loss
    heldout_fraction: float = 0.05  # of the documents, and of the pieces of long ones
    cache_dir: str | None = None  # None: $XDG_CACHE_HOME/isoflop, or ~/.cache/isoflop
    seed: int = 0  # of the order of the training windows, where data is used by itself: a run takes train.seed
    root: str | None = added(None)  # the folder that relative paths of a config start from; None: the working
    # directory. A run directory fills it in, so that a worker started elsewhere reads the same text
    rejected_field: str | None = added(None)  # jsonl, hub: a field that holds a worse completion, as in Source

    def __post_init__(self) -> None:
        object.__setattr__(self, "mixture", _sources(self.mixture))
        typed(self, "data")
        at_most(self, "data", unique_tokens=2**50, vocab_size=2**24)
        require(len(self.mixture) <= 1000, "data.mixture", f"has {len(self.mixture)} sources", "give at most 1,000")
        _check_source(self, "data")
        self._check_mixture()
        self._check_pairs()
        self._check_tokenizer()
        for field in ("cache_dir", "root"):
            nul = "\0" in (getattr(self, field) or "")
            require(not nul, f"data.{field}", "holds the character 0, which no path can", "leave it out")
        for field, literal in (("packing", get_args(Packing)), ("loss_mask", ("none", "completion"))):
            _check_choice(f"data.{field}", getattr(self, field), literal)
        require(
            self.loss_mask == "none" or any(source.has_prompts for source in self.sources),
            "data.loss_mask",
            "is 'completion' but no source has a prompt",
            "set data.prompt_field to the field that holds the prompt",
        )
        require(
            self.unique_tokens is None or self.unique_tokens >= 1,
            "data.unique_tokens",
            f"is {self.unique_tokens!r}",
            "give a positive number of tokens, or None for all of them",
        )
        require(
            0 < self.heldout_fraction <= 0.5,
            "data.heldout_fraction",
            f"is {self.heldout_fraction!r}",
            "give a fraction above 0 and up to 0.5, such as 0.02",
        )
        require(
            0 <= self.seed < 2**63,
            "data.seed",
            f"is {self.seed!r}",
            "give an integer from 0 to 2**63 - 1",
        )

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources as one tuple: the mixture, or the single source with weight 1."""
        return self.mixture or (self._single,)

    @property
    def _single(self) -> Source:
        named = (self.source, self.path, self.field, self.prompt_field)
        return Source(*named, rejected_field=self.rejected_field)

    @property
    def key(self) -> str:
        """Names the data within a sweep: equal for configs that differ only in where things lie on this machine."""
        return digest(dataclasses.replace(self, cache_dir=None, root=None))

    @property
    def is_relative(self) -> bool:
        """Whether a path in it depends on the folder that it starts from."""
        return self._placed(Path("/")) != self

    def placed(self) -> DataConfig:
        """The same config as the working directory sees it: relative paths start from `root`."""
        return self if self.root is None or Path(self.root) == Path.cwd() else self._placed(Path(self.root))

    def _placed(self, root: Path) -> DataConfig:
        sources = tuple(dataclasses.replace(s, path=under(root, s.path)) if s.is_file else s for s in self.mixture)
        single = self._single
        tokenizer = str(under(root, self.tokenizer)) if self.tokenizer.endswith(".json") else self.tokenizer
        path = under(root, self.path) if single.is_file else self.path
        cache = under(root, self.cache_dir)
        return dataclasses.replace(self, mixture=sources, path=path, tokenizer=tokenizer, cache_dir=cache)

    def _check_mixture(self) -> None:
        require(
            not self.mixture or self._single == Source(),
            "data.mixture",
            "is given together with a single source (data.source, path, field, prompt_field or rejected_field)",
            "move that source into the mixture",
        )

    def _check_pairs(self) -> None:
        pairs = [source.rejected_field is not None for source in self.sources]
        if self.packing != "pairs":
            fix = "set data.packing='pairs', or leave it out"
            require(not any(pairs), "data.rejected_field", f"is given, but data.packing is {self.packing!r}", fix)
            return
        fix = "set data.rejected_field to the field that holds the worse completion"
        require(all(pairs), "data.packing", "is 'pairs', but a source has no rejected completions", fix)
        prompts = any(source.has_prompts for source in self.sources)
        fix = "set data.loss_mask='completion': both completions share the prompt, which says nothing of them"
        require(self.loss_mask == "completion" or not prompts, "data.loss_mask", f"is {self.loss_mask!r} of pairs", fix)

    def _check_tokenizer(self) -> None:
        require(
            self.tokenizer != "",
            "data.tokenizer",
            f"is {self.tokenizer!r}",
            "use 'bytes', 'bpe', 'characters' or the path of a tokenizer.json",
        )
        kind, size = self.tokenizer, self.vocab_size
        require(
            kind in _TOKENIZERS or kind.endswith(".json"),
            "data.tokenizer",
            f"{kind!r} is neither 'bytes', 'bpe', 'characters' nor the path of a .json file",
            _did_you_mean(kind, _TOKENIZERS) or "use 'bytes', 'bpe', 'characters' or the path of a tokenizer.json",
        )
        require(
            kind != "characters" or all(source.source == "task" for source in self.sources),
            "data.tokenizer",
            "is 'characters', but a source is no task",
            "set data.source='task', or use 'bytes'",
        )
        require(
            size is None or size >= 1,
            "data.vocab_size",
            f"is {size!r}",
            "give a positive integer, or None",
        )
        if kind == "bytes":
            require(
                size in (None, BYTE_VOCABULARY),
                "data.vocab_size",
                f"is {size}, but the byte tokenizer has {BYTE_VOCABULARY} tokens",
                "leave it out, or set data.tokenizer='bpe'",
            )
        if kind == "bpe":
            require(
                size is not None and size > BYTE_VOCABULARY,
                "data.vocab_size",
                f"is {size}, but 'bpe' needs {BYTE_VOCABULARY} bytes, the end-of-document token and merges",
                f"give an integer above {BYTE_VOCABULARY}, such as 4096",
            )
        require(
            self.end_of_document is None or kind.endswith(".json"),
            "data.end_of_document",
            f"is {self.end_of_document!r}, but the tokenizer {kind!r} has its own end-of-document token",
            "leave it out (it names a token of a tokenizer.json)",
        )


def under(root: Path, path: str | None) -> str | None:
    """A path that may be relative, as seen from `root`; None stays None."""
    return None if path is None else str(root / Path(path).expanduser())


def _sources(entries) -> tuple[Source, ...]:
    """Sources from what JSON makes of them: lists for tuples, objects for dataclasses."""
    require(
        isinstance(entries, (list, tuple)),
        "data.mixture",
        f"is {entries!r}",
        "give a tuple of Source(...) entries",
    )
    return tuple(_source(entry) for entry in entries)


def _source(entry) -> Source:
    if isinstance(entry, Source):
        return entry
    require(isinstance(entry, Mapping), "data.mixture", f"holds {entry!r}", "give Source(...) entries")
    names = [field.name for field in dataclasses.fields(Source)]
    for name in entry:
        require(
            name in names,
            f"data.mixture.{name}",
            "is no field of a source",
            _did_you_mean(name, names) or f"use one of {', '.join(names)}",
        )
    return Source(**entry)


def _check_source(source: Source | DataConfig, prefix: str) -> None:
    _check_choice(f"{prefix}.source", source.source, get_args(SourceName))
    require(
        source.source != "embedded" or source.path is None,
        f"{prefix}.path",
        f"is {source.path!r}, which the embedded corpus ignores",
        f"set {prefix}.source to 'text', 'jsonl', 'hub' or 'task'",
    )
    require(
        source.source == "embedded" or (isinstance(source.path, str) and source.path != ""),
        f"{prefix}.path",
        f"is {source.path!r}, but the source {source.source!r} needs one",
        _PATHS.get(source.source, "give a file or a folder"),
    )
    require(
        isinstance(source.field, str) and source.field != "",
        f"{prefix}.field",
        f"is {source.field!r}",
        "name the field that holds the text",
    )
    for name in ("prompt_field", "rejected_field"):
        require(
            getattr(source, name) is None or source.source in ("jsonl", "hub"),
            f"{prefix}.{name}",
            f"is {getattr(source, name)!r}, but the source {source.source!r} has no fields",
            "leave it out, or use a jsonl or hub source",
        )
    if source.source == "task":
        TaskText.of(str(source.path))


def _check_choice(field: str, value, options: tuple[str, ...]) -> None:
    if value not in options:
        fix = _did_you_mean(value, options) or f"use one of {', '.join(options)}"
        raise ConfigError(field, f"is {value!r}", fix)


def _did_you_mean(value, options) -> str | None:
    match = nearest(str(value), options)
    return f"did you mean {match!r}?" if match else None

