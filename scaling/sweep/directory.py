"""RunDirectory: what a sweep keeps on disk, and who may write to it.

config.json        the resolved SweepConfig
stacks.json        which trials share a program, in the order they are taken; fixed once written; trials and stacks
                   carry their ids, hashes of what they are, which tell when the file was changed
manifest.json      digest of each data that trials are trained on, by DataConfig.key
results.parquet    one row per trial
predictions.jsonl  appended before each held-out run
fit.json           the fitted law
trials/<id>/       config.json, metrics.jsonl, tensorboard/, checkpoints/, result.json, card.json
stacks/<id>/       checkpoints of a stack while it runs
corrupt/           checkpoints of stacks that were found damaged, for inspection
progress/, logs/   what workers report and say
.leases/           who works on what
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.errors import ConfigError, require
from models.serialize import from_json, to_json
from scaling import kept
from scaling.kept import write_atomically
from scaling.sweep.config import SweepConfig
from scaling.sweep.lease import Presence
from scaling.sweep.queue import ordered
from scaling.sweep.results import Results
from scaling.sweep.stack import Stack, make_stacks
from scaling.sweep.trial import BOOKKEEPING, Trial, default_of, override

OPERATIONAL = ("workers", "limits.trial_s", "priorities", "prediction")  # beside the bookkeeping of trials
GROWING = ("points", "isoflop", "seeds")
CORRUPT = "corrupt"  # folder of checkpoints that failed their checks
RETRY = "to train a failed trial again, change what failed it, delete its trials/ID/result.json and repeat the command"

AGAIN = "delete it and run the sweep's command again: it is made anew"
_STACKS: kept.Shape = [{"trials": [{"id": str, "config": dict, "labels": dict}], "trunks": [(int, None)], "id?": str}]
_NUMBERS = ("fraction", "seconds", "samples", "tokens", "flops", "peak_flops", "time")
_REPORT: kept.Shape = {"stack?": str, "device?": str} | {f"{name}?": float for name in _NUMBERS}


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

    def presence(self, name: str, stall_s: float | None = None) -> Presence:
        """This process as one of those that work here: a context manager. stall_s: see Presence."""
        return Presence(self.path / ".leases", name, stall_s)

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
        """Make this the directory of `config` on these data, unless it is already; ConfigError if another's.

        data: Dataset.record by DataConfig.key. What may change takes its new value. Of several that start at once, one
        makes it, and the others are compared with what that one wrote.
        """
        digests = {key: record["digest"] for key, record in data.items()}
        self.check_owner(config)
        kept.create(self.path / "config.json", json.dumps(to_json(config), indent=1))
        kept.create(self.path / "manifest.json", json.dumps({"data": dict(data)}, indent=1))
        self.check_owner(config)
        self.check_data(digests, known=False)
        for name, content in (("config.json", to_json(config)), ("manifest.json", {"data": self.data() | dict(data)})):
            if kept.read(self.path / name, dict) != content:
                write_atomically(self.path / name, json.dumps(content, indent=1))

    def config(self) -> SweepConfig:
        """The sweep that owns this directory."""
        path = self.path / "config.json"
        require(path.exists(), str(self.path), "is no run directory: config.json is missing", "check --workdir")
        saved = kept.read(path, dict)
        try:
            return from_json(SweepConfig, saved)
        except ConfigError as error:
            raise ConfigError(str(path), f"is damaged ({error.field} {error.problem})", kept.RESTORE) from None

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
        return kept.read(path, {"data": {str: {"digest": str}}})["data"] if path.exists() else {}

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
        _stacks(entries, self.path / "stacks.json")
        known = {trial["id"]: trial for entry in entries for trial in entry["trials"]}
        new = [t for t in trials if t.id not in known]
        for trial in trials:
            if trial.id in known:
                known[trial.id]["config"] = to_json(trial)
        for stack in ordered(make_stacks(new, stack_size), priorities or {}):
            members = [{"id": t.id, "config": to_json(t), "labels": labels.get(t.id, {})} for t in stack.trials]
            entries.append({"id": stack.id, "trials": members, "trunks": list(stack.trunks)})
        if json.dumps(entries) != before:
            write_atomically(self.path / "stacks.json", json.dumps(entries, indent=1))

    def _entries(self) -> list[dict[str, Any]]:
        path = self.path / "stacks.json"
        return kept.read(path, _STACKS, AGAIN) if path.exists() else []

    def stacks(self) -> list[Stack]:
        """Every stack, in the order in which workers take them; ConfigError when stacks.json is damaged."""
        path = self.path / "stacks.json"
        seen = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None
        if seen is None or seen != self._seen:
            self._seen, self._stacks = seen, _stacks(self._entries(), path)
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
        path, fix = self.path / "predictions.jsonl", "delete this line, if its run has not begun, or restore the file"
        if not path.exists():
            return []
        lines = kept.read_bytes(path, fix).split(b"\n")
        whole = [(i, line) for i, line in enumerate(lines, 1) if line.strip() and (i < len(lines) or line[-1:] == b"}")]
        return [kept.parsed(line, {"trial": str, "mean?": float}, f"{path}:{i}", fix) for i, line in whole]

    def append_prediction(self, prediction: dict[str, Any], trial: Trial) -> None:
        """Write one prediction to disk before the run that tests it, `trial`, may start; that run's config first."""
        write_atomically(self.path / "trials" / trial.id / "config.json", json.dumps(to_json(trial), indent=1))
        lines = [json.dumps(p) for p in [*self.predictions(), prediction]]
        write_atomically(self.path / "predictions.jsonl", "".join(line + "\n" for line in lines))

    def predicted_trials(self) -> list[Trial]:
        """The runs that test the predictions."""
        return [
            _trial(kept.read(path, dict), name, path)
            for name in dict.fromkeys(prediction["trial"] for prediction in self.predictions())
            if (path := self.path / "trials" / name / "config.json")
        ]

    def write_progress(self, worker: str, state: dict[str, Any]) -> None:
        """What a worker is doing, for displays; may be lost in a crash."""
        write_atomically(self.path / "progress" / f"{worker}.json", json.dumps(state), durable=False)

    def read_progress(self) -> dict[str, dict[str, Any]]:
        """Worker -> its last report; damaged ones are left out."""
        found = {path.stem: kept.read_or_none(path, _REPORT) for path in sorted(self.path.glob("progress/*.json"))}
        return {name: report for name, report in found.items() if report is not None}


def _stacks(entries: Sequence[Mapping[str, Any]], path: Path) -> list[Stack]:
    """The entries of stacks.json as stacks; ConfigError when one is not what its id says, or a trial is there twice."""
    found: list[Stack] = []
    for i, entry in enumerate(entries):
        trials, trunks = tuple(_trial(t["config"], t["id"], path, AGAIN) for t in entry["trials"]), entry["trunks"]
        whole = len(trunks) == len(trials) > 0 and all(t is None or 0 <= t < len(trials) for t in trunks)
        require(whole, str(path), f"is damaged ([{i}].trunks does not fit its trials)", AGAIN)
        stack = Stack(trials, tuple(trunks))
        problem = f"is damaged ([{i}] is not the stack that its id names)"
        require(entry.get("id", stack.id) == stack.id, str(path), problem, AGAIN)
        found.append(stack)
    ids = [trial.id for stack in found for trial in stack.trials]
    twice = next((name for name in ids if ids.count(name) > 1), "") if len(set(ids)) < len(ids) else ""
    require(not twice, str(path), f"is damaged (trial {twice} is there twice)", AGAIN)
    return found


def _trial(config: Mapping[str, Any], name: str, path: Path, fix: str = kept.RESTORE) -> Trial:
    """The trial of this id from its config; ConfigError when that is another's."""
    try:
        trial = from_json(Trial, config)
    except ConfigError as error:
        raise ConfigError(str(path), f"is damaged (trial {name}: {error.field} {error.problem})", fix) from None
    problem = f"is damaged, or of another version (trial {name} has the config of {trial.id})"
    require(trial.id == name, str(path), problem, fix)
    return trial


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
