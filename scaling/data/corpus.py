"""Corpora: an ordered stream of unique documents: embedded sources, text files, JSONL, a hub dataset, or a task."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import sysconfig
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from models.errors import ConfigError, nearest, require
from scaling.data.config import Source
from scaling.tasks.text import TaskText

# A fixed list, so that the corpus depends on the versions of these and on nothing else a user has installed.
EMBEDDED_DISTRIBUTIONS = (
    "absl-py",
    "flax",
    "jax",
    "matplotlib",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "pandas",
    "pyarrow",
    "rich",
    "safetensors",
    "scipy",
    "tensorboardX",
    "tokenizers",
)
_NOT_SOURCES = frozenset(("site-packages", "dist-packages", "test", "tests", "idle_test", "_test", "_tests"))
# _sysconfigdata holds the paths and compiler of the machine that built this interpreter.
_NOT_SOURCE = re.compile(r"(test_.*|.*_test|conftest|_sysconfigdata.*)\.py$")
_LARGEST_SOURCE = 100_000  # bytes; beyond are tables and generated text: one was a tenth of a held-out set
# A document that is long for its corpus is cut, at line ends where there are any: a whole book would fall on one side
# of the split. Shares of the corpus, and their bounds in characters:
_LONG, _LEAST_LONG = 1 / 32, 2048
_PIECE, _LEAST_PIECE = 1 / 256, 512  # held-out shares then differ from what was asked for by a third at most, mostly
_MOST = 16_384
_BLOCK = 2**20  # bytes read at once

_PACKED = (".gz", ".zst")
_JSON_LINES = tuple(f".jsonl{packed}" for packed in ("", *_PACKED))


@dataclass(frozen=True)
class Document:
    """One document; `prompt` is empty unless the source has prompts. Those of one `group` share a split.

    continues: it is the next piece of the document before it, of which the stream must not show an end in between.
    rejected: a worse completion of the prompt than `text`, where the source has pairs; those of a prompt are a group.
    """

    text: str
    prompt: str = ""
    group: str = ""
    continues: bool = False
    rejected: str | None = None

    @property
    def completions(self) -> tuple[str, ...]:
        """The text, and what is worse."""
        return (self.text,) if self.rejected is None else (self.text, self.rejected)

    @cached_property
    def sha256(self) -> bytes:
        """Digest of the content, on which the removal of duplicates depends."""
        content = self.text if not self.prompt else f"{self.prompt}\0{self.text}"
        if self.rejected is not None:
            content = f"{content}\0{self.rejected}"
        return hashlib.sha256(content.encode()).digest()

    @property
    def split_sha256(self) -> bytes:
        """The digest that decides the split: of the group, or of the content where there is none."""
        return hashlib.sha256(self.group.encode()).digest() if self.group else self.sha256


@dataclass
class Tally:
    """What became of the documents that were read."""

    kept: int = 0
    duplicates: int = 0
    empty: int = 0
    not_utf8: int = 0
    binary: int = 0  # with a NUL, which text does not use
    read_bytes: int = field(default=0, compare=False)  # progress through the files, prompts and markup included


@dataclass(frozen=True)
class Corpus:
    """A source that was found and listed, but not read.

    `fingerprint` changes when a file's path, size or modification time does: it answers "is this the corpus I
    tokenized before?" without reading it. The digest of the content is known after the documents are read.
    """

    name: str  # for messages and directory names
    fingerprint: str
    total_bytes: int | None
    read: Callable[[Tally], Iterator[Document]]

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        """Unique, non-empty documents in an order that depends on relative names only; `tally` counts the others.

        Raises:
          ConfigError: a file that cannot be read, a malformed line, a missing field, or no document at all.
        """
        tally = Tally() if tally is None else tally
        seen: set[bytes] = set()
        follows = False  # whether the piece before was kept
        for document in self.read(tally):
            if reason := self._unwanted(document, seen):
                setattr(tally, reason, getattr(tally, reason) + 1)
                follows = False
                continue
            tally.kept += 1
            yield document if follows or not document.continues else replace(document, continues=False)
            follows = True
        if tally.kept == 0:
            left_out = f"{tally.empty} empty, {tally.not_utf8} not UTF-8 and {tally.binary} binary documents"
            raise ConfigError(self.name, f"holds no text ({left_out})", "give a source with UTF-8 text")

    @staticmethod
    def _unwanted(document: Document, seen: set[bytes]) -> str:
        """The field of Tally that counts this document, which is left out; "" for one that is kept, and now seen."""
        try:
            short = document.sha256[:16]
        except UnicodeEncodeError:  # JSON can spell lone surrogates, which are not text
            return "not_utf8"
        if not all(document.completions):
            return "empty"
        if any("\0" in text for text in (document.prompt, *document.completions)):
            return "binary"
        if short in seen:
            return "duplicates"
        seen.add(short)
        return ""


@dataclass(frozen=True)
class File:
    """A file of a corpus; `name` is relative to the root, so that the order does not depend on where it lies."""

    name: str
    path: Path
    size: int
    modified_ns: int


def open_corpus(source: Source) -> Corpus:
    """List the files of a source without reading them.

    Raises:
      ConfigError: the path does not exist or holds no file of that kind, or the hub extra is not installed.
    """
    if source.source == "embedded":
        files = embedded_files()
        return _file_corpus("embedded", files, lambda tally: _whole_files(files, tally), source)
    if source.source == "text":
        files = _listed(source.path, lambda path: True, "files")
        return _file_corpus(source.path, files, lambda tally: _text_files(files, tally), source)
    if source.source == "jsonl":
        files = _listed(source.path, lambda path: path.name.lower().endswith(_JSON_LINES), "*.jsonl files")
        return _file_corpus(source.path, files, lambda tally: _json_lines(files, source, tally), source)
    return _task(source) if source.source == "task" else _hub(source)


def embedded_files() -> list[File]:
    """Sources of the standard library and of EMBEDDED_DISTRIBUTIONS, sorted by relative name; no tests, no huge files.

    Found through the interpreter's and the distributions' own metadata; nothing is imported.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    names = (name for name in _walk(root, skip=_NOT_SOURCES) if name.endswith(".py"))
    files = [File(f"python/{name}", root / name, *_stat(root / name)) for name in names]
    for distribution in EMBEDDED_DISTRIBUTIONS:
        for name, path in _distribution_sources(distribution):
            files.append(File(f"{distribution}/{name}", path, *_stat(path)))
    kept = (file for file in files if _is_source(file.name) and file.size <= _LARGEST_SOURCE)
    return sorted(kept, key=lambda file: file.name)


def is_heldout(sha256: bytes, fraction: float) -> bool:
    """Whether a document belongs to the held-out split: a property of its content alone."""
    return int.from_bytes(sha256[:8], "big") < fraction * 2**64


def _distribution_sources(distribution: str) -> Iterable[tuple[str, Path]]:
    try:
        listed = importlib.metadata.distribution(distribution).files
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            "data.source",
            f"the embedded corpus reads the sources of {distribution!r}, which is not installed",
            f"pip install {distribution}, or use your own text (data.source='text')",
        ) from None
    paths = ((str(name), Path(str(name.locate()))) for name in listed or () if name.suffix == ".py")
    return [(name, path) for name, path in paths if not name.startswith("..") and path.is_file()]


def _is_source(name: str) -> bool:
    *folders, last = name.split("/")
    return not _NOT_SOURCES.intersection(folders) and not _NOT_SOURCE.match(last)


def _walk(root: Path, skip: frozenset[str] = frozenset(), links: bool = False) -> Iterator[str]:
    """Names of the files below a folder, relative and with forward slashes; hidden files and folders left out.

    links: whether linked folders are entered, each folder once.
    """
    entered: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, onerror=_raise, followlinks=links):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if name not in skip and name[0] != ".")
        relative = Path(folder).relative_to(root)
        yield from ((relative / name).as_posix() for name in names if name[0] != ".")


def _raise(error: OSError) -> None:
    raise error  # os.walk leaves out what it cannot list unless told otherwise


def _stat(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _listed(path: str | None, wanted: Callable[[Path], bool], kind: str) -> list[File]:
    root = Path(str(path)).expanduser()
    require(root.exists(), str(path), "does not exist", "give data.path an existing file or folder")
    try:
        require(root.is_file() or root.is_dir(), str(path), "is neither a file nor a folder", "give one of these")
        if root.is_file():
            return [File(root.name, root, *_stat(root))]
        found = [(name, root / name) for name in sorted(_walk(root, links=True))]
        files = [File(name, path, *_stat(path)) for name, path in found if path.is_file() and wanted(path)]
    except OSError as error:
        raise _unreadable(root, error) from None
    require(bool(files), str(path), f"holds no {kind}", "give data.path a folder with text")
    return files


def _file_corpus(name, files: list[File], read, source: Source) -> Corpus:
    identity = [[file.name, str(file.path.resolve()), file.size, file.modified_ns] for file in files]
    fields = [source.source, source.field, source.prompt_field, source.rejected_field]
    fingerprint = hashlib.sha256(json.dumps([fields, identity]).encode()).hexdigest()
    return Corpus(str(name), fingerprint, sum(file.size for file in files), read)


def _whole_files(files: list[File], tally: Tally) -> Iterator[Document]:
    for file in files:
        try:
            content = file.path.read_bytes()
            tally.read_bytes += len(content)
            yield Document(content.decode())
        except UnicodeDecodeError:
            tally.not_utf8 += 1
        except OSError as error:
            raise _unreadable(file.path, error) from None


def _text_files(files: list[File], tally: Tally) -> Iterator[Document]:
    """Text files in pieces, in bounded memory; one that is not UTF-8 is left out as a whole, unless it is the only."""
    cut = Cut.of(sum(file.size for file in files))
    for file in files:
        try:
            if len(files) > 1 and not _is_utf8(file.path):
                tally.not_utf8 += 1
                continue
            with opened(file.path) as content, io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as lines:
                if file.size == 0:
                    tally.empty += 1
                packed = file.name.lower().endswith(_PACKED)
                for text, continues in _pieces(lines, cut.piece if packed or file.size > cut.long else cut.long):
                    tally.read_bytes += len(text)
                    yield Document(text, continues=continues)
        except UnicodeDecodeError as error:
            raise ConfigError(str(file.path), f"is not UTF-8 ({error.reason})", "convert it to UTF-8") from None
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(file.path, error) from None


def opened(path: Path) -> Any:
    """A file's content, a binary stream, unpacked where its name says that it is packed (.gz, .zst)."""
    name = path.name.lower()
    if name.endswith(".gz"):
        return gzip.open(path, "rb")
    if name.endswith(".zst"):
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd"), _BLOCK)
    return open(path, "rb")


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with opened(path) as content:
            while block := content.read(_BLOCK):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True)
class Cut:
    """Which documents are cut: those of over `long` characters, after every `piece` of them at the next line end."""

    long: int = _MOST
    piece: int = _MOST

    @classmethod
    def of(cls, total: int) -> Cut:
        """For a corpus of so many bytes."""
        long, piece = max(_LEAST_LONG, int(total * _LONG)), max(_LEAST_PIECE, int(total * _PIECE))
        return cls(min(long, _MOST), min(piece, _MOST))

    def pieces(self, document: Document) -> Iterator[Document]:
        """The pieces of a document; one with a prompt, in a group or a pair stays whole, as they belong together."""
        if len(document.text) <= self.long or document.prompt or document.group or document.rejected:
            yield document
            return
        for text, continues in _pieces(io.StringIO(document.text, newline=""), self.piece):
            yield Document(text, continues=continues)


def _pieces(lines: TextIO, length: int) -> Iterator[tuple[str, bool]]:
    """(text, whether it continues the piece before) of one document; a line without end is cut after `length` more."""
    continues = False
    while text := lines.read(length) + lines.readline(length):
        yield text, continues
        continues = True


def _json_lines(files: list[File], source: Source, tally: Tally) -> Iterator[Document]:
    cut = Cut.of(sum(file.size for file in files))
    for file in files:
        try:
            with opened(file.path) as lines:
                for number, line in enumerate(lines, start=1):
                    tally.read_bytes += len(line)
                    line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                    if line.strip() and (record := _record(file, number, line, tally)) is not None:
                        yield from cut.pieces(_document(record, source, f"{file.path}:{number}"))
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(file.path, error) from None


def _record(file: File, number: int, line: bytes, tally: Tally):
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError:
        tally.not_utf8 += 1
        return None
    except (ValueError, RecursionError) as error:
        problem = f"is not JSON that can be read ({error})"
        raise ConfigError(f"{file.path}:{number}", problem, "write one flat JSON object per line") from None


def _document(record, source: Source, where: str) -> Document:
    require(isinstance(record, dict), where, "is not a JSON object", 'write lines such as {"text": "..."}')
    prompt = "" if source.prompt_field is None else _text(record, source.prompt_field, "prompt_field", where)
    text = _text(record, source.field, "field", where)
    if source.rejected_field is None:
        return Document(text, prompt)
    rejected = _text(record, source.rejected_field, "rejected_field", where)
    problem = f"has the same text in {source.field!r} and {source.rejected_field!r}"
    require(text != rejected, where, problem, "leave out pairs that prefer nothing")
    return Document(text, prompt, group=prompt, rejected=rejected)


def _text(record: dict, name: str, setting: str, where: str) -> str:
    if name not in record:
        match = nearest(name, record)
        fix = f"did you mean data.{setting}={match!r}?" if match else f"set data.{setting} to one of its fields"
        raise ConfigError(where, f"has no field {name!r}, but {', '.join(map(repr, record)) or 'none'}", fix)
    value = record[name]
    require(isinstance(value, str), where, f"field {name!r} is {type(value).__name__}, not text", "make it a string")
    return value


def _task(source: Source) -> Corpus:
    text = TaskText.of(str(source.path))

    def read(tally: Tally) -> Iterator[Document]:
        for problem, solution in text.examples():
            tally.read_bytes += len(problem.prompt) + len(solution)
            yield Document(solution, problem.prompt, problem.canonical)

    return Corpus(str(source.path), text.digest, None, read)


def _hub(source: Source) -> Corpus:
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError("data.source", "'hub' needs the `datasets` library", "pip install 'isoflop[hf]'")
    import datasets

    name, _, configuration = str(source.path).partition(":")
    try:
        rows = datasets.load_dataset(name, configuration or None, split="train")
    except Exception as error:  # the library raises many kinds: no network, no such dataset, several configurations
        problem = f"cannot be loaded ({type(error).__name__}: {error})"
        raise ConfigError(
            str(source.path), problem, "check the name (owner/name:configuration) and the network"
        ) from None
    for setting in ("field", "prompt_field", "rejected_field"):
        column = getattr(source, setting)
        if column is not None and rows.column_names and column not in rows.column_names:
            columns = ", ".join(map(repr, rows.column_names))
            raise ConfigError(str(source.path), f"has no field {column!r}", f"set data.{setting} to one of {columns}")

    def read(tally: Tally) -> Iterator[Document]:
        for number, row in enumerate(rows):
            yield from Cut().pieces(_document(row, source, f"{source.path}:{number}"))

    fields = [source.field, source.prompt_field, source.rejected_field]
    identity = json.dumps(["hub", source.path, *fields, rows._fingerprint])
    return Corpus(str(source.path), hashlib.sha256(identity.encode()).hexdigest(), None, read)


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(str(path), f"cannot be read ({error})", "check the file and its permissions")
