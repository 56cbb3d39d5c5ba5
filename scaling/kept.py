"""Kept: files that the project writes, and the one way in which it reads them back.

A file may have been cut short, edited, copied over another or made by something else. So each is written in one step,
what must not change carries its own digest, and nothing is taken from it before its structure is checked. What is wrong
is a ConfigError that names the file, the field and what to do.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from models.errors import ConfigError

Shape = Any
"""What a JSON value must be: bool, int (64 bits), float, str, dict or list; None; (a, b) for either; [a] for a list of
a; {str: a} for an object of a; {"name": a, "other?": b} for an object with such fields, `other` being optional, and any
others."""

RESTORE = "restore it, or start in a new directory"
SEAL = "digest"  # field that holds the digest of all the others
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)
_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text", dict: "an object", list: "a list"}


# -- writing --------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, content: str | bytes, durable: bool = True) -> None:
    """Write text or bytes so that a reader or a crash sees the old file or the new one, never a part.

    durable: also on disk when this returns.
    """
    partial = _written(path, content, durable)
    try:
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def create(path: Path, content: str | bytes, durable: bool = True) -> bool:
    """Make a file that is not there yet, whole and in one step; False when somebody else was first."""
    partial = _written(path, content, durable)
    try:
        os.link(partial, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if partial.stat().st_nlink == 2:  # over NFS the answer may be lost after the link was made
            return True
        if error.errno not in NO_LINKS:
            raise
    finally:
        partial.unlink(missing_ok=True)
    try:
        with open(path, "xb") as file:
            file.write(_bytes(content))
        return True
    except FileExistsError:
        return False


def _written(path: Path, content: str | bytes, durable: bool) -> Path:
    """A file of this content beside `path`, under a name that no other process of any host chooses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "wb") as f:
            f.write(_bytes(content))
            f.flush()
            if durable:
                os.fsync(f.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)  # a full disk has no room for half a file
        raise
    return partial


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def digest(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the digest of what it says, which `opened` checks."""
    return dict(record) | {SEAL: digest(dict(record))}


# -- reading --------------------------------------------------------------------------------------------------------


def read(path: Path, shape: Shape, fix: str = RESTORE) -> Any:
    """What a JSON file holds, of this shape. Raises ConfigError with this fix; OSError when there is no file."""
    return parsed(read_bytes(path, fix), shape, path, fix)


def read_or_none(path: Path, shape: Shape) -> Any:
    """`read`, and None for a file that is missing or damaged: of what is told now and then, and may be lost."""
    try:
        return read(path, shape)
    except (OSError, ConfigError):
        return None


def opened_file(path: Path, fix: str = RESTORE) -> BufferedReader:
    """A regular file, open for reading: a pipe or a device in its place would be waited for, or never end."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ELOOP:  # links that lead to themselves
            raise
        handle = None
    if handle is not None and stat.S_ISREG(os.fstat(handle).st_mode):
        return open(handle, "rb")
    if handle is not None:
        os.close(handle)
    raise ConfigError(str(path), "is damaged (no regular file)", fix)


def read_bytes(path: Path, fix: str = RESTORE) -> bytes:
    """The content of a regular file; ConfigError for what is none, OSError when there is nothing."""
    with opened_file(path, fix) as file:
        return file.read()


def bytes_or_none(path: Path) -> bytes | None:
    """`read_bytes`, and None for a file that is missing or no regular one."""
    try:
        return read_bytes(path)
    except (OSError, ConfigError):
        return None


def file_digest(path: Path, fix: str = RESTORE) -> bytes:
    """sha256 of a regular file."""
    with opened_file(path, fix) as file:
        return hashlib.file_digest(file, "sha256").digest()


def parsed(text: bytes | str, shape: Shape, place: str | Path, fix: str = RESTORE) -> Any:
    """The JSON value in `text`, of this shape; ConfigError at `place` otherwise."""
    try:
        value = json.loads(text)
    except ValueError as error:  # what is no UTF-8 included
        raise ConfigError(str(place), f"is damaged ({error})", fix) from None
    except RecursionError:
        raise ConfigError(str(place), "is damaged (too deeply nested)", fix) from None
    fault = misshapen(value, shape)
    if fault:
        raise ConfigError(str(place), f"is damaged ({fault})", fix)
    return value


def opened(record: dict[str, Any], place: str | Path, fix: str = RESTORE) -> dict[str, Any]:
    """A sealed object without its seal; ConfigError when it is not what was sealed.

    One without a seal, as earlier versions wrote it, is taken as it is.
    """
    rest = {name: value for name, value in record.items() if name != SEAL}
    if SEAL in record and record[SEAL] != digest(rest):
        raise ConfigError(str(place), "is damaged (it changed after it was written)", fix)
    return rest


def misshapen(value: Any, shape: Shape, name: str = "") -> str:
    """What of a JSON value is not of this shape, in words; "" when all is."""
    if isinstance(shape, tuple):
        faults = [misshapen(value, option, name) for option in shape]
        return "" if "" in faults else f"{name or 'it'} is {_short(value)}, not {' or '.join(map(_described, shape))}"
    if isinstance(shape, list) and isinstance(value, list):
        return next(filter(None, (misshapen(v, shape[0], f"{name}[{i}]") for i, v in enumerate(value))), "")
    if isinstance(shape, dict) and isinstance(value, dict):
        return _misshapen_fields(value, shape, name)
    fits = value is None if shape is None else _fits(value, shape)
    return "" if fits else f"{name or 'it'} is {_short(value)}, not {_described(shape)}"


def _misshapen_fields(value: dict[str, Any], shape: dict[Any, Shape], name: str) -> str:
    for key, inner in shape.items():
        if key is str:
            found = value.items()
        elif (field := key.removesuffix("?")) in value:
            found = {field: value[field]}.items()
        elif key.endswith("?"):
            continue
        else:
            return f"{_joined(name, key)} is missing"
        for field, v in found:
            fault = misshapen(v, inner, _joined(name, field))
            if fault:
                return fault
    return ""


def _fits(value: Any, shape: Shape) -> bool:
    if not isinstance(shape, type) or (isinstance(value, bool) and shape is not bool):
        return False
    if isinstance(value, int) and not isinstance(value, bool):
        return shape in (int, float) and -(2**63) <= value < 2**63
    return isinstance(value, shape)


def _joined(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


def _described(shape: Shape) -> str:
    if isinstance(shape, (dict, list)):
        shape = type(shape)
    return "null" if shape is None else _NAMES[shape]


def _short(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"an {'empty ' if not value else ''}object" if isinstance(value, dict) else f"a list of {len(value)}"
    text = json.dumps(value) if not isinstance(value, int) or abs(value) < 2**64 else "a number beyond 64 bits"
    return text if len(text) <= 40 else text[:37] + "..."
