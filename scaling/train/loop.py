"""The host loop: trains a stack of runs of one shape in one compiled program, chunk by chunk.

A chunk is a number of steps that the device takes alone. Between chunks the host logs, checkpoints, branches and
finishes runs. Everything that a run computes is a function of its config, so a stack killed anywhere and started
again from its last checkpoint ends with the same bits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from models.config import ModelConfig
from scaling.data import Batches, HeldOut, check_manifest
from scaling.train.checkpoint import AllDamaged, Checkpoints, NoCheckpoint
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.evaluate import Score, score
from scaling.train.evaluations import Columns, Measure
from scaling.train.feed import Feed
from scaling.train.limits import Judge, Limits, Verdict
from scaling.train.metrics import MetricsWriter
from scaling.train.objectives import Frozen, check_batch
from scaling.train.objectives.objective import BASE, BESIDE
from scaling.train.placement import check_mesh, trial_mode
from scaling.train.processes import fetch, from_first, is_first
from scaling.train.programs import programs
from scaling.train.schedule import learning_rate
from scaling.train.state import TrainState
from scaling.train.step import Metrics

log = logging.getLogger(__name__)
CHUNK_FLOPS = 1e11  # device work per host visit: long enough to hide dispatch, short enough to stop within seconds
CHUNK_BYTES = 64e6  # of batches held per chunk


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


@dataclass(frozen=True)
class Run:
    """One trial as the loop sees it.

    trunk: index in the stack of the run whose state at `train.decay_start` this one continues (WSD), or None.
    """

    name: str
    train: TrainConfig
    batches: Batches
    directory: Path
    trunk: int | None = None

    @property
    def start(self) -> int:
        """The first step that this run computes itself."""
        return 0 if self.trunk is None else self.train.decay_start


@dataclass(frozen=True)
class Outcome:
    """How one run ended: its score, or the error that stopped it.

    step: the updates it did. stopped: the verdict of its rivals, where those ended it. measured: by step, what its
    `train.evaluations` found.
    """

    score: Score | None
    error: str | None
    wall_s: float
    state: TrainState  # of this run alone; its params are those of the whole model, where train.trains is linear
    step: int = 0
    stopped: Verdict | None = None
    measured: Mapping[int, Columns] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """Where a stack stands, for a display."""

    tokens: int  # trained by this process
    flops: float  # done by this process
    seconds: float  # that it took
    fraction: float  # of the stack's work, what an earlier process did included
    loss: float
    step: int


class Training:
    """Trains a stack of runs that share model shape and static training fields.

    finish(index, outcome) is called once per run, as soon as it ends; runs in `done` are skipped.
    judge: ends runs early; by default none.
    initial_params: what every run starts from instead of a random draw (numpy leaves, as models.transformer.init).
    frozen: the models that `train.objective` reads. measure: what `train.evaluations` asks for; keep(index, step,
    params) is handed the params of a run at a step of them, where they are to stay.
    """

    def __init__(
        self,
        model: ModelConfig,
        runs: Sequence[Run],
        heldout: HeldOut,
        *,
        directory: Path,
        batch_mode: str = "map",
        mesh: Mesh,
        manifest: dict[str, dict[str, Any]],
        done: frozenset[str] = frozenset(),
        finish: Callable[[int, Outcome], None],
        report: Callable[[Progress], None] = lambda progress: None,
        stop_requested: Callable[[], bool] = lambda: False,
        initial_params: Any = None,
        judge: Judge | None = None,
        frozen: Mapping[str, Frozen] | None = None,
        measure: Measure | None = None,
        keep: Callable[[int, int, Any], None] = lambda i, step, params: None,
    ):
        self.model, self.runs, self.heldout = model.resolved(), list(runs), heldout
        self.train = runs[0].train
        check_mesh(self.model, self.train, mesh.shape)
        mode = trial_mode(batch_mode, mesh, len(runs))
        self.directory, self.manifest = directory, manifest
        self.finish, self.report, self.stop_requested = finish, report, stop_requested
        self.initial_params = initial_params
        self.judge = judge or Judge(Limits(), [run.train.steps for run in runs], [False] * len(runs))
        self.finished = {i for i, run in enumerate(runs) if run.name in done}
        self.hyper = jax.tree.map(lambda *xs: np.stack(xs), *[hyperparameters(run.train) for run in runs])
        self.seeds = np.array([run.train.seed for run in runs], np.uint32)
        self.programs = programs(self.model, self.train, mode, mesh, len(runs))
        self.placement = self.programs.placement
        self.frozen = frozen or {}
        read = {name: one.config for name, one in self.frozen.items() if name != BASE}
        self.flops_per_step = self.train.flops(self.model, self.train.tokens_per_step, read)
        self.chunk = self._chunk_steps()
        self.wall = np.zeros(len(runs))  # seconds of each run, those before a resume included
        self.seconds = 0.0  # of this process
        self.flops_done = 0.0
        self.measure, self.keep = measure, keep
        self.measured: list[dict[int, Columns]] = [{} for _ in runs]  # by run and step
        self.feed = Feed([run.batches for run in runs], self.chunk, self.placement)
        check_batch(self.train.objective, {name: x[0] for name, x in self.feed.template.items()})

    def _chunk_steps(self) -> int:
        rows = self.train.batch_size * self.train.objective.sequences
        bytes_per_step = len(self.runs) * rows * (self.train.seq_len + 1) * 4
        chunk = min(CHUNK_FLOPS / self.flops_per_step, CHUNK_BYTES / bytes_per_step, self.train.log_every)
        return max(1, math.floor(chunk))

    # -- the loop ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train every unfinished run to its end; raises Interrupted after saving when asked to stop."""
        if len(self.finished) == len(self.runs):
            return
        checkpoints = Checkpoints(self.directory, keep=self.train.keep_checkpoints)
        with checkpoints, self.placement.context():
            step, state = self._restore(checkpoints)
            opened = [i for i in range(len(self.runs)) if i not in self.finished and is_first()]
            self.writers = {i: MetricsWriter(self.runs[i].directory, step) for i in opened}
            try:
                self._advance = self._compiled(state)
                self._loop(checkpoints, step, state)
            finally:
                for writer in self.writers.values():
                    writer.close()

    def _loop(self, checkpoints: Checkpoints, step: int, state: TrainState) -> None:
        batches = self._gather(step)
        while len(self.finished) < len(self.runs):
            boundary = self._next_boundary(step)
            stop = np.array([self._stop(i, step, boundary) for i in range(len(self.runs))], np.int32)
            begin = time.perf_counter()
            first = np.full(len(self.runs), step, np.int32)
            state, metrics = self._advance(state, batches, self.hyper, first, stop, *self._read)
            batches = self._gather(boundary)  # while the device works
            jax.block_until_ready(metrics)
            self._account(step, stop, time.perf_counter() - begin)
            step = boundary
            state = self._branch(step, state)
            self._log_and_finish(step, metrics, state)
            self._end_early(step, state)
            if self._due(step, self.train.eval_every):
                self._evaluate_all(step, state)
            if self._due(step, self.train.evaluations.every):
                self._measure_all(step, state)
            if len(self.finished) == len(self.runs):
                break
            checkpoints.check()
            stopping = self.stop_requested()
            if self._due(step, self.train.checkpoint_every) or stopping:
                checkpoints.save(step, state, self._metadata())
            if stopping:
                checkpoints.wait()
                raise Interrupted

    def _compiled(self, state: TrainState) -> Callable[..., Any]:
        """A chunk of steps, compiled ahead of the first one, so that no run's seconds include it."""
        steps = np.zeros(len(self.runs), np.int32)
        arguments = (state, self.feed.gather(0, ()), self.hyper, steps, steps, *self._read)
        return self.programs.advance(*arguments)

    @property
    def _read(self) -> tuple[Mapping[str, Frozen], ...]:
        """The last argument of a chunk of steps, where there is one."""
        return (self.frozen,) if self.train.reads_models else ()

    @staticmethod
    def _due(step: int, every: int) -> bool:
        return every > 0 and step % every == 0

    def _active(self, i: int, step: int) -> bool:
        """Whether run i trains at `step`: for itself or, if it finished before a resume, for a branch to come."""
        run = self.runs[i]
        wanted = i not in self.finished or any(
            other.trunk == i and j not in self.finished and other.start > step for j, other in enumerate(self.runs)
        )
        return wanted and run.start <= step < run.train.steps

    def _stop(self, i: int, step: int, boundary: int) -> int:
        return min(boundary, self.runs[i].train.steps) if self._active(i, step) else 0

    def _next_boundary(self, step: int) -> int:
        marks = [step + self.chunk]
        marks += [run.start for run in self.runs if run.start > step]
        marks += self.judge.next_rung(step)
        train = self.train
        for every in (train.log_every, train.eval_every, train.checkpoint_every, train.evaluations.every):
            if every:
                marks.append((step // every + 1) * every)
        return min(marks)

    def _gather(self, step: int) -> dict[str, Any]:
        """Batches of `chunk` steps from `step`, leaves `[trials, chunk, batch, ...]`."""
        return self.feed.gather(step, [i for i in range(len(self.runs)) if self._active(i, step)])

    def _branch(self, step: int, state: TrainState) -> TrainState:
        for i, run in enumerate(self.runs):
            if run.trunk is not None and run.start == step and i not in self.finished:
                state = _copy_run(state, run.trunk, i)
        return state

    # -- books ------------------------------------------------------------------------------------------------

    def _account(self, step: int, stop: np.ndarray, seconds: float) -> None:
        self.seconds += seconds
        steps = np.maximum(stop - step, 0)
        self.wall += seconds * steps / max(1, steps.sum())
        self.flops_done += float(steps.sum()) * self.flops_per_step

    def _log_and_finish(self, step: int, metrics: Metrics, state: TrainState) -> None:
        """A row for every run that is due, ended or failed at `step`; what ended or failed is handed over."""
        metrics, failed = fetch((metrics, state.failed_step))
        working = [i for i in range(len(self.runs)) if i not in self.finished and self.runs[i].start < step]
        for i in working:
            ends = self.runs[i].train.steps <= step
            if failed[i] >= 0 or ends or self._due(step, self.train.log_every):
                at = int(failed[i]) + 1 if failed[i] >= 0 else min(step, self.runs[i].train.steps)
                measured = {"loss": float(metrics.loss[i]), "grad_norm": float(metrics.grad_norm[i])}
                rest = {name: float(x[i]) for name, x in (metrics.routing | metrics.measured).items()}
                self._write(i, self._row(i, at) | measured | rest)
            if failed[i] >= 0:
                self._fail(i, int(failed[i]), float(metrics.last_loss[i]), state)
            elif ends:
                self._finish(i, state)
        losses = [float(metrics.loss[i]) for i in working if math.isfinite(metrics.loss[i])]
        self._report(step, float(np.mean(losses)) if losses else math.nan)

    def _write(self, i: int, row: dict[str, Any]) -> None:
        """Process 0 writes. JSON knows no NaN: what is not finite becomes null."""
        if i in self.writers:
            finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
            self.writers[i].write(finite)

    def _report(self, step: int, loss: float) -> None:
        total = sum(run.train.steps - run.start for run in self.runs)
        done = sum(min(max(step, run.start), run.train.steps) - run.start for run in self.runs)
        tokens = int(self.flops_done / self.flops_per_step * self.train.tokens_per_step)
        self.report(Progress(tokens, self.flops_done, float(self.seconds), done / max(total, 1), loss, step))

    def _row(self, i: int, step: int) -> dict[str, Any]:
        train = self.runs[i].train
        rate = _rate(train.schedule, step - 1, hyperparameters(train))
        flops = step * self.flops_per_step
        return {"step": step, "tokens": step * train.tokens_per_step, "flops": flops, "learning_rate": float(rate)}

    def _fail(self, i: int, step: int, loss: float, state: TrainState) -> None:
        what = f"spiked to {loss:.4g}" if math.isfinite(loss) else "or its gradient is not finite"
        self.finished.add(i)
        error, wall, measured = f"loss {what} at step {step}", float(self.wall[i]), self.measured[i]
        self.finish(i, Outcome(None, error, wall, _slice(state, i), step, measured=measured))

    def _finish(self, i: int, state: TrainState) -> None:
        alone, steps = _slice(state, i), self.runs[i].train.steps
        whole = self._whole(alone)
        result = score(self.model, whole, self.heldout)
        self._measure(i, steps, whole)
        if self.train.trains.linear:
            alone = alone._replace(params=whole)
        finite = math.isfinite(result.loss)
        error = None if finite else f"held-out loss is not finite after step {steps - 1}"
        self.finished.add(i)
        score_or_none, measured = (result if finite else None), self.measured[i]
        self.finish(i, Outcome(score_or_none, error, float(self.wall[i]), alone, steps, measured=measured))

    def _whole(self, state: TrainState) -> Any:
        """The params of the whole model, of one run's state."""
        trains, base = self.train.trains, self.frozen.get(BASE)
        build = trains.merge if trains.linear else trains.join
        own = {name: x for name, x in state.params.items() if name != BESIDE}
        return build(self.model, own, base and base.params)

    def _end_early(self, step: int, state: TrainState) -> None:
        """Hand over the runs that a limit or their rivals end at `step`; process 0's seconds count for all."""
        alive = [i for i in range(len(self.runs)) if i not in self.finished and self.runs[i].start < step]
        seconds = from_first(self.wall.tolist) if self.judge.limits.trial_s else self.wall.tolist()
        ends = self.judge.verdicts(
            step, alive, seconds, lambda i: score(self.model, self._whole(_slice(state, i)), self.heldout).loss
        )
        for i, verdict in ends.items():
            self.finished.add(i)
            stopped = verdict if verdict.stopped else None
            ended = Outcome(
                None, verdict.reason, float(self.wall[i]), _slice(state, i), step, stopped, self.measured[i]
            )
            self.finish(i, ended)

    def _evaluate_all(self, step: int, state: TrainState) -> None:
        for i, run in enumerate(self.runs):
            if i not in self.finished and run.start < step:
                result = score(self.model, self._whole(_slice(state, i)), self.heldout)
                self._write(i, {"step": step, "heldout_loss": result.loss, "heldout_bpb": result.bpb})

    def _measure_all(self, step: int, state: TrainState) -> None:
        for i, run in enumerate(self.runs):
            if i not in self.finished and run.start < step:
                whole = self._whole(_slice(state, i))
                self._measure(i, step, whole)
                if self.train.evaluations.keep:
                    self.keep(i, step, whole)

    def _measure(self, i: int, step: int, whole: Any) -> None:
        if self.measure is not None:
            self.measured[i][step] = found = self.measure.measured(whole)
            self._write(i, {"step": step} | found)

    # -- saving and resuming ----------------------------------------------------------------------------------

    def _metadata(self) -> dict[str, Any]:
        names = [run.name for run in self.runs]
        measured = {"measured": dict(zip(names, self.measured, strict=True))} if self.measure else {}
        return {"runs": names, "manifest": self.manifest, "wall_s": self.wall.tolist()} | measured

    def _restore(self, checkpoints: Checkpoints) -> tuple[int, TrainState]:
        try:
            restored = checkpoints.restore(self.placement.abstract(self.programs.abstract))
        except NoCheckpoint as error:
            if isinstance(error, AllDamaged):
                log.warning("%s starts again from step 0: %s %s", self.directory, error.field, error.problem)
            return 0, self._started(self.programs.initial(self.seeds, self.hyper))
        for run in self.runs:
            saved = restored.metadata["manifest"].get(run.name)
            check_manifest(saved, self.manifest[run.name])
        self.wall = np.array(restored.metadata["wall_s"])
        if self.measure is not None:
            before = restored.metadata["measured"]
            self.measured = [{int(step): row for step, row in before[run.name].items()} for run in self.runs]
        log.info("resuming %s at step %d", self.directory, restored.step)
        return restored.step, restored.state

    def _started(self, state: TrainState) -> TrainState:
        """The state before step 0 with the given parameters, if any, in every run; what an objective trains beside
        them stays as it was drawn."""
        if self.initial_params is None:
            return state
        drawn = {name: x for name, x in state.params.items() if name != BESIDE}
        beside = {name: x for name, x in state.params.items() if name == BESIDE}
        if not self.placement.distributed:
            stacked = jax.tree.map(lambda new, old: np.broadcast_to(new, old.shape), self.initial_params, drawn)
            return state._replace(params=jax.tree.map(jnp.array, stacked) | beside)
        shapes = jax.tree.map(lambda x: x.shape, drawn, is_leaf=lambda x: isinstance(x, jax.Array))
        stack = jax.jit(
            lambda params: jax.tree.map(lambda x, shape: jnp.broadcast_to(x, shape), params, shapes),
            out_shardings={name: self.placement.state.params[name] for name in drawn},
        )
        # shard by shard, from those they were loaded onto
        return state._replace(params=stack(self.initial_params) | beside)


_rate = jax.jit(learning_rate, static_argnums=0)  # one program each instead of one per operation and shape


@jax.jit
def _slice(state: TrainState, i: int) -> TrainState:
    """Run `i` of the stack alone."""
    return jax.tree.map(lambda x: x[i], state)


@partial(jax.jit, donate_argnums=0)
def _copy_run(state: TrainState, source: int, target: int) -> TrainState:
    """Run `target` of the stack continues from the state of run `source`."""
    return jax.tree.map(lambda x: x.at[target].set(x[source]), state)
