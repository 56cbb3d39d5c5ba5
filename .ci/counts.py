"""Print the counts of each part of a CI run, and of all together in pytest's closing form: `counts.py FOLDER`.

FOLDER has NAME.log, what pytest printed, and NAME.seconds. A test that the first part skipped counts with the part that
ran it, so that "skipped" is what nothing ran.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PARTS = {
    "readme": "the README's command", "real": "with the real components",
    "transformers4": "beside transformers 4", "newest": "with the newest jax",
}  # fmt: skip
WORDS = ("failed", "passed", "skipped", "deselected", "xfailed", "error", "errors", "warning", "warnings")
CLOSING = re.compile(r"^=* ?((?:\d+ (?:" + "|".join(WORDS) + r"),? ?)+)in [\d.]+s")


def counts(text: str) -> dict[str, int] | None:
    """The numbers of pytest's closing line, the last of its form; None where there is none."""
    lines = [match[1] for line in text.splitlines() if (match := CLOSING.match(line))]
    if not lines:
        return None
    found = {word.rstrip("s"): int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", lines[-1])}
    return {word: found.get(word, 0) for word in ("passed", "failed", "error", "skipped")}


def main(folder: Path) -> None:
    """Read what the parts left, and print."""
    total = dict.fromkeys(("passed", "failed", "error", "skipped"), 0)
    seconds = 0.0
    for name, title in PARTS.items():
        log = folder / f"{name}.log"
        if not log.exists():
            print(f"{title}: not run")
            continue
        found = counts(log.read_text(errors="replace"))
        took = float((folder / f"{name}.seconds").read_text())
        seconds += took
        if found is None:
            print(f"{title}: ended without pytest's closing line, {took:.0f} s")
            total["error"] += 1
            continue
        print(f"{title}: " + ", ".join(f"{n} {word}" for word, n in found.items() if n) + f", {took:.0f} s")
        if name == "real":
            total["skipped"] = 0
        for word, n in found.items():
            total[word] += n if word != "skipped" or name in ("readme", "real") else 0
    words = ", ".join(f"{n} {word}" for word, n in total.items() if n or word == "passed")
    print(f"===== {words} in {seconds:.2f}s =====")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
