"""Run one stack of a sweep in this process: data, training, one row and one checkpoint per trial."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from models import counts, transformer
from models.errors import require
from models.platform import choices
from models.serialize import to_json
from models.sharding import DEFAULT_RULES, make_mesh, weight_shardings, zero_mesh
from scaling.data import Dataset, prepare
from scaling.kept import write_atomically
from scaling.sweep.card import card
from scaling.sweep.directory import CORRUPT
from scaling.sweep.parameters import check_parameters
from scaling.sweep.results import Results
from scaling.sweep.stack import Stack
from scaling.sweep.trial import Trial, override
from scaling.train.checkpoint import Checkpoints
from scaling.train.checkpoint import digest as checkpoint_digest
from scaling.train.evaluations import Measure, trajectory
from scaling.train.initial import load_initial
from scaling.train.limits import Judge, Limits
from scaling.train.loop import Outcome, Progress, Run, Training
from scaling.train.objectives.frozen import load_frozen
from scaling.train.objectives.objective import BASE, Frozen
from scaling.train.processes import barrier, from_first, is_first


def trial_directory(directory: Path, trial: Trial) -> Path:
    """DIR/trials/<id>."""
    return directory / "trials" / trial.id


def stack_directory(directory: Path, stack: Stack) -> Path:
    """DIR/stacks/<id>: the state of a stack while it runs; removed when it is done."""
    return directory / "stacks" / stack.id


def run_stack(
    stack: Stack,
    directory: Path,
    sweep: str,
    *,
    batch_mode: str = "auto",
    labels: dict[str, dict[str, Any]] | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    stop_requested: Callable[[], bool] = lambda: False,
    limits: Limits | None = None,
    check_data: Callable[[Mapping[str, str]], None] = lambda digests: None,
    measuring: Callable[[Trial], Measure | None] = lambda trial: None,
) -> None:
    """Train every trial of `stack` that has no row yet, resuming from the stack's checkpoint.

    labels: trial id -> free columns of its row. check_data: told the digest of the data of every DataConfig.key, and
    raises where it is not that of the sweep. measuring: makes what a trial's `train.evaluations` ask for. Raises
    Interrupted when stopped (its state is then saved) and ConfigError when the data is not what the checkpoint was
    trained on.
    """
    results = Results(directory)
    done = frozenset(from_first(lambda: [trial.id for trial in stack.trials if results.get(trial.id) is not None]))
    base = stack.trials[0]
    datasets = _prepared(stack)
    check_data({trial.data.key: datasets[trial.id].digest for trial in stack.trials})
    mesh = make_mesh(base.mesh, devices_of(base))
    heldout = datasets[base.id].heldout_batches(
        base.train.seq_len, base.train.batch_size, limit_tokens=base.train.eval_sequences * base.train.seq_len
    )
    begun, frozen, origins = _read_models(base, mesh)
    members = zip(stack.trials, stack.trunks, strict=True)
    runs = [_run(directory, trial, trunk, datasets[trial.id]) for trial, trunk in members]
    measure = _measure(base, measuring)
    origins |= {"evaluations": measure.digest} if measure else {}
    manifest = {run.name: run.batches.manifest | origins for run in runs}

    def keep(i: int, step: int, params: Any) -> None:
        _save(runs[i], stack.trials[i], step, {"params": params}, manifest[stack.trials[i].id])

    def finish(i: int, outcome: Outcome) -> None:
        trial = stack.trials[i]
        if outcome.error is None:
            name = "params" if trial.train.trains.linear else "trained"
            _save(runs[i], trial, trial.train.steps, {name: outcome.state.params}, manifest[trial.id])
        extra = (labels or {}).get(trial.id, {})
        if is_first():
            path = trial_directory(directory, trial) / "card.json"
            write_atomically(path, json.dumps(_card(trial, outcome, path.parent), indent=1))
            results.add(row(trial, sweep, outcome, runs[i].batches.unique_tokens_after(trial.train.steps)) | extra)

    Training(
        base.model, runs, heldout, directory=stack_directory(directory, stack),
        batch_mode=resolved_batch_mode(batch_mode), mesh=mesh, manifest=manifest, done=done, finish=finish,
        report=report, stop_requested=stop_requested, initial_params=begun,
        judge=_judge(stack, limits or Limits(), results), frozen=frozen, measure=measure, keep=keep,
    ).run()  # fmt: skip
    barrier(f"done {stack.id}")  # a process that still closes its files must find them
    if is_first():
        clear(directory, stack)


def _measure(trial: Trial, measuring: Callable[[Trial], Measure | None]) -> Measure | None:
    """What measures a trial's suites; ConfigError where there are some and nothing does."""
    measure, asked = measuring(trial), trial.train.evaluations.suites
    problem, fix = "are measured by nobody here", "hand in `measuring`, or leave them out"
    require(measure is not None or not asked, "train.evaluations.suites", problem, fix)
    return measure


def _judge(stack: Stack, limits: Limits, results: Results) -> Judge:
    """What ends trials early; whom an earlier process stopped is in their rows."""

    def earlier() -> list[int]:
        rows = [results.get(trial.id) for trial in stack.trials]
        return [int((row or {}).get("stopped_step") or 0) for row in rows]

    steps = [trial.train.steps for trial in stack.trials]
    alone = [trunk is None and i not in stack.trunks for i, trunk in enumerate(stack.trunks)]
    return Judge(limits, steps, alone, dict(enumerate(from_first(earlier))) if limits.rungs else None)


def clear(directory: Path, stack: Stack) -> None:
    """Remove the state of a stack that is done, but for damaged steps, which go to DIR/corrupt/<stack>-<step>."""
    for path in stack_directory(directory, stack).glob("*.corrupt*"):
        target = directory / CORRUPT / f"{stack.id}-{path.name.replace('.corrupt', '')}"
        target.parent.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):  # one that is there already; it costs the copy, not the run
            path.rename(target)
    shutil.rmtree(stack_directory(directory, stack), ignore_errors=True)


def devices_of(trial: Trial) -> list[jax.Device]:
    """The devices that a trial's mesh spans: as many as its axes say, or all of them where one axis is -1.

    Several processes of one run each take part, so their mesh has all devices of all of them.
    """
    sizes = trial.mesh.sizes.values()
    return jax.devices()[: None if -1 in sizes or jax.process_count() > 1 else math.prod(sizes)]


def resolved_batch_mode(batch_mode: str) -> str:
    """What "auto" means here: what models.platform.CHOICES says."""
    return choices().batch_mode if batch_mode == "auto" else batch_mode


def _prepared(stack: Stack) -> dict[str, Dataset]:
    """The data of every trial. Process 0 tokenises what is not in the cache, and the others find it there."""

    def prepared() -> dict[str, Dataset]:
        made: dict[str, Dataset] = {}
        keys = {trial.id: trial.data.key for trial in stack.trials}
        for trial in stack.trials:
            key = keys[trial.id]
            made[key] = made.get(key) or prepare(trial.data, trial.model.vocab_size)  # a stack has one model
        return {name: made[key] for name, key in keys.items()}

    if jax.process_count() > 1:
        from_first(lambda: len(prepared()))
    return prepared()


def _initial(trial: Trial, mesh: Mesh) -> tuple[Any, str] | None:
    """The parameters that a trial starts from and their digest, if it names any; on a mesh each device its shards."""
    if trial.init_from is None:
        return None
    model = trial.train.trains.before(trial.model)
    weights = transformer.weights(model.resolved())
    shardings = weight_shardings(weights, DEFAULT_RULES, mesh) if mesh.size > 1 else None
    check_parameters(trial.init_from, "train.init_from")
    return load_initial(trial.init_from, model, shardings=shardings)


def _read_models(trial: Trial, mesh: Mesh) -> tuple[Any, dict[str, Frozen], dict[str, str]]:
    """(what the trained weights start from, or None; the models that training reads; digests of both)."""
    train, start = trial.train, _initial(trial, mesh)
    frozen, origins = load_frozen(train.objective, trial.model, trial.frozen, zero_mesh(mesh, train.zero))
    if start is None:
        return None, frozen, origins
    if train.trains.based:
        whole = start[0] if mesh.size > 1 else jax.tree.map(jnp.asarray, start[0])
        frozen[BASE] = Frozen(train.trains.before(trial.model).resolved(), whole)
    return train.trains.begun(trial.model.resolved(), start[0]), frozen, {"init_from": start[1]} | origins


def _run(directory: Path, trial: Trial, trunk: int | None, dataset: Dataset) -> Run:
    path = trial_directory(directory, trial)
    if is_first():
        write_atomically(path / "config.json", json.dumps(to_json(trial), indent=1))
    batches = dataset.batches(trial.train.seq_len, trial.train.batch_size, seed=trial.train.seed)
    return Run(trial.id, trial.train, batches, path, trunk)


def _save(run: Run, trial: Trial, step: int, state: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Keep parameters in a trial's folder, beside those of the steps at which it is measured where these stay."""
    wanted = trial.train.evaluations
    with Checkpoints(run.directory / "checkpoints", 1, wanted.every if wanted.keep else None) as checkpoints:
        checkpoints.save(step, state, {"config": to_json(trial), "manifest": manifest})


def _card(trial: Trial, outcome: Outcome, folder: Path) -> dict[str, Any]:
    """What the trial took, for the steps that it did, and digests of what it left in its folder."""
    metrics, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"
    left = {} if outcome.error is not None else {"checkpoint": checkpoint_digest(checkpoints, trial.train.steps)}
    if metrics.is_file():
        left["metrics.jsonl"] = hashlib.sha256(metrics.read_bytes()).hexdigest()
    devices, share = devices_of(trial), outcome.step / trial.train.steps
    return card(
        to_json(trial),
        device=devices[0].device_kind,
        devices=len(devices),
        threads=trial.threads,
        wall_s=outcome.wall_s,
        flops=float(trial.flops) * share,
        tokens=outcome.step * trial.train.tokens_per_step,
        seeds=(trial.train.seed,),
        artifacts=left,
    )


def row(trial: Trial, sweep: str, outcome: Outcome, unique_tokens: int) -> dict[str, Any]:
    """The trial's row of the results table."""
    score = outcome.score
    devices = devices_of(trial)
    return {
        "trial": trial.id,
        "sweep": sweep,
        "status": "stopped" if outcome.stopped else "failed" if outcome.error else "done",
        "seed": trial.train.seed,
        "params": counts.params(trial.model),
        "params_nonembed": counts.params_nonembed(trial.model),
        "tokens": trial.train.tokens,
        "unique_tokens": unique_tokens,
        "params_active": counts.params_active(trial.model),
        "flops": float(trial.flops),
        "loss": score.loss if score else None,
        "bpb": score.bpb if score else None,
        "error": outcome.error,
        "wall_s": round(outcome.wall_s, 3),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "config": json.dumps(to_json(override(trial, {"data.root": None})), sort_keys=True),
        "d_model": trial.model.d_model,
        "n_layers": trial.model.n_layers,
        "learning_rate": trial.train.learning_rate,
        "steps": trial.train.steps,
    } | ({"stopped_step": outcome.step, "stopped_loss": outcome.stopped.loss} if outcome.stopped else {}) | trajectory(
        outcome.measured, trial.train.steps
    )
