"""A verifier that the user wrote: a function in a process of its own, which may raise, hang or die on an item."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.errors import ConfigError, require

_SERVE = Path(__file__).with_name("serve.py")
_START = 60.0  # seconds in which a busy machine must have read the file


class Function:
    """`def score(prompt: dict, completions: list[str]) -> list[float]` of a file, called with a deadline.

    prompt: the fields of a row. A call that takes more than `seconds` is ended with its process, and the next call
    starts another.

    Raises:
      ConfigError: no such file, or none such function in it.
    """

    def __init__(self, file: str, function: str, seconds: float):
        require(Path(file).is_file(), "verifier.file", f"{file}: no such file", "give a Python file")
        self.file, self.function, self.seconds = os.path.abspath(file), function, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._started()

    def __call__(self, prompt: Mapping[str, Any], completions: Sequence[str]) -> list[float]:
        """One score per completion; raises what went wrong."""
        process = self._started()
        assert process.stdin is not None
        request = json.dumps({"prompt": dict(prompt), "completions": list(completions)}) + "\n"
        try:
            process.stdin.write(request.encode())
            process.stdin.flush()
        except OSError:
            self.close()
            raise RuntimeError("its process ended") from None
        answer = self._answer(process, self.seconds)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return list(answer["scores"])

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process, self._rest = None, b""

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            command = [sys.executable, str(_SERVE), self.file, self.function]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            said = self._answer(self._process, _START)
            problem = said.get("error") or f"has no function {self.function}"
            if not said.get("ready"):
                self.close()
                raise ConfigError("verifier", f"{self.file}: {problem}", "write def score(prompt, completions)")
        return self._process

    def _answer(self, process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
        """The next line of the process; TimeoutError when it does not come in time."""
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    self.close()
                    raise TimeoutError(f"took more than {seconds:g} seconds")
                piece = os.read(process.stdout.fileno(), 2**16)
                if not piece:
                    self.close()
                    raise RuntimeError("its process ended")
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found
