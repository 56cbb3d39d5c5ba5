"""What a checkpoint directory must contain: a manifest with the size and sha256 of every file in it.

Orbax restores flipped bytes without noticing, so the manifest is what tells a whole checkpoint from a damaged one.
It also holds the shape and dtype of every leaf (orbax casts silently) and the caller's metadata, which can be read
without touching the arrays. The file signs itself: its last field is the sha256 of the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import ConfigError

NAME = "manifest.json"
FORMAT = 1
SIGNED = re.compile(rb'\{"manifest": (.*),\n"sha256": "([0-9a-f]{64})"\}\n')  # leaves no byte that may change unseen


class Damaged(Exception):
    """A checkpoint is not what was written: `path` names the file, `problem` says what is wrong with it."""

    def __init__(self, path: Path, problem: str):
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"{self.path} {self.problem}"


@dataclass(frozen=True)
class Leaf:
    """One array of the state.

    offset: where its bytes begin (bytes, C order) in the array that small leaves share; None when it is stored alone.
    """

    shape: tuple[int, ...]
    dtype: str
    offset: int | None

    @property
    def nbytes(self) -> int:
        """Size in memory, bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Content:
    """Size (bytes) and hash of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What step `step` holds: leaves by path in the state, the caller's metadata, and the files that carry them."""

    step: int
    leaves: dict[str, Leaf]
    metadata: dict[str, Any]
    files: dict[str, Content]

    @property
    def nbytes(self) -> int:
        """Size of all leaves, bytes."""
        return sum(leaf.nbytes for leaf in self.leaves.values())


def write(directory: Path, manifest: Manifest) -> None:
    """Hash every file of `directory` and write its manifest, on disk when this returns.

    The write itself is not atomic: `directory` must still be a staging directory that nobody reads, and its rename
    is what publishes the two together.
    """
    files = sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file() and p.name != NAME)
    manifest = replace(manifest, files=dict(zip(files, _digests([directory / name for name in files]))))
    with open(directory / NAME, "wb") as f:
        f.write(_render(manifest))
        f.flush()
        os.fsync(f.fileno())
    sync_directory(directory)


def read(directory: Path) -> Manifest:
    """The manifest of `directory`, its own signature checked but not the files; raises Damaged,
    or ConfigError for another format."""
    path = directory / NAME
    try:
        _check_regular(path)
        signed = SIGNED.fullmatch(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise Damaged(path, "is missing") from None
    if not signed or hashlib.sha256(signed[1]).hexdigest() != signed[2].decode():
        raise Damaged(path, "does not match its own sha256")
    body = json.loads(signed[1])
    if body["format"] != FORMAT:
        raise ConfigError(str(path), f"has format {body['format']}, not {FORMAT}", "use the isoflop that wrote it")
    return Manifest(
        step=body["step"],
        leaves={name: Leaf(tuple(v["shape"]), v["dtype"], v["offset"]) for name, v in body["leaves"].items()},
        metadata=body["metadata"],
        files={name: Content(**content) for name, content in body["files"].items()},
    )


def verify(directory: Path) -> Manifest:
    """The manifest of `directory` after every file's size and sha256 were compared with it; raises Damaged."""
    manifest = read(directory)
    for name, content in manifest.files.items():
        try:
            _check_regular(directory / name)
            size = (directory / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            raise Damaged(directory / name, "is missing") from None
        if size != content.bytes:
            raise Damaged(directory / name, f"has {size} bytes where {content.bytes} were written")
    found = _digests([directory / name for name in manifest.files])
    for (name, content), digest in zip(manifest.files.items(), found):
        if digest.sha256 != content.sha256:
            raise Damaged(directory / name, "does not match its sha256")
    return manifest


def _check_regular(path: Path) -> None:
    """Damaged for a pipe or a device in place of a file, which would be waited for, or never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise Damaged(path, "is no regular file")


def sync_directory(directory: Path) -> None:
    """Make renames and new names in `directory` survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _render(manifest: Manifest) -> bytes:
    body = json.dumps(asdict(manifest) | {"format": FORMAT}, sort_keys=True).encode()
    return b'{"manifest": %b,\n"sha256": "%b"}\n' % (body, hashlib.sha256(body).hexdigest().encode())


def _digest(path: Path) -> Content:
    with open(path, "rb") as f:
        sha256 = hashlib.file_digest(f, "sha256").hexdigest()
        return Content(f.tell(), sha256)


def _digests(paths: list[Path]) -> list[Content]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing and reading both release the GIL
        return list(pool.map(_digest, paths))
