"""Policies that a study is given: trials, finished ladders and Hugging Face folders, each with its identity.

Nothing is trained or copied here, so that one ladder serves many studies; a study writes down which weights it began
with (policies.json), and refuses others in their place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models import counts
from models.errors import ConfigError, nearest, require
from models.serialize import digest
from scaling import kept
from scaling.sweep.directory import RunDirectory
from scaling.tasks import task_by_name
from search.policy import Policy, check_writes, describe_policy, load_policy

FIELD = "existing"
MANIFEST = "policies.json"
_RECORD: kept.Shape = {str: {"config": str, "checkpoint": str, "folder": str, "params": int}}


@dataclass(frozen=True)
class Existing:
    """A policy that lies somewhere, without its weights.

    name: in rows and files; the trial's id, or the first digits of the weights' digest. config: sha256 of what the
    model computes. checkpoint: sha256 of its weights, `Policy.digest`.
    """

    name: str
    folder: Path
    params: int
    config: str
    checkpoint: str

    def load(self) -> Policy:
        """The policy; ConfigError when its weights are no longer those that were described."""
        policy = load_policy(self.folder)
        same = policy.digest == self.checkpoint
        require(same, str(self.folder), *_changed(self.name, self.checkpoint, policy.digest))
        return policy


def existing_policies(entries: Sequence[str], tasks: Sequence[str]) -> list[Existing]:
    """The policies that these directories hold, in their order, each once, all able to write the tasks' characters.

    Raises:
      ConfigError: a directory that is no trial, no finished sweep, no study and no model; another checkpoint of a
        policy that is there already; a task whose characters one of them does not know.
    """
    found: dict[str, Existing] = {}
    for entry in entries:
        for folder in _folders(entry):
            policy = describe(folder, tasks)
            before = found.setdefault(policy.name, policy)
            problem = f"{before.folder} and {folder} hold two checkpoints of one policy, {policy.name}"
            require(before.checkpoint == policy.checkpoint, FIELD, problem, "name one of them")
    return list(found.values())


def describe(folder: Path, tasks: Sequence[str]) -> Existing:
    """The policy in one directory; ConfigError as `describe_policy`, and when it cannot write what a task needs."""
    try:
        found = describe_policy(folder)
    except ConfigError as error:
        raise ConfigError(FIELD if error.field.startswith("--") else error.field, error.problem, error.fix) from None
    for name in tasks:
        check_writes(found.model, found.tokenizer, found.source, task_by_name(name), name)
    return Existing(
        found.trial or found.digest[:12], folder, counts.params(found.model), digest(found.model), found.digest
    )


def hold(file: Path, policies: Iterable[Existing], write: bool = True) -> None:
    """Write down which weights a study searches with; ConfigError, by its name, for a policy that changed since.

    write: whether to, or only to compare.
    """
    record = kept.opened(kept.read(file, dict), file) if file.exists() else {}
    before = kept.parsed(json.dumps(record), _RECORD, file)
    after = dict(before)
    for policy in policies:
        now = {"config": policy.config, "checkpoint": policy.checkpoint}
        known = before.get(policy.name, now)
        for part, value in now.items():
            require(known[part] == value, str(policy.folder), *_changed(policy.name, known[part], value, part))
        after[policy.name] = now | {"folder": str(policy.folder), "params": policy.params}
    if write and after != before:
        kept.write_atomically(file, json.dumps(kept.sealed(after), indent=1))


def held(file: Path) -> list[Existing]:
    """The policies that a study wrote down, the smallest first.

    Raises:
      ConfigError: it has written none down yet.
    """
    require(file.exists(), str(file), "is not there: the study has no policies yet", "let launch.search begin it")
    record = kept.parsed(json.dumps(kept.opened(kept.read(file, dict), file)), _RECORD, file)
    found = [
        Existing(name, Path(r["folder"]), r["params"], r["config"], r["checkpoint"]) for name, r in record.items()
    ]
    return in_order(found)


def in_order(policies: Iterable[Existing]) -> list[Existing]:
    """As a study goes through them: the smallest first."""
    return sorted(policies, key=lambda policy: (policy.params, policy.name))


def finished(directory: RunDirectory) -> list[Path]:
    """Directories of the trials of a sweep that were trained to their end, in the order of the sweep."""
    trials = [trial.id for stack in directory.stacks() for trial in stack.trials]
    rows = {name: directory.results.get(name) or {} for name in trials}
    return [directory.path / "trials" / name for name, row in rows.items() if row.get("status") == "done"]


def _folders(entry: str) -> list[Path]:
    """The directories of the policies that an entry names: its own, or those of a finished sweep."""
    path = Path(entry)
    if (path / "study.json").is_file():
        path = path / "policies"
    if path.is_dir() and not (path / "stacks.json").is_file():
        return [path]
    if not path.is_dir():
        near = nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else None
        fix = f"did you mean {path.parent / near}?" if near else "give a trial, a finished sweep or a model's folder"
        raise ConfigError(FIELD, f"{entry} is no directory", fix)
    directory = RunDirectory(path)
    trials = [trial.id for stack in directory.stacks() for trial in stack.trials]
    ended, done = sum(map(directory.results.has, trials)), finished(directory)
    fix = "run its command again: it goes on; or name the trials that are done"
    require(ended == len(trials), FIELD, f"{entry} is not finished ({ended} of {len(trials)} trials)", fix)
    require(bool(done), FIELD, f"all {len(trials)} trials of {entry} failed", "give another ladder")
    return done


def _changed(name: str, before: str, now: str, part: str = "checkpoint") -> tuple[str, str]:
    problem = f"policy {name} changed since this study began (its {part} was {before[:12]}, now {now[:12]})"
    return problem, "put back what it was, or start a new --workdir"
