"""A resume that forgets the optimiser's state shows as a spike of the loss; one with it goes on bit by bit.

    python -m launch.reproduce resume_state --workdir runs/reproductions/resume_state

Two minutes on two cores: eight seeds of a small byte model, 300 steps and 60 more, with and without the state. That a
whole resume equals the uninterrupted run bit by bit is what tests/launch/test_crash.py kills workers for, so the
uninterrupted run stands for it here.
"""

from pathlib import Path

import numpy as np

from models.presets import ladder
from models.sharding import MeshConfig
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.sweep.combinators import Point
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig
from scaling.train.metrics import read_rows

WIDTH = 16
BEFORE = 300  # steps of 16 rows of 64 tokens, before the resume
MESH = MeshConfig()
AFTER, SPIKE = 60, 10  # steps; the spike is the mean over so many
OTHER = 1000  # added to the seed of what goes on, so that it reads other text


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="resume_state",
        methods=(91,),
        claim="Training resumed without the optimiser's state shows a spike that a whole resume does not",
        source="Li and others 2024, Experience of training a 1.7B-parameter LLaMa model from scratch, arXiv:2412.13335",
        smallest_effect=0.05,
        unit="nats/token, mean over the first 10 steps after the resume, without the state less with it",
        minutes=3,
        not_covered="models of billions of parameters, learning rates that have decayed; what is resumed without the "
        "state reads other text of the same source, so the two sides are not paired batch by batch",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick, BEFORE), plan(quick, BEFORE + AFTER), plan(quick, AFTER)),
    )


def plan(quick: bool, steps: int, points: tuple[Point, ...] = ()) -> SweepConfig:
    train = TrainConfig(
        steps=steps, batch_size=16, seq_len=64, schedule="constant", warmup_steps=0 if points else 20,
        learning_rate=0.02, eval_sequences=16, log_every=1, checkpoint_every=0,
    )  # fmt: skip
    seeds = 1 if points else 2 if quick else 8
    varied = tuple(map(dict, points))
    model = ladder(WIDTH, n_layers=2)
    return SweepConfig(name=f"resume_{steps}", model=model, train=train, mesh=MESH, points=varied, seeds=seeds)


def run(work: Workspace) -> Measured:
    before, whole = (work.sweep(plan(work.quick, n), f"steps_{n}") for n in (BEFORE, BEFORE + AFTER))
    folder = work.folder.absolute() / "sweeps" / f"steps_{BEFORE}" / "trials"
    points = tuple(
        {"train.init_from": str(folder / trial), "train.seed": OTHER + int(seed)}
        for trial, seed in zip(before["trial"], before["seed"])
    )
    without = work.sweep(plan(work.quick, AFTER, points), "without_state")
    with_state = curves(work.folder / "sweeps" / f"steps_{BEFORE + AFTER}", whole)[:, BEFORE:]
    no_state = curves(work.folder / "sweeps" / "without_state", without)  # [seeds, steps]
    spikes = (no_state - with_state)[:, :SPIKE].mean(1)
    x = list(range(1, AFTER + 1))
    means = {"with the state": with_state.mean(0).tolist(), "without": no_state.mean(0).tolist()}
    lines = {name: {"x": x, "y": y} for name, y in means.items()}
    details = {
        "curves": [{"x": "steps after the resume", "y": "training loss, nats/token", "lines": lines}],
        "spike of each seed": spikes.tolist(),
        "difference over the last 20 steps": float((no_state - with_state)[:, -20:].mean()),
    }
    flops = sum(float(table["flops"].sum()) for table in (before, whole, without))
    return Measured(float(spikes.mean()), t_interval(spikes), flops, details)


def curves(sweep: Path, table) -> np.ndarray:
    """Training losses [seeds, steps] by step, ordered by seed."""
    rows = [read_rows(sweep / "trials" / trial / "metrics.jsonl") for trial in table.sort_values("seed")["trial"]]
    return np.array([[row["loss"] for _, row in one if "loss" in row] for one in rows])
