"""Handover: a process of its own draws rollouts ahead of the trainer, from a policy at most so many versions old.

Version v of a policy is the policy after the updates of v rollouts. Rollout r is drawn from version r - staleness (from
the first, where there is none so old): never from one that is newer by chance. So which process is faster changes
nothing but the time, a run is a function of its config, and one that is begun again ends with the same bits.

    DIR/wanted.json                 the rollout that the trainer asks for, and the run it belongs to
    DIR/params-00000012.npz         version 12, from the trainer
    DIR/rollout-00000014.npz        rollout 14, from the process that draws
    DIR/failed.json                 why that process ended, where it could not go on

Each file is whole or not there. Versions from which a run would draw that goes on from its oldest checkpoint are kept;
its rollouts are not, as they come out the same.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from models.errors import ConfigError, require
from scaling import kept
from scaling.train.loop import Interrupted
from search.posttrain.rollouts import Cost, Rollouts

POLL_S = 0.005  # between looks for a file; a rollout takes many times as long
NEW = "start a new --workdir"


class Handover:
    """The files between the two processes of one run. run: what it is known by; files of another are refused."""

    def __init__(self, directory: Path, staleness: int, run: str):
        require(staleness >= 0, "rollouts.staleness", f"is {staleness}", "give 0 or more versions")
        self.directory, self.staleness, self.run = Path(directory), staleness, run

    def source(self, rollout: int) -> int:
        """The version that a rollout is drawn from."""
        return max(0, rollout - self.staleness)

    # -- the trainer's side ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Forget why an earlier process ended, and what was asked of it."""
        for name in ("failed.json", "wanted.json"):
            (self.directory / name).unlink(missing_ok=True)

    def check(self, rollout: int) -> None:
        """ConfigError when a run that goes on at a rollout would wait for a version that nobody makes any more."""
        for ahead in range(rollout, rollout + self.staleness):
            version = self.source(ahead)
            there = version >= rollout or self._rollout(ahead).exists() or self._params(version).exists()
            problem = f"lacks version {version} of the policy, from which rollout {ahead} is drawn"
            require(there, str(self.directory), problem, f"restore {self._params(version).name}, or {NEW}")

    def publish(self, version: int, params: Any) -> None:
        """Hand a version over, and ask for the rollout of its number."""
        leaves = jax.device_get(jax.tree.leaves(params))
        flat = {str(i): np.ascontiguousarray(x).reshape(-1).view(np.uint8) for i, x in enumerate(leaves)}
        self._write(self._params(version), flat, {"dtypes": [x.dtype.name for x in leaves]})
        wanted = json.dumps({"run": self.run, "rollout": version})
        kept.write_atomically(self.directory / "wanted.json", wanted, durable=False)

    def take(self, rollout: int) -> tuple[dict[str, np.ndarray], Cost] | None:
        """A rollout, once it is there. ConfigError when it is of another version than the bound allows."""
        if not self._rollout(rollout).exists():
            return None
        batch, facts = self._read(self._rollout(rollout), {"cost": dict, "version": int})
        problem = f"was drawn from version {facts['version']}, not {self.source(rollout)}"
        require(facts["version"] == self.source(rollout), str(self._rollout(rollout)), problem, NEW)
        return batch, Cost(**facts["cost"])

    def drop(self, rollout: int, again: int) -> None:
        """Delete what nobody needs who trains on this rollout, or begins again at rollout `again` or later."""
        for kind, least in (("rollout", rollout), ("params", min(rollout, again) - self.staleness)):
            for path in self.directory.glob(f"{kind}-*.npz"):
                if int(path.stem.rpartition("-")[2]) < least:
                    path.unlink(missing_ok=True)

    def refuse_failed(self) -> None:
        """The ConfigError for which the process that draws ended."""
        found = kept.read_or_none(self.directory / "failed.json", {"field": str, "problem": str, "fix": str})
        if found is not None:
            raise ConfigError(found["field"], found["problem"], found["fix"])

    # -- the side of the process that draws --------------------------------------------------------------------------

    def wanted(self) -> int | None:
        """The first rollout from the one that is asked for on that is not there yet; None before any is."""
        asked = self._asked()
        while asked is not None:
            rollout = asked
            while self._rollout(rollout).exists():
                rollout += 1
            before, asked = asked, self._asked()
            if asked == before:  # else what is missing may be what the trainer has done with
                return rollout
        return None

    def _asked(self) -> int | None:
        found = kept.read_or_none(self.directory / "wanted.json", {"run": str, "rollout": int})
        return int(found["rollout"]) if found is not None and found["run"] == self.run else None

    def params(self, version: int, like: Any) -> Any:
        """A version, with the structure and the shapes of `like`; None before it is there."""
        path = self._params(version)
        try:
            flat, facts = self._read(path, {"dtypes": [str]})
        except FileNotFoundError:
            return None
        leaves, structure = jax.tree.flatten(like)
        try:
            found = [
                flat[str(i)].view(jax.numpy.dtype(dtype)).reshape(x.shape)
                for i, (x, dtype) in enumerate(zip(leaves, facts["dtypes"], strict=True))
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(str(path), f"holds other weights than the policy ({error})", NEW) from None
        return jax.tree.unflatten(structure, found)

    def put(self, rollout: int, batch: dict[str, np.ndarray], cost: Cost) -> None:
        """Hand a rollout over."""
        version = self.source(rollout)
        facts = {"cost": asdict(replace(cost, staleness=rollout - version)), "version": version}
        self._write(self._rollout(rollout), batch, facts)

    def fail(self, error: ConfigError) -> None:
        """Say why nothing more is drawn."""
        said = {"field": error.field, "problem": error.problem, "fix": error.fix}
        kept.write_atomically(self.directory / "failed.json", json.dumps(said))

    # -- files -------------------------------------------------------------------------------------------------------

    def _params(self, version: int) -> Path:
        return self.directory / f"params-{version:08}.npz"

    def _rollout(self, rollout: int) -> Path:
        return self.directory / f"rollout-{rollout:08}.npz"

    def _write(self, path: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        file = io.BytesIO()
        told = np.array(json.dumps({"run": self.run} | facts))
        everything: dict[str, Any] = {"facts": told} | arrays
        np.savez(file, **everything)
        kept.write_atomically(path, file.getvalue(), durable=False)  # whoever begins again makes it anew

    def _read(self, path: Path, shape: dict[str, kept.Shape]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        fix = f"delete it, or {NEW}"
        try:
            with np.load(io.BytesIO(kept.read_bytes(path, fix)), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            told = str(arrays.pop("facts"))
        except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
            raise ConfigError(str(path), f"is damaged ({error})", fix) from None
        facts = kept.parsed(told, {"run": str} | shape, path, fix)
        require(facts["run"] == self.run, str(path), "belongs to another run", NEW)
        return arrays, facts


class Ahead:
    """What a trainer takes from `Rollouts`, of which another process makes the batches.

    states: the run's checkpoints, of which the oldest says which versions are still needed. alive: whether that process
    still runs; RuntimeError when it does not and said nothing. stop: asked while waiting; then Interrupted.
    """

    def __init__(
        self, rollouts: Rollouts, handover: Handover, updates: int, checkpoint_every: int, states: Path,
        alive: Callable[[], bool] = lambda: True, stop: Callable[[], bool] = lambda: False,
    ):  # fmt: skip
        self.prompts, self.group, self.seq_len = rollouts.prompts, rollouts.group, rollouts.seq_len
        self.environment, self.temperature = rollouts.environment, rollouts.temperature
        self.progress = rollouts.progress
        self.handover, self.updates, self.checkpoint_every = handover, updates, checkpoint_every
        self.states, self.alive, self.stop, self.begun = states, alive, stop, False

    def batch(self, step: int, params: Any) -> tuple[dict[str, np.ndarray], Cost]:
        """The batch of one step; params go to the process that draws."""
        rollout = step // self.updates
        if not self.begun:
            self.handover.check(rollout)
            self.begun = True
        self.handover.publish(rollout, params)
        self.handover.drop(rollout, self._again(step) // self.updates)
        while True:
            alive = self.alive()  # asked first: what it left before it ended counts
            if (found := self.handover.take(rollout)) is not None:
                return found
            self.handover.refuse_failed()
            if self.stop():
                raise Interrupted
            if not alive:
                log = self.handover.directory.parent / "rollouts.log"
                raise RuntimeError(f"the process that draws rollouts has ended: see {log}")
            time.sleep(POLL_S)

    def _again(self, step: int) -> int:
        """The step from which the run would go on at the earliest; without checkpoints it would begin anew."""
        kept_steps = [int(path.name) for path in self.states.glob("*") if path.name.isdigit()]
        return min(kept_steps, default=0 if self.checkpoint_every else step)


def draw_ahead(
    rollouts: Rollouts, handover: Handover, like: Any, updates: int, steps: int,
    stop: Callable[[], bool] = lambda: False,
) -> None:  # fmt: skip
    """Draw what is asked for, and what may be drawn ahead of that, to the last rollout of a run of `steps` updates.

    like: params of the policy. What cannot go on is told to the trainer and raised: ConfigError.
    """
    last = -(-steps // updates)
    try:
        while not stop():
            rollout = handover.wanted()
            if rollout == last:
                return
            params = None if rollout is None else handover.params(handover.source(rollout), like)
            if rollout is None or params is None:
                time.sleep(POLL_S)
                continue
            handover.put(rollout, *rollouts.batch(rollout * updates, params))
    except ConfigError as error:
        handover.fail(error)
        raise


def finish(draws: Sequence[float], trains: Sequence[float], staleness: int) -> float:
    """When the last of n rollouts has been trained on, by two processes of which one draws, in the unit of both.

    draws, trains: how long drawing each rollout takes, and the updates on it. Without staleness it is their sum.
    """
    drawn, ready = 0.0, [0.0]  # ready[v]: when version v is there
    for rollout, (draw, train) in enumerate(zip(draws, trains, strict=True)):
        drawn = max(drawn, ready[max(0, rollout - staleness)]) + draw
        ready.append(max(ready[-1], drawn) + train)
    return ready[-1]
