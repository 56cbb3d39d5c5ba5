"""Directory: where a reproduction runs, on disk; what it has done is read again when the command runs again.

reproduction.json  whose directory this is, and the digest of the file that defined it
sweeps/<name>/     run directories
kept/<name>.json   what was computed once
clock.json         seconds of all starts together
measured.json      what `run` returned;   finding.json, finding.html, figures/: what follows from it
../_shared/        sweeps and kept values that several reproductions read, made by the first
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli
from launch.executors.choice import Options
from models.errors import ConfigError, require
from scaling import kept, registered
from scaling.reproduction import NAME, Measured

if TYPE_CHECKING:
    import pandas as pd

    from scaling.sweep.config import SweepConfig

OWNER, MEASURED, CLOCK = "reproduction.json", "measured.json", "clock.json"
SHARED = "_shared"
_OWNER: kept.Shape = {"name": str, "quick": bool, "digest": str}
_MEASURED: kept.Shape = {
    "effect": float, "interval": [float], "flops": float, "details": dict, "predictions?": [registered.SHAPE],
}  # fmt: skip


@dataclass
class Directory:
    """The Workspace that a reproduction's `run` gets. where: who trains its sweeps."""

    name: str
    folder: Path
    quick: bool
    where: Options = field(default_factory=Options)
    _since: float = field(default_factory=time.monotonic)

    def claim(self, file: Path) -> None:
        """Make this the directory of the reproduction in `file`; ConfigError when it is another's.

        When the file has changed since, its measurement is made anew from what is kept and trained.
        """
        path, fix = self.folder / OWNER, "choose another --workdir"
        if not path.exists():
            present = sorted(p.name for p in self.folder.iterdir()) if self.folder.is_dir() else []
            problem = f"is not empty ({', '.join(present[:3])}) and is no reproduction's"
            require(not present, str(self.folder), problem, fix)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        mine = {"name": self.name, "quick": self.quick, "digest": digest}
        kept.create(path, json.dumps(mine))
        saved = kept.read(path, _OWNER)
        problem = f"is the directory of {saved['name']}, not of {self.name}"
        require(saved["name"] == self.name, str(self.folder), problem, fix)
        was, now = ("quick" if q else "full" for q in (saved["quick"], self.quick))
        require(was == now, str(self.folder), f"holds a {was} run, not a {now} one", fix)
        if saved["digest"] != digest:
            self.say(f"{file.name} has changed: it is measured again; what is in kept/ and sweeps/ stays")
            (self.folder / MEASURED).unlink(missing_ok=True)
            kept.write_atomically(path, json.dumps(mine))

    def say(self, text: str) -> None:
        """One line on stderr, with the name."""
        print(cli.printable(f"{self.name}: {text}"), file=sys.stderr, flush=True)

    @property
    def shared(self) -> Path:
        """DIR/_shared beside this directory DIR/NAME."""
        return self.folder.absolute().parent / SHARED

    def sweep(self, config: SweepConfig, name: str, shared: bool = False) -> pd.DataFrame:
        """Train it, or go on with it, in folder/sweeps/name; its results table, held-out runs and failures included.

        shared: in shared/sweeps/name, for all that train the same.
        """
        import scaling
        from launch.sweep import run_sweep
        from scaling.sweep.directory import RunDirectory

        _check(name)
        path = (self.shared if shared else self.folder) / "sweeps" / name
        trials = config.anchored(Path.cwd()).trials()
        known = RunDirectory(path).is_finished(trials, config.prediction is not None)
        run_sweep(config, path, where=self.where)
        table = scaling.load(path)
        self.tick(trained=name, seconds=float(table["wall_s"].sum()) if known else 0.0)
        return table

    def keep(self, name: str, make: Callable[[], Any], shared: bool = False) -> Any:
        """Compute it once. It is read back at once too, so that the first run sees the same types as a resumed one.

        shared: in shared/kept/name.json, with the seconds that it took.
        """
        _check(name)
        path = (self.shared if shared else self.folder) / "kept" / f"{name}.json"
        known = path.is_file()
        if not known:
            begin = time.monotonic()
            record = {"value": make()} | ({"seconds": time.monotonic() - begin} if shared else {})
            try:
                text = json.dumps(kept.sealed(record), allow_nan=False)
            except (TypeError, ValueError) as error:
                fix = "return plain numbers, text, lists and dicts, with None for what is not known"
                raise ConfigError(f"{self.name}.{name}", f"is no JSON ({error})", fix) from None
            kept.write_atomically(path, text)
            self.tick()
        found = kept.opened(kept.read(path, {"seconds": float} if shared else dict), path)
        if shared:
            self.tick(trained=f"kept/{name}", seconds=found["seconds"] if known else 0.0)
        return found["value"]

    def foretell(self, name: str, make: Callable[[], Any]) -> Any:
        """Keep what is said of a sweep or a kept value; ConfigError once that is there."""
        _check(name)
        told = f"foretold_{name}"
        there = [p for p in (self.folder / "sweeps" / name, self.folder / "kept" / f"{name}.json") if p.exists()]
        problem = "is there already, so that nothing can be foretold of it"
        if not (self.folder / "kept" / f"{told}.json").is_file():
            require(not there, f"{self.name}.{name}", problem, "start in a new directory")
        return self.keep(told, make)

    def measured(self) -> Measured | None:
        """What `run` returned, once it has."""
        path = self.folder / MEASURED
        if not path.is_file():
            return None
        value = kept.opened(kept.read(path, _MEASURED), path)
        low, high = value["interval"]
        told = tuple(map(registered.of_json, value.get("predictions", [])))
        return Measured(value["effect"], (low, high), value["flops"], value["details"], told)

    def write_measured(self, measured: Measured) -> None:
        """Keep what `run` returned; ConfigError when its numbers are not finite."""
        numbers = [float(x) for x in (measured.effect, *measured.interval, measured.flops)]
        fix = "return finite numbers; a comparison that is impossible here says so with a wide interval"
        require(all(map(math.isfinite, numbers)), f"{self.name}.run", f"returned {numbers}", fix)
        effect, low, high, flops = numbers
        told = [one.to_json() for one in measured.predictions]
        value = {"effect": effect, "interval": [low, high], "flops": flops, "details": measured.details}
        value |= {"predictions": told} if told else {}
        kept.write_atomically(self.folder / MEASURED, json.dumps(kept.sealed(value), indent=1))

    def tick(self, trained: str = "", seconds: float = 0.0) -> None:
        """Add what has passed since the last tick to the seconds of the directory.

        trained: a sweep, or a shared value; `seconds` are what it took, where another reproduction came first. They
        count once, so that a finding says what it took whoever came first.
        """
        now, clock = time.monotonic(), self._clock()
        total, counted = clock["seconds"] + now - self._since, clock["counted"]
        self._since = now
        if trained and trained not in counted:
            total, counted = total + seconds, [*counted, trained]
        kept.write_atomically(self.folder / CLOCK, json.dumps({"seconds": total, "counted": counted}))

    @property
    def seconds(self) -> float:
        """Seconds of all starts together; what a kill cut off is not among them."""
        return self._clock()["seconds"]

    def _clock(self) -> dict[str, Any]:
        found = kept.read_or_none(self.folder / CLOCK, {"seconds": float, "counted": [str]})
        return found or {"seconds": 0.0, "counted": []}


def _check(name: str) -> None:
    fix = "use lower-case letters, digits and _"
    require(NAME.fullmatch(name) is not None, "name", f"is {name!r}, which names no file", fix)
