"""Run a user's verifier in a process of its own: one JSON line in, one out. Standard library alone, as a script.

    python serve.py FILE FUNCTION

A request is {"prompt": {...}, "completions": ["..."]}, an answer {"scores": [...]} or {"error": "..."}; the first line
out says whether the function is there. What the function prints goes to standard error.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
import time


def main(file: str, function: str) -> None:
    """Answer until standard input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(answer: dict) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        spec = importlib.util.spec_from_file_location("verifier", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, os.path.dirname(os.path.abspath(file)))
        spec.loader.exec_module(module)
        score = getattr(module, function)
    except BaseException as error:
        say({"error": f"{type(error).__name__}: {error}"})
        return
    say({"ready": callable(score)})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            scores = score(request["prompt"], request["completions"])
            say({"scores": [float(x) for x in scores]})
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})


def _end_with(parent: int) -> None:
    """A function that hangs must not outlive the job."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
