"""RunDirectory: what a sweep keeps on disk, and who may write to it.

config.json        the resolved SweepConfig
stacks.json        which trials share a program, in the order they are taken; fixed once written
manifest.json      digest of each data that trials are trained on, by DataConfig.key
results.parquet    one row per trial
predictions.jsonl  appended before each held-out run
fit.json           the fitted law
trials/<id>/       config.json, metrics.jsonl, tensorboard/, checkpoints/, result.json, card.json
stacks/<id>/       checkpoints of a stack while it runs
progress/, logs/   what workers report and say
.leases/           who works on what
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.errors import ConfigError, require
from models.serialize import from_json, to_json
from scaling.sweep.config import SweepConfig
from scaling.sweep.lease import Presence
from scaling.sweep.queue import ordered
from scaling.sweep.results import Results, write_atomically
from scaling.sweep.stack import Stack, make_stacks
from scaling.sweep.trial import BOOKKEEPING, Trial, default_of, override

OPERATIONAL = ("workers", "limits.trial_s", "priorities", "prediction")  # beside the bookkeeping of trials
GROWING = ("points", "isoflop", "seeds")
AGAIN = "to train a failed trial again, change what failed it, delete its trials/ID/result.json and repeat the command"


class RunDirectory:
    """One run directory; opening it reads nothing."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._seen: tuple[int, int] | None = None  # which stacks.json `_stacks` was read from
        self._stacks: list[Stack] = []
        self.results = Results(self.path)

    # -- ownership --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for one launcher; ConfigError when another holds it."""
        with self.presence("launcher") as presence:
            if not presence.settled("launcher"):
                problem, fix = f"is in use by {presence.holder('launcher')}", "wait for it, stop it, or choose another"
                raise ConfigError(str(self.path), problem, f"{fix} --workdir")
            yield

    def presence(self, name: str) -> Presence:
        """This process as one of those that work here: a context manager."""
        return Presence(self.path / ".leases", name)

    def check_owner(self, config: SweepConfig) -> None:
        """ConfigError when the directory belongs to another sweep or to something else.

        What says where and how often may change: workers, mesh, folders, limits on seconds, priorities, bookkeeping.
        So may the prediction, which comes after all training; and a sweep may grow, as long as no trial is lost.
        """
        path = self.path / "config.json"
        if not path.exists():
            present = self.path.iterdir() if self.path.exists() else ()
            strangers = [p.name for p in present if not p.name.startswith(".") and p.name != "logs"]  # a supervisor's
            problem = f"is not empty ({', '.join(sorted(strangers)[:3])}) and is no run directory"
            require(not strangers, str(self.path), problem, "choose a new --workdir")
            return
        before = self.config()
        saved, given = (to_json(_essence(c)) for c in (before, config))
        changed = differences(saved, given)
        if changed and all(line.startswith(GROWING) for line in changed):
            lost = self._planned() - {trial.id for trial in config.trials()}
            changed = [*changed, f"{len(lost)} of its trials are gone"] if lost else []
        problem = f"belongs to another sweep ({'; '.join(changed[:3])})"
        fix = "choose a new --workdir, or give the config it was started with (points, seeds and budgets may be added)"
        require(not changed, str(self.path), problem, fix)

    def _planned(self) -> set[str]:
        """Ids of the trials that the sweep planned, held-out runs aside."""
        tests = {prediction["trial"] for prediction in self.predictions()}
        return {trial["id"] for entry in self._entries() for trial in entry["trials"]} - tests

    def claim(self, config: SweepConfig, data: Mapping[str, Mapping[str, Any]]) -> None:
        """Make this the directory of `config` on these data; ConfigError when it is another's.

        data: Dataset.record by DataConfig.key. What may change takes its new value.
        """
        self.check_owner(config)
        self.check_data({key: record["digest"] for key, record in data.items()}, known=False)
        self._keep("config.json", to_json(config))
        self._keep("manifest.json", {"data": self.data() | dict(data)})

    def _keep(self, name: str, content: dict[str, Any]) -> None:
        path = self.path / name
        if not path.exists() or read_json(path) != content:
            write_atomically(path, json.dumps(content, indent=1))

    def config(self) -> SweepConfig:
        """The sweep that owns this directory."""
        path = self.path / "config.json"
        require(path.exists(), str(self.path), "is no run directory: config.json is missing", "check --workdir")
        return from_json(SweepConfig, read_json(path))

    def check_data(self, data: Mapping[str, str], known: bool = True) -> None:
        """Refuse data that is not what the sweep began with.

        data: its digest by DataConfig.key. known: whether every key must be in the manifest, as for a worker.
        """
        path, saved = self.path / "manifest.json", {key: record["digest"] for key, record in self.data().items()}
        for key, digest in data.items():
            fix = "run launch.sweep once more, which writes it down"
            require(key in saved or not known, str(path), "does not say what this data was", fix)
            before = saved.get(key, digest)
            problem = f"the data changed since this sweep began (digest {before[:12]} is now {digest[:12]})"
            require(before == digest, str(path), problem, "restore the files, or start a new --workdir")

    def data(self) -> dict[str, dict[str, Any]]:
        """What the sweep is trained on: Dataset.record by DataConfig.key."""
        path = self.path / "manifest.json"
        found = read_json(path) if path.exists() else {"data": {}}
        data: Any = found.get("data") if isinstance(found, dict) else None
        whole = isinstance(data, dict) and all(isinstance(r, dict) and "digest" in r for r in data.values())
        require(whole, str(path), "does not hold the digest of each data", "restore it, or start in a new directory")
        return data

    # -- stacks -----------------------------------------------------------------------------------------------

    def plan(
        self,
        trials: Sequence[Trial],
        stack_size: int,
        labels: dict[str, dict[str, Any]],
        priorities: Mapping[str, int] | None = None,
    ) -> None:
        """Add the stacks of trials that have none yet; those written before keep their grouping, but take the mesh."""
        entries = self._entries()
        before = json.dumps(entries)
        known = {trial["id"]: trial for entry in entries for trial in entry["trials"]}
        new = [t for t in trials if t.id not in known]
        for trial in trials:
            if trial.id in known:
                known[trial.id]["config"] = to_json(trial)
        for stack in ordered(make_stacks(new, stack_size), priorities or {}):
            members = [{"id": t.id, "config": to_json(t), "labels": labels.get(t.id, {})} for t in stack.trials]
            entries.append({"trials": members, "trunks": list(stack.trunks)})
        if json.dumps(entries) != before:
            write_atomically(self.path / "stacks.json", json.dumps(entries, indent=1))

    def _entries(self) -> list[dict[str, Any]]:
        path = self.path / "stacks.json"
        return read_json(path) if path.exists() else []

    def stacks(self) -> list[Stack]:
        """Every stack, in the order in which workers take them."""
        path = self.path / "stacks.json"
        seen = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None
        if seen is None or seen != self._seen:
            self._seen, self._stacks = (
                seen,
                [
                    Stack(tuple(from_json(Trial, t["config"]) for t in entry["trials"]), tuple(entry["trunks"]))
                    for entry in self._entries()
                ],
            )
        return list(self._stacks)

    def labels(self) -> dict[str, dict[str, Any]]:
        """Trial id -> free columns of its row."""
        return {t["id"]: t["labels"] for entry in self._entries() for t in entry["trials"]}

    def is_done(self, stack: Stack) -> bool:
        """Whether every trial of `stack` has its row."""
        return all(self.results.has(trial.id) for trial in stack.trials)

    def is_finished(self, trials: Sequence[Trial], predicted: bool) -> bool:
        """Whether every trial has its row and, if the sweep predicts, so has every held-out run."""
        tests = [p["trial"] for p in self.predictions()]
        ids = [t.id for t in trials] + tests
        return all(self.results.has(i) for i in ids) and (bool(tests) or not predicted)

    # -- predictions and progress -----------------------------------------------------------------------------

    def predictions(self) -> list[dict[str, Any]]:
        """The predictions written so far."""
        path = self.path / "predictions.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]

    def append_prediction(self, prediction: dict[str, Any], trial: Trial) -> None:
        """Write one prediction to disk before the run that tests it, `trial`, may start; that run's config first."""
        write_atomically(self.path / "trials" / trial.id / "config.json", json.dumps(to_json(trial), indent=1))
        lines = [json.dumps(p) for p in [*self.predictions(), prediction]]
        write_atomically(self.path / "predictions.jsonl", "".join(line + "\n" for line in lines))

    def predicted_trials(self) -> list[Trial]:
        """The runs that test the predictions."""
        paths = [self.path / "trials" / p["trial"] / "config.json" for p in self.predictions()]
        return [from_json(Trial, read_json(path)) for path in paths]

    def write_progress(self, worker: str, state: dict[str, Any]) -> None:
        """What a worker is doing, for displays; may be lost in a crash."""
        path = self.path / "progress" / f"{worker}.json"
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(state), encoding="utf-8")
        os.replace(partial, path)

    def read_progress(self) -> dict[str, dict[str, Any]]:
        """Worker -> its last report."""
        reports = {}
        for path in sorted(self.path.glob("progress/*.json")):
            with contextlib.suppress(json.JSONDecodeError, FileNotFoundError):
                reports[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        return reports


def read_json(path: Path) -> Any:
    """What a file of a run directory holds; ConfigError when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ConfigError(str(path), f"is damaged ({e})", "restore it, or start in a new directory") from None


def _essence(config: SweepConfig) -> SweepConfig:
    """The sweep without what says where it runs and how often it keeps its books."""
    return override(config, {path: default_of(SweepConfig, path) for path in (*OPERATIONAL, *BOOKKEEPING)})


def differences(saved: Any, given: Any, path: str = "") -> list[str]:
    """Dotted fields whose values differ, `field: saved, not given`."""
    if isinstance(saved, dict) and isinstance(given, dict):
        names = list(dict.fromkeys([*saved, *given]))
        return [
            line
            for name in names
            for line in differences(saved.get(name), given.get(name), f"{path}.{name}" if path else name)
        ]
    return [] if saved == given else [f"{path} was {json.dumps(saved)[:40]}, now {json.dumps(given)[:40]}"]
