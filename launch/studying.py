"""The parts of a study as files of its directory, made by one process or by several that share them.

A part is a policy's verifier, its first samples, all of them, or one search with it. Whoever is free takes the first
part that nobody makes and whose needs are there; one that died leaves its part, with what it had kept, to the others.
What a part is to show is foretold and written down before it is made.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pandas as pd

    from scaling.sweep.lease import Presence
    from search.existing import Existing
    from search.foretold import Foretold
    from search.study import SearchSweepConfig, Study

POLL_S = 0.5  # between looks for a part while others make all that can be made
STUDY, LOGS = "study.json", "logs"


class Watcher(Protocol):
    """Whoever is told how far the parts are."""

    def begin(self, policy: Existing | None, part: str) -> None:
        """A part begins in this process; None: it waits for others."""

    def tell(self, fraction: float) -> None:
        """How much of it is done."""


class Stopped(Exception):
    """This process was asked to end; its part is kept as far as it was."""


@dataclass(frozen=True)
class Cells:
    """The parts of a study, each in a file of its own."""

    config: SearchSweepConfig
    path: Path
    policies: Sequence[Existing]  # the smallest first

    def all(self) -> list[tuple[Existing, str]]:
        """Every part, in the order in which one process makes them."""
        return [(policy, part) for policy in self.policies for part in self.config.study.parts()]

    def file(self, policy: Existing, part: str) -> Path:
        """Where a part is kept."""
        from search.study import VERIFIER

        suffix = ".safetensors" if part == VERIFIER else ".parquet"
        return self.path / "cells" / f"{policy.name}-{_safe(part)}{suffix}"

    def told(self, policy: Existing, part: str) -> Path:
        """Where what was foretold of it is kept."""
        from search.foretold import SUFFIX

        return self.file(policy, part).with_suffix(SUFFIX)

    def has(self, policy: Existing, part: str) -> bool:
        """Whether it has been made; the first samples also when all of them have been."""
        from search.study import FIRST, SAMPLES

        return self.file(policy, part).exists() or (part == FIRST and self.file(policy, SAMPLES).exists())

    def facts(self, policy: Existing, part: str) -> dict[str, str]:
        """What a part's file says of itself."""
        return cell_facts(self.config, policy.name, part)

    def read(self, policy: Existing, part: str) -> pd.DataFrame:
        """A part's rows, with its policy."""
        from scaling import tables

        facts = self.facts(policy, part)
        return tables.read(self.file(policy, part), facts).to_pandas().assign(policy=policy.name, params=policy.params)

    def set_aside_damaged(self) -> None:
        """Rename what is not what was written there, so that it is made again."""
        for policy, part in self.all():
            set_aside_if_damaged(self.file(policy, part), self.facts(policy, part))

    def searched(self) -> int:
        """How many parts are made, without verifiers and first samples, as `launch.status` counts them."""
        return len(list((self.path / "cells").glob("*.parquet")))

    def ready(self, policy: Existing, part: str) -> bool:
        """Whether all is there that making this part, and foretelling it, takes."""
        from search.study import FIRST, SAMPLES, VERIFIER

        study = self.config.study
        if part == VERIFIER:
            return True
        needs = [(policy, VERIFIER)]
        if part == (FIRST if study.first else SAMPLES):
            needs += [(other, SAMPLES) for other in self.policies if other.params < policy.params]
        elif part == SAMPLES:
            needs.append((policy, FIRST))
        else:
            needs += [(policy, SAMPLES), *((policy, size) for size in study.smaller(part))]
        return all(self.has(*need) for need in needs)

    def take(self, presence: Presence) -> tuple[Existing, str] | None:
        """The first part that is ready, not made and not held by anybody else, now held by us."""
        for policy, part in self.all():
            if not self.has(policy, part) and self.ready(policy, part) and presence.claim(self.file(policy, part).stem):
                if not self.has(policy, part):
                    return policy, part
                presence.release(self.file(policy, part).stem)
        return None

    def make(self, study: Study, policy: Existing, part: str) -> None:
        """Foretell this part and make it, going on where a kill interrupted it."""
        from scaling import tables
        from scaling.kept import write_atomically
        from search.foretold import register
        from search.study import FIRST, SAMPLES, VERIFIER

        file, facts = self.file(policy, part), self.facts(policy, part)
        file.parent.mkdir(exist_ok=True)
        if part == VERIFIER:
            study.keep_verifier(file, facts)
            return
        register(self.told(policy, part), self.foretell(policy, part))
        study.read_verifier(self.file(policy, VERIFIER), self.facts(policy, VERIFIER))
        state = file.with_suffix(".state")
        if part == FIRST:
            made = study.samples(state, self.config.study.first)
        elif part == SAMPLES:
            drawn = self.read(policy, FIRST) if self.file(policy, FIRST).exists() else None
            made = study.samples(state, first=None if drawn is None else drawn.drop(columns=["policy", "params"]))
        else:
            made = study.search(part, state)
        write_atomically(file, tables.parquet(made, facts))
        state.unlink(missing_ok=True)
        if part == SAMPLES:
            self.file(policy, FIRST).unlink(missing_ok=True)  # they are among them

    def foretell(self, policy: Existing, part: str) -> list[Foretold]:
        """What the parts that have been made say of this one."""
        import pandas as pd

        from search import foretold
        from search.study import FIRST, SAMPLES

        study = self.config.study
        found: list[Foretold] = []
        if part == (FIRST if study.first else SAMPLES):
            smaller = [self.read(other, SAMPLES) for other in self.policies if other.params < policy.params]
            found += foretold.of_sizes(pd.concat(smaller), policy.name, policy.params) if smaller else []
        if part == SAMPLES and self.file(policy, FIRST).exists():
            found += foretold.of_samples(self.read(policy, FIRST), study.samples)
        smaller_sizes = study.smaller(part) if part in study.strategies else ()
        if smaller_sizes:
            searched = pd.concat([self.read(policy, size) for size in smaller_sizes])
            found += foretold.of_budgets(searched, part, smaller_sizes)
        return found

    def foretold(self) -> list[Foretold]:
        """All that was foretold."""
        from search.foretold import registered

        return [one for policy, part in self.all() for one in registered(self.told(policy, part))]

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows of all samples, and of all searches."""
        import pandas as pd

        from search.study import SAMPLES

        samples = [self.read(policy, SAMPLES) for policy in self.policies]
        searches = [self.read(policy, part) for policy in self.policies for part in self.config.study.strategies]
        return pd.concat(samples, ignore_index=True), pd.concat(searches, ignore_index=True)


def share(cells: Cells, presence: Presence, watcher: Watcher, stop: Callable[[], bool] = lambda: False) -> None:
    """Make parts until all are made, here or by others.

    Raises:
      Stopped: `stop` said so.
    """
    from search.study import Study

    def progress(what: str, done: int, total: int) -> None:
        if stop():
            raise Stopped
        presence.check()
        presence.progressed()
        watcher.tell(done / total)

    loaded: tuple[str, Study] | None = None
    while not all(cells.has(policy, part) for policy, part in cells.all()):
        if stop():
            raise Stopped
        taken = cells.take(presence)
        if taken is None:
            watcher.begin(None, "")
            presence.progressed()
            time.sleep(POLL_S)
            continue
        policy, part = taken
        if loaded is None or loaded[0] != policy.name:
            loaded = policy.name, Study(policy.load(), cells.config.study, progress)
        watcher.begin(policy, part)
        cells.make(loaded[1], policy, part)
        presence.release(cells.file(policy, part).stem)


class _Silent:
    """A watcher that tells nobody: the directory shows what this process does."""

    def begin(self, policy: Existing | None, part: str) -> None:
        """Nothing."""

    def tell(self, fraction: float) -> None:
        """Nothing."""


def help_with(path: Path, name: str, stop: Callable[[], bool]) -> int:
    """Work on the study in `path`, whose policies are trained, as one process of several; the exit code."""
    from launch.distributed import SAVED
    from models.errors import require
    from models.serialize import from_json
    from scaling import kept
    from scaling.sweep.directory import RunDirectory
    from search.existing import MANIFEST, finished, held
    from search.study import SearchSweepConfig

    config = from_json(SearchSweepConfig, kept.read(path / STUDY, dict))
    policies, trained = held(path / MANIFEST), RunDirectory(path / "policies")
    if config.policies is not None:
        ended = all(trained.results.has(trial.id) for stack in trained.stacks() for trial in stack.trials)
        known = {folder.name for folder in finished(trained)} <= {policy.name for policy in policies}
        fix = f"work on {trained.path} now, and here when they are trained"
        require(ended and known, str(path), "still trains its policies", fix)
    cells = Cells(config, path, policies)
    with RunDirectory(path).presence(name) as presence:
        try:
            share(cells, presence, _Silent(), stop)
        except Stopped:
            return SAVED
    return 0


@contextlib.contextmanager
def helped(path: Path, others: int, threads: int) -> Iterator[None]:
    """So many other processes of this machine, `threads` threads each, work on the study in `path`. They end with this
    one; what they have to say is in its logs."""
    from launch import environment
    from launch.executors.executor import importable

    made = environment.worker_environment(threads)
    made["PYTHONPATH"] = importable(made)
    (path / LOGS).mkdir(exist_ok=True)
    processes = []
    try:
        for i in range(1, others + 1):
            command = [sys.executable, "-m", "launch.worker", "--workdir", str(path), "--name", str(i)]
            command += ["--launcher", str(os.getpid())]
            with open(path / LOGS / f"worker-{i}.log", "ab") as log:  # Ctrl-C is for this process, which ends them
                process = subprocess.Popen(command, stdout=log, stderr=log, env=made, start_new_session=True)
            processes.append(process)
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def cell_facts(config: SearchSweepConfig, trial: str, part: str) -> dict[str, str]:
    """What a cell's file says of itself, so that no other policy's, part's or study's is taken for it."""
    from models.serialize import digest

    return {"study": digest(config.study), "policy": trial, "part": part}


def set_aside_if_damaged(file: Path, facts: dict[str, str]) -> None:
    """Rename a cell that is not what was written there, so that its part is made again, and say so."""
    from models.errors import ConfigError, printable
    from scaling import tables
    from search.saved import check_fitted

    if not file.exists():
        return
    try:
        tables.read(file, facts) if file.suffix == ".parquet" else check_fitted(file, facts)
    except ConfigError as error:
        os.replace(file, file.with_suffix(".damaged"))
        print(printable(f"{file} {error.problem}: its part is made again"), file=sys.stderr)


def _safe(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text)
