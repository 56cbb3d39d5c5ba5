"""Token files: a corpus as memory-mapped token streams on disk, one per split, built once and shared."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from models.errors import ConfigError, require
from scaling import kept
from scaling.data.corpus import Corpus, Document, Tally, is_heldout
from scaling.data.tokenizer import FileTokenizer, Tokenizer, load_tokenizer, train_bpe

FORMAT = 2  # of the files in the cache; raise it when they change
SPLITS = ("train", "heldout")
BPE_TRAINING_CHARACTERS = 2**26  # merges hardly change beyond this much text
_BATCH_CHARACTERS = 2**21  # encoded at once: bounds memory, feeds the tokenizer's threads


@dataclass(frozen=True, eq=False)
class TokenFile:
    """A stream of documents as tokens, each document followed by the end-of-document token.

    The arrays are memory-mapped, so any number of trials and processes share one copy; pickling sends the path.
    """

    tokens: np.ndarray  # [count] uint8, uint16 or uint32: the smallest that holds the vocabulary
    mask: np.ndarray | None  # [count] uint8, 0 for tokens that carry no loss; None: all tokens do
    documents: np.ndarray  # [documents + 1] int64: where each document starts, and the end of the last
    sidecar: dict  # what the .json beside the file says
    path: Path | None = None

    @classmethod
    def open(cls, path: str | Path) -> TokenFile:
        """Map `path` (the .bin; its .json lies beside it).

        Raises:
          ConfigError: a file is missing or its size is not what the sidecar says.
        """
        path = Path(path)
        try:
            sidecar = kept.read(path.with_suffix(".json"), {"dtype": str, "count": int, "masked": bool})
            if not path.with_suffix(".documents.npy").is_file():
                raise ValueError(f"{path.with_suffix('.documents.npy').name} is no regular file")
            tokens = _map(path, sidecar["dtype"], sidecar["count"])
            mask = _map(path.with_suffix(".mask.bin"), "uint8", sidecar["count"]) if sidecar["masked"] else None
            documents = np.load(path.with_suffix(".documents.npy"), mmap_mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(str(path), f"is not a whole token file ({error})", "delete its folder") from None
        return cls(tokens, mask, documents, sidecar, path)

    @classmethod
    def from_array(cls, tokens: np.ndarray, mask: np.ndarray | None = None, *, end_of_document: int = 0) -> TokenFile:
        """A stream held in memory [count], for tests and notebooks; documents end at `end_of_document`."""
        tokens = np.asarray(tokens)
        starts = np.flatnonzero(tokens == end_of_document) + 1
        documents = np.unique(np.concatenate([[0], starts, [len(tokens)]])).astype(np.int64)
        digest = hashlib.sha256(tokens.tobytes() + (b"" if mask is None else mask.tobytes())).hexdigest()
        text_bytes = int(np.count_nonzero(tokens != end_of_document))
        sidecar = {"digest": digest, "count": len(tokens), "dtype": str(tokens.dtype), "masked": mask is not None}
        sidecar |= {"end_of_document": end_of_document, "text_bytes": text_bytes, "table_bytes": text_bytes}
        return cls(tokens, mask, documents, sidecar)

    def __reduce__(self):
        if self.path is not None:
            return TokenFile.open, (self.path,)
        return TokenFile, (self.tokens, self.mask, self.documents, self.sidecar)

    @property
    def count(self) -> int:
        """Tokens, the ends of documents included."""
        return len(self.tokens)

    @property
    def digest(self) -> str:
        """sha256 of the tokens and the mask."""
        return self.sidecar["digest"]

    @property
    def end_of_document(self) -> int:
        """The token after every document."""
        return self.sidecar["end_of_document"]

    @property
    def text_bytes(self) -> int:
        """Bytes of UTF-8 text behind the tokens."""
        return self.sidecar["text_bytes"]


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/isoflop, or ~/.cache/isoflop."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isoflop"


def token_files(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    heldout_fraction: float,
    mask_prompts: bool,
    cache: Path,
) -> tuple[TokenFile, TokenFile]:
    """The train and held-out token files of a corpus, from the cache or built now.

    A build happens in a folder of its own, which takes its final name, derived from the digests of its files, when it
    is whole. So a process that is killed leaves nothing that another would take for a token file. Processes that
    want the same files wait for one of them to build.

    Raises:
      ConfigError: the corpus is unreadable, empty or a single document, or the cache cannot be written.
    """
    settings = [FORMAT, corpus.fingerprint, tokenizer.digest, heldout_fraction, mask_prompts]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:24]
    pointer = cache / "tokens" / f"{key}.json"
    with writing(cache):
        pointer.parent.mkdir(parents=True, exist_ok=True)
        if (found := _follow(pointer)) is None:
            with exclusive(pointer.with_suffix(".lock")):
                if (found := _follow(pointer)) is None:
                    found = _build(corpus, tokenizer, heldout_fraction, mask_prompts, pointer)
    return found


def trained_tokenizer(corpora: list[Corpus], vocab_size: int, heldout_fraction: float, cache: Path) -> FileTokenizer:
    """A BPE tokenizer trained on the train splits of `corpora`, from the cache or trained now.

    At most BPE_TRAINING_CHARACTERS are used, in equal shares per corpus and from the start of each.
    """
    settings = [FORMAT, [corpus.fingerprint for corpus in corpora], vocab_size, heldout_fraction]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:24]
    path = cache / "tokenizers" / f"bpe-{vocab_size}-{key}.json"
    with writing(cache):
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_suffix(".lock")):
            if not path.exists():
                share = BPE_TRAINING_CHARACTERS // len(corpora)
                texts = (text for corpus in corpora for text in _train_texts(corpus, heldout_fraction, share))
                with _progress() as progress:
                    progress.add_task(f"training a tokenizer of {vocab_size} tokens", total=None)
                    tokenizer = train_bpe(texts, vocab_size)
                with replacing(path) as temporary:
                    tokenizer.save(temporary)
        return load_tokenizer(path)


@contextlib.contextmanager
def writing(cache: Path) -> Iterator[None]:
    """Turn a full disk or a read-only cache into an error that names the cache."""
    try:
        yield
    except OSError as error:
        problem = f"the cache {cache} cannot be written ({error.strerror or error})"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "free some space there, or set another folder" if full else "set a folder that can be written"
        raise ConfigError("data.cache_dir", problem, fix) from error


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file; the system releases it when the process dies, however it dies."""
    with open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the name `path` when the block ends well: readers see all of a file or none."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


class _Split:
    """Writes one split and its sidecar."""

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer, masked: bool):
        self.path = folder / f"{name}.bin"
        self.dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
        self.tokenizer, self.end = tokenizer, np.asarray([tokenizer.end_of_document], self.dtype)
        self.files = contextlib.ExitStack()
        self.tokens = self.files.enter_context(self.path.open("wb"))
        self.mask = self.files.enter_context(self.path.with_suffix(".mask.bin").open("wb")) if masked else None
        self.token_sha, self.mask_sha, self.content_sha = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self.starts, self.text_bytes, self.table_bytes = [0], 0, 0

    def __enter__(self) -> _Split:
        return self

    def __exit__(self, *error) -> None:
        with contextlib.suppress(OSError):  # after a failed write, closing fails again on what is still buffered
            self.files.close()

    def write(self, document: Document, prompt: np.ndarray, texts: list[np.ndarray], joined: bool = False) -> None:
        """Append one document: prompt, text; its end follows with the next one. A pair is two of them.

        joined: this is the rest of the document before, so that nothing ends in between.
        """
        for completion, text in zip(document.completions, texts, strict=True):
            if not joined:
                self._end()
                self.starts.append(self.starts[-1])
            tokens = np.concatenate([prompt, text]).astype(self.dtype)
            self._append(tokens, (np.arange(len(tokens)) >= len(prompt)).astype(np.uint8))
            self.text_bytes += len(document.prompt.encode()) + len(completion.encode())
            self.table_bytes += int(self.tokenizer.token_bytes[tokens].sum())
        self.content_sha.update(document.sha256)

    def _end(self) -> None:
        """End the document that was written last, if there is one."""
        if len(self.starts) > 1:
            self._append(self.end, np.ones(1, np.uint8))

    def _append(self, tokens: np.ndarray, mask: np.ndarray) -> None:
        self.tokens.write(tokens.data)
        self.token_sha.update(tokens.data)
        if self.mask is not None:
            self.mask.write(mask.data)
            self.mask_sha.update(mask.data)
        self.starts[-1] += len(tokens)

    def finish(self, **facts) -> str:
        """Write the sidecar and flush everything to the disk; the digest of the split."""
        self._end()
        for file in filter(None, (self.tokens, self.mask)):
            file.flush()
            os.fsync(file.fileno())
        np.save(self.path.with_suffix(".documents.npy"), np.asarray(self.starts, np.int64))
        digest = hashlib.sha256(self.token_sha.digest() + self.mask_sha.digest()).hexdigest()
        sidecar = {
            "format": FORMAT,
            "digest": digest,
            "count": self.starts[-1],
            "dtype": str(self.dtype),
            "masked": self.mask is not None,
            "documents": len(self.starts) - 1,
            "documents_digest": self.content_sha.hexdigest(),
            "text_bytes": self.text_bytes,  # as read
            "table_bytes": self.table_bytes,  # as Tokenizer.token_bytes counts them; equal for byte-level vocabularies
            "vocab_size": self.tokenizer.vocab_size,
            "end_of_document": self.tokenizer.end_of_document,
            "tokenizer_digest": self.tokenizer.digest,
        }
        self.path.with_suffix(".json").write_text(json.dumps(sidecar | facts, indent=1))
        return digest


def _build(
    corpus: Corpus, tokenizer: Tokenizer, fraction: float, masked: bool, pointer: Path
) -> tuple[TokenFile, TokenFile]:
    folder = pointer.with_name(f".building-{pointer.stem}")
    try:
        digest = _write_splits(corpus, tokenizer, fraction, masked, folder)
        final = folder.with_name(digest)
        with exclusive(folder.with_name(f"{digest}.lock")):  # the same content under other paths has another key
            if _opened(final) is None:
                shutil.rmtree(final, ignore_errors=True)
                folder.rename(final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with replacing(pointer) as temporary:
        temporary.write_text(json.dumps({"folder": digest}))
    return TokenFile.open(final / "train.bin"), TokenFile.open(final / "heldout.bin")


def _write_splits(
    corpus: Corpus, tokenizer: Tokenizer, fraction: float, masked: bool, folder: Path
) -> str:
    """Write both splits; the digest of tokenizer and splits. A split that came out empty gets the nearest document."""
    forced: dict[bytes, str] = {}
    while True:
        shutil.rmtree(folder, ignore_errors=True)  # what a killed process left: the caller holds the lock
        folder.mkdir(parents=True)
        tally, shas = Tally(), []
        with contextlib.ExitStack() as files:
            splits = {name: files.enter_context(_Split(folder, name, tokenizer, masked)) for name in SPLITS}
            before = ""
            for document, prompt, texts in _encoded(corpus, tokenizer, tally):
                shas.append(document.sha256)
                split = forced.get(document.sha256) or SPLITS[is_heldout(document.split_sha256, fraction)]
                splits[split].write(document, prompt, texts, joined=document.continues and split == before)
                before = split
            digests = [split.finish(corpus=corpus.name, **asdict(tally)) for split in splits.values()]
        require(
            len(shas) > 1, corpus.name, "holds a single document, which cannot be split", "give at least two documents"
        )
        if all(len(split.starts) > 1 for split in splits.values()):
            return hashlib.sha256("".join([tokenizer.digest, *digests]).encode()).hexdigest()
        empty = "heldout" if len(splits["heldout"].starts) == 1 else "train"
        forced = {min(shas) if empty == "heldout" else max(shas): empty}


def _encoded(
    corpus: Corpus, tokenizer: Tokenizer, tally: Tally
) -> Iterator[tuple[Document, np.ndarray, list[np.ndarray]]]:
    with _progress() as progress:
        task = progress.add_task(f"tokenizing {corpus.name}", total=corpus.total_bytes)
        for batch in _batched(corpus.documents(tally)):
            prompts = tokenizer.encode_batch([document.prompt for document in batch])
            texts = iter(tokenizer.encode_batch([text for document in batch for text in document.completions]))
            for document, prompt in zip(batch, prompts, strict=True):
                yield document, prompt, [next(texts) for _ in document.completions]
            progress.update(task, completed=tally.read_bytes)


def _batched(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += sum(map(len, document.completions)) + len(document.prompt)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _train_texts(corpus: Corpus, heldout_fraction: float, characters: int) -> Iterator[str]:
    for document in corpus.documents():
        if not is_heldout(document.split_sha256, heldout_fraction):
            yield document.prompt + document.text
            characters -= len(document.prompt) + len(document.text)
            if characters <= 0:
                return


def _follow(pointer: Path) -> tuple[TokenFile, TokenFile] | None:
    try:
        return _opened(pointer.parent / kept.read(pointer, {"folder": str})["folder"])
    except (OSError, ValueError):
        return None


def _opened(folder: Path) -> tuple[TokenFile, TokenFile] | None:
    """The files of a finished build; None if there is none or a file was cut short."""
    try:
        return TokenFile.open(folder / "train.bin"), TokenFile.open(folder / "heldout.bin")
    except ConfigError:
        return None


def _map(path: Path, dtype: str, count: int) -> np.ndarray:
    expected = count * np.dtype(dtype).itemsize
    if (size := path.stat().st_size) != expected:
        raise ValueError(f"{path.name} has {size} bytes, not {expected}")
    return np.memmap(path, dtype, "r") if count else np.zeros(0, dtype)


def _progress() -> Progress:
    """Progress on stderr while it is a terminal, gone when it is done."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)
