"""Checkpoints of a run: orbax writes the arrays, this module makes them trustworthy.

    DIR/120/                  a complete step: orbax's files and manifest.json (see scaling.train.manifest)
    DIR/140.saving/           a step being written; becomes DIR/140 by one rename, after its manifest is on disk
    DIR/100.corrupt/          a step that failed its checks, kept for inspection and never used or deleted again
    DIR/80.deleting/, DIR/120.replaced/    steps on their way out; tidied up when the directory is opened next

So a directory called by a number is complete by construction, whenever the process was killed, and anything missing
from it is damage.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import operator
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jax
from orbax.checkpoint import v1 as ocp

from models.errors import ConfigError, require
from scaling.train import leaves, manifest
from scaling.train.manifest import Damaged, Manifest
from scaling.train.processes import barrier, from_first, is_first

log = logging.getLogger(__name__)


class NoCheckpoint(ConfigError):
    """There is no step to restore, or none that passes its checks; the message names what was found."""


class AllDamaged(NoCheckpoint):
    """There were steps, and none passes its checks: what was trained is lost, and the folders of it are kept."""


class DiskFull(ConfigError):
    """A step did not fit on the disk. Nothing of it is left, and the steps before it are untouched."""


@dataclass(frozen=True)
class Restored:
    """A verified step: the state, and the metadata it was saved with."""

    step: int
    state: Any
    metadata: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in `directory`, which this object owns: one writer at a time.

    directory: created when missing; leftovers of a killed process are removed.
    keep: the newest steps that are kept; room on disk is needed for one more.
    keep_every: multiples of this step are kept for ever.
    asynchronous: `save` returns once the state is copied to the host, and the rest happens on a thread.

    Every process of a multi-process run must make the same calls, on a file system they share.
    Raises ConfigError for a directory that cannot be made or an impossible `keep`.
    """

    def __init__(self, directory: str | Path, keep: int = 2, keep_every: int | None = None, asynchronous: bool = True):
        require(keep >= 1, "keep", f"{keep} checkpoints would keep nothing", "use 1 or more")
        require(keep_every is None or keep_every >= 1, "keep_every", f"{keep_every} is no interval", "use 1 or more")
        self.directory = Path(directory).absolute()
        self.keep, self.keep_every, self.asynchronous = keep, keep_every, asynchronous
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"cannot be made ({error.strerror})"
            raise ConfigError(str(directory), problem, "choose a writable directory") from None
        if is_first():
            _tidy(self.directory)
        barrier(f"open {self.directory}")

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except Exception as error:
            if kind is None:
                raise
            log.error("%s", error)  # the exception that is already on its way matters more
        finally:
            self._pool.shutdown()

    def steps(self) -> list[int]:
        """Complete steps on disk, ascending."""
        return _steps(self.directory)

    def latest(self) -> int | None:
        """The newest complete step; whether it is undamaged is only known once it is restored."""
        return max(self.steps(), default=None)

    def metadata(self, step: int | None = None) -> dict[str, Any]:
        """The metadata that `step` (default: the newest) was saved with; reads no arrays. Raises NoCheckpoint."""
        step = self.latest() if step is None else step
        if step is None:
            raise _nothing_in(self.directory)
        try:
            return manifest.read(self.directory / str(step)).metadata
        except Damaged as damage:
            raise _refused(self.directory, step, damage) from None

    def save(self, step: int, state: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Save `state` as `step`, replacing that step if it exists.

        state: pytree of jax or numpy arrays. It may be donated or overwritten as soon as this returns.
        metadata: anything JSON can hold.
        Waits for the previous save first and raises its error. Raises ConfigError for leaves that cannot be saved and
        DiskFull when there is no room; an asynchronous save raises from the next save, wait or exit.
        """
        self.wait()
        step = operator.index(step)
        require(step >= 0, "step", f"{step} is negative", "count steps from 0")
        tree, table = leaves.pack(leaves.named(state))
        draft = Manifest(step, table, _json_copy(metadata or {}), files={})
        staging = self.directory / f"{step}.saving"
        try:
            from_first(partial(self._make_room, draft))
            # Large leaves are still the caller's: orbax copies them to the host before it returns. And with several
            # processes its set-up runs a collective, which may not race with those of the training step.
            if "large" in tree or jax.process_count() > 1:
                response = _write(staging, tree)
                publish = partial(self._publish, lambda: response, draft)
            else:
                publish = partial(self._publish, partial(_write, staging, tree), draft)
        except Exception as error:
            self._fail(error, draft)
        if self.asynchronous:
            self._pending = self._pool.submit(publish)
        else:
            publish()

    def check(self) -> None:
        """Raise what went wrong in a save that has ended meanwhile, rather than at the next save; never waits."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return once no save is under way; raises what went wrong in it."""
        if self._pending is None:
            return
        try:
            self._pending.result()
        finally:
            if self._pending.done():  # else Ctrl-C came while waiting, and the save goes on
                self._pending = None

    def restore(self, abstract_state: Any, step: int | None = None, subtree: str = "") -> Restored:
        """The newest undamaged step, or exactly `step`, in the form of `abstract_state`.

        abstract_state: pytree of ShapeDtypeStructs or arrays. A leaf with a sharding is restored onto it, whatever mesh
            it was saved from; numpy leaves as numpy; others onto the default device, uncommitted.
        subtree: restore only this part of the saved state ("params"), of which abstract_state is the form.

        A damaged step is renamed N.corrupt, a warning names the file and the step used instead. Raises NoCheckpoint
        when none is left, ConfigError when shapes, dtypes or the tree differ: nothing is cast.
        """
        self.wait()
        found = _agree(self.directory, step, quarantine=True)
        path = self.directory / str(found.step)
        return Restored(found.step, leaves.read_like(path, found, abstract_state, subtree), found.metadata)

    def _publish(self, start: Callable[[], ocp.AsyncResponse[None]], draft: Manifest) -> None:
        """Let orbax finish, write the manifest, and make the step visible."""
        staging, final = self.directory / f"{draft.step}.saving", self.directory / str(draft.step)
        try:
            start().result()  # returns in every process only when all of them have written
            if is_first():
                manifest.write(staging, draft)
                replaced = self.directory / f"{draft.step}.replaced"
                _remove(replaced)
                if final.exists():
                    os.rename(final, replaced)
                os.rename(staging, final)
                manifest.sync_directory(self.directory)
                _remove(replaced)
                self._prune(just_saved=draft.step)
        except Exception as error:
            self._fail(error, draft)  # the others may wait for this process, whose next call raises and ends them
        barrier(f"publish {final}")

    def _prune(self, just_saved: int) -> None:
        for step in self.steps()[: -self.keep]:
            kept_for_ever = self.keep_every is not None and step % self.keep_every == 0
            if not kept_for_ever and step != just_saved:  # which is not the newest after going back to an older step
                doomed = self.directory / f"{step}.deleting"
                _remove(doomed)
                _move(self.directory / str(step), doomed)  # at once, so that no reader sees half a step
                _remove(doomed)

    def _make_room(self, draft: Manifest) -> None:
        """Refuse a step that cannot fit, and remove what an earlier attempt at it left."""
        _require_space(self.directory, draft)
        self._discard(draft.step)

    def _discard(self, step: int) -> None:
        """Remove what was written of an unfinished step."""
        for leftover in self.directory.glob(f"{step}.saving*"):
            _remove(leftover)

    def _fail(self, error: Exception, draft: Manifest) -> NoReturn:
        """Discard a step and raise `error`, as DiskFull where that is what it means."""
        free = shutil.disk_usage(self.directory).free
        if is_first():
            self._discard(draft.step)
        if isinstance(error, DiskFull):
            raise error
        if _means_full(error):
            raise _disk_full(self.directory, draft, free) from error
        error.add_note(
            f"while saving step {draft.step} in {self.directory}; its newest complete step is {self.latest()}"
        )
        raise error


def load(directory: str | Path, step: int | None = None, subtree: str = "") -> Restored:
    """A verified step as it was saved: nested dicts of numpy arrays, tuples as dicts with keys "0", "1", ...

    Only reads, so the run that owns `directory` may still be training; damaged steps are passed over with a warning.
    step: default the newest undamaged one. subtree: only this part of the state, such as "params".
    Raises NoCheckpoint, or ConfigError when there is no such subtree.
    """
    root = Path(directory).absolute()
    found = _find(root, step, quarantine=False)
    return Restored(found.step, leaves.read_nested(root / str(found.step), found, subtree), found.metadata)


def load_like(directory: str | Path, abstract_state: Any, step: int | None = None, subtree: str = "") -> Restored:
    """Checkpoints.restore for a directory that another run owns: only reads, passes damaged steps over.

    For initialising one run from another's checkpoint: `load_like(dir, abstract_params, subtree="params").state`.
    """
    root = Path(directory).absolute()
    found = _agree(root, step, quarantine=False)
    path = root / str(found.step)
    return Restored(found.step, leaves.read_like(path, found, abstract_state, subtree), found.metadata)


def table(directory: str | Path, step: int | None = None, subtree: str = "") -> dict[str, manifest.Leaf]:
    """Shape and dtype of every leaf below `subtree` by its path there; reads no arrays and verifies none.

    step: default the newest. Raises NoCheckpoint.
    """
    root = Path(directory).absolute()
    step = max(_steps(root), default=None) if step is None else step
    if step is None:
        raise _nothing_in(root)
    try:
        return leaves.below(manifest.read(root / str(step)).leaves, subtree)
    except Damaged as damage:
        raise _refused(root, step, damage) from None


def digest(directory: str | Path, step: int | None = None) -> str:
    """sha256 of what a step holds: its leaves' names, shapes and dtypes, and the hashes of its files.

    Reads the manifest only, so it says what was written; a load just before has verified it. step: default the newest.
    Raises NoCheckpoint.
    """
    root = Path(directory).absolute()
    step = max(_steps(root), default=None) if step is None else step
    if step is None:
        raise _nothing_in(root)
    try:
        found = manifest.read(root / str(step))
    except Damaged as damage:
        raise _refused(root, step, damage) from None
    lines = sorted(f"{name} {leaf}" for name, leaf in found.leaves.items())
    return hashlib.sha256(json.dumps([lines, sorted(c.sha256 for c in found.files.values())]).encode()).hexdigest()


def load_params(trial_directory: str | Path, step: int | None = None) -> dict[str, Any]:
    """The parameters of a trial (a directory with `checkpoints/` in it), nested dicts of numpy arrays."""
    return load(Path(trial_directory) / "checkpoints", step, subtree="params").state


# -- directories ------------------------------------------------------------------------------------------------


def _steps(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if re.fullmatch(r"0|[1-9]\d*", p.name) and p.is_dir())


def _tidy(directory: Path) -> None:
    """Finish or undo what a killed process left half done."""
    for path in sorted(directory.iterdir()):
        if match := re.fullmatch(r"(\d+)\.replaced", path.name):
            if (directory / match[1]).exists():
                _remove(path)
            else:  # killed between the two renames
                os.rename(path, directory / match[1])
        elif re.fullmatch(r"\d+\.(saving.*|deleting)", path.name):
            _remove(path)


def _remove(path: Path) -> None:
    """Delete a directory tree; one that resists costs space, not the run."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s: could not be removed (%s)", path, error)


def _move(path: Path, target: Path) -> bool:
    """Rename; one that fails costs space or time, not the run."""
    try:
        os.rename(path, target)
    except OSError as error:
        log.warning("%s: could not be renamed to %s (%s)", path, target.name, error.strerror)
        return False
    return True


def _find(directory: Path, step: int | None, quarantine: bool) -> Manifest:
    """The verified manifest of `step`, or of the newest step that passes."""
    damages: list[tuple[int, Damaged, str]] = []
    tried: set[int] = set()
    while candidates := [s for s in _steps(directory) if s not in tried and step in (None, s)]:
        candidate = max(candidates)  # listed anew each time: a writer may add and prune steps meanwhile
        tried.add(candidate)
        try:
            found = _verify(directory / str(candidate))
        except Damaged as error:
            if (directory / str(candidate)).is_dir():
                damages.append((candidate, error, _quarantine(directory, candidate) if quarantine else "passed over"))
            continue
        for bad, damage, outcome in damages:
            log.warning("%s; step %d was %s, using step %d instead", damage, bad, outcome, candidate)
        if found.step != candidate:
            raise ConfigError(str(directory / str(candidate)), f"holds step {found.step}", "undo the renaming")
        return found
    others = [s for s in _steps(directory) if s not in tried]
    if damages:
        bad, damage, outcome = damages[0]
        problem = f"{damage.problem}; step {bad} was {outcome}, and no other was usable"
        if step is not None:
            problem = f"{damage.problem}; step {bad} was {outcome}"
        raise AllDamaged(str(damage.path), problem, f"choose from {others}" if others else "train from the start")
    if others:
        raise NoCheckpoint(str(directory), f"has no step {step}", f"choose from {others}")
    raise _nothing_in(directory)


def _agree(directory: Path, step: int | None, quarantine: bool) -> Manifest:
    """The manifest of the step to restore: process 0 verifies and decides for all."""
    if jax.process_count() == 1:
        return _find(directory, step, quarantine)
    return manifest.read(directory / str(from_first(lambda: _find(directory, step, quarantine).step)))


def _write(path: Path, tree: dict[str, Any]) -> ocp.AsyncResponse[None]:
    with leaves.context():
        return ocp.save_async(path, tree)


def _verify(path: Path) -> Manifest:
    try:
        return manifest.verify(path)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        if error.errno in (errno.EIO, errno.ENOENT, errno.EISDIR):
            raise Damaged(Path(error.filename or path), problem) from None
        # Permissions, a lost server or too many open files are no damage: the step may be read again later.
        raise ConfigError(str(error.filename or path), problem, "put that right and run again") from None


def _quarantine(directory: Path, step: int) -> str:
    """Take a damaged step out of use; returns what was done."""
    target, count = directory / f"{step}.corrupt", 1
    while target.exists():
        target, count = directory / f"{step}.corrupt.{count}", count + 1
    return f"renamed {target.name}" if _move(directory / str(step), target) else "passed over"


# -- space and messages -------------------------------------------------------------------------------------------


def _json_copy(metadata: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(metadata)))
    except (TypeError, ValueError) as error:
        problem = f"cannot be written as JSON ({error})"
        raise ConfigError("metadata", problem, "use numbers, strings, lists and dicts") from None


def _require_space(directory: Path, draft: Manifest) -> None:
    usage = shutil.disk_usage(directory)
    if usage.total and usage.free < draft.nbytes:  # some network file systems report nothing at all
        raise _disk_full(directory, draft, usage.free)


def _means_full(error: BaseException) -> bool:
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last: a limit on file size, as SLURM and ulimit set
    texts = [os.strerror(code) for code in codes]  # all that tensorstore gives
    return any(getattr(e, "errno", None) in codes or any(t in str(e) for t in texts) for e in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _disk_full(directory: Path, draft: Manifest, free: int) -> DiskFull:
    newest = max(_steps(directory), default=None)
    state = "no step is saved yet" if newest is None else f"step {newest} is safe"
    problem = f"disk full: step {draft.step} needs {draft.nbytes:,} bytes and {free:,} are free; {state}"
    return DiskFull(str(directory), problem, "free some space or use another disk, then run again")


def _nothing_in(directory: Path) -> NoCheckpoint:
    return NoCheckpoint(str(directory), "holds no checkpoint", "name a directory that does, or train from the start")


def _refused(directory: Path, step: int, damage: Damaged) -> NoCheckpoint:
    others = [s for s in _steps(directory) if s != step]
    return NoCheckpoint(str(damage.path), damage.problem, f"choose another step: {others}" if others else "train anew")
