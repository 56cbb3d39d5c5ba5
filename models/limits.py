"""Limits: how much a foreign file, such as those of a Hugging Face folder, may make us allocate or compute."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.errors import ConfigError, require

LARGEST_ID = 2**24 - 1  # of a token: tables of the vocabulary have an entry for each smaller one
LARGEST_FILE = 2**29  # bytes of a JSON file
SIZES = {  # field of config.json -> its largest value: above any model there is, below what would fill a machine
    "num_hidden_layers": 2**12, "n_layer": 2**12, "num_layers": 2**12,
    "n_layers": 2**12, "d_model": 2**18, "n_heads": 2**14, "hidden_dim": 2**22, "ffn_dim": 2**22,
    "ffn_hidden_size": 2**22,
    "shared_expert_intermediate_size": 2**22, "num_key_value_groups": 2**14, "num_nextn_predict_layers": 2**12,
    "hidden_size": 2**18, "n_embd": 2**18, "intermediate_size": 2**22, "n_inner": 2**22, "moe_intermediate_size": 2**22,
    "num_attention_heads": 2**14, "n_head": 2**14, "num_key_value_heads": 2**14, "head_dim": 2**14,
    "num_experts": 2**14, "num_local_experts": 2**14, "n_routed_experts": 2**14, "num_experts_per_tok": 2**14,
    "vocab_size": LARGEST_ID + 1, "max_position_embeddings": 2**31, "n_positions": 2**31, "sliding_window": 2**31,
}  # fmt: skip
TEMPLATE_MEMORY = 2**30  # bytes of address space of the process that renders templates
TEMPLATE_SECONDS = 10  # of computing for one conversation, up to one less; a published template takes milliseconds
TEMPLATE_CHARACTERS = 2**24  # of a rendered conversation
_PROCESS = Path(__file__).with_name("template_process.py")
_FIX = "copy the checkpoint again"


def check_sizes(config: Mapping[str, Any], place: str) -> None:
    """ConfigError for a size in a config.json that no model has: before anything of that size is made."""
    for name, most in SIZES.items():
        value = config.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            shown = value if abs(value) < 1e18 else "beyond 64 bits"
            require(abs(value) <= most, place, f"{name} is {shown}, above {most}", _FIX)


def check_ids(ids: Any, place: str, field: str) -> None:
    """ConfigError unless every value is a token id: an integer from 0 to LARGEST_ID."""
    for value in ids:
        fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_ID
        shown = value if not isinstance(value, int) or abs(value) < 2**64 else "beyond 64 bits"
        require(fits, place, f"{field} has the token id {shown}", f"give integers from 0 to {LARGEST_ID}")


def check_tokenizer(path: Path) -> None:
    """ConfigError for a tokenizer.json that is no JSON object, or whose ids would make tables of any size."""
    size = path.stat().st_size
    require(size <= LARGEST_FILE, str(path), f"has {size / 1e6:,.0f} MB, above {LARGEST_FILE / 1e6:,.0f} MB", _FIX)
    try:
        written = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"is no tokenizer.json ({str(error)[:100]})", _FIX) from None
    require(isinstance(written, dict), str(path), "is no tokenizer.json (no JSON object)", _FIX)
    model, added = written.get("model"), written.get("added_tokens") or []
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        check_ids(vocab.values(), str(path), "model.vocab")
    if isinstance(added, list):
        check_ids((token.get("id", 0) for token in added if isinstance(token, dict)), str(path), "added_tokens")


@contextlib.contextmanager
def foreign(place: str, problem: str, fix: str = _FIX, shown: str = "") -> Iterator[None]:
    """ConfigError for whatever a library raises at a foreign file or text, of which a part may be `shown`.

    Rust's panics are no Exception, so that `except Exception` lets them through.
    """
    try:
        yield
    except ConfigError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = (f"{shown}: " if shown else "") + " ".join(str(error).split())[:200]
        raise ConfigError(place, f"{problem} ({said})", fix) from None


# -- chat templates -------------------------------------------------------------------------------------------------


def render(template: str, values: Mapping[str, Any]) -> str:
    """The text of a chat template (Jinja) with these variables (JSON), rendered in a process with limits.

    Raises:
      ConfigError: it is no template, refuses the values, or takes more time, memory or text than any template needs;
        jinja2 is not installed.
    """
    try:
        order = json.dumps({"template": template, "values": dict(values)})
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError("messages", f"cannot be written as JSON ({error})", "change the messages") from None
    with _LOCK:
        said = _ask(order)
    if "text" in said:
        return said["text"]
    if "broken" in said:
        raise ConfigError("chat_template", f"is no template ({said['broken']})", _FIX)
    raise ConfigError("messages", f"do not fit the chat template ({said['refused']})", "change the messages")


_LOCK = threading.Lock()
_CHILDREN: dict[int, subprocess.Popen[str]] = {}  # process that asks -> the one that renders for it


def _ask(order: str) -> dict[str, str]:
    child = _CHILDREN.get(os.getpid())
    if child is None or child.poll() is not None:  # whatever ended it between two orders is no fault of this one
        child = _start()
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(order + "\n")
        child.stdin.flush()
        line = child.stdout.readline()
    except BrokenPipeError:
        line = ""
    if line.endswith("\n"):
        return json.loads(line)
    del _CHILDREN[os.getpid()]
    _end(child)
    what = f"more than {TEMPLATE_SECONDS} s of computing or {TEMPLATE_MEMORY >> 20} MiB"
    return {"refused": f"it takes {what}"}


def _start() -> subprocess.Popen[str]:
    try:
        import jinja2  # noqa: F401  # the process needs it, and would only end
    except ImportError:
        raise ConfigError("messages", "chat templates need jinja2", "pip install 'isoflop[hf]'") from None
    limits = (TEMPLATE_MEMORY, TEMPLATE_SECONDS, TEMPLATE_CHARACTERS)
    child = subprocess.Popen(
        [sys.executable, "-P", str(_PROCESS), *map(str, limits)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
    )  # fmt: skip
    _CHILDREN.clear()  # those of a process that forked us are not ours
    _CHILDREN[os.getpid()] = child
    atexit.register(_leave, os.getpid())
    return child


def _leave(owner: int) -> None:
    """At the end of a process: its own renderer ends, not that of the process that forked it."""
    child = _CHILDREN.pop(owner, None)
    if child is not None and os.getpid() == owner:
        _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
