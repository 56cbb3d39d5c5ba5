"""A law of cheap runs foretells a run of 30 times the compute and one trained 32 times too long, on an own ladder.

    python -m launch.reproduce overtrained_ladder --workdir runs/reproductions/overtrained_ladder

Models of 2 to 40 thousand parameters read a Markov chain whose rows never come twice. Fitted are 20 to 320 tokens per
parameter up to 8e9 FLOPs; the predictions are kept before the larger runs are trained. Some four minutes of one core.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from models import counts
from models.config import ModelConfig
from scaling.fitting.fit import fit
from scaling.laws.overtraining import OVERTRAINING
from scaling.registered import of_run
from scaling.reproduction import Measured, Reproduction, Workspace, least
from scaling.tasks.learning_curve import held_out
from scaling.tasks.probe import LATE, learned
from scaling.tasks.streams import Words, fresh
from scaling.train.config import TrainConfig

STREAM, VOCAB, ROWS, TESTED = Words(words=128, order=1, concentration=16.0), 128, 8, 1024
SEEDS, WITHIN = (11, 12, 13), 2.0  # per cent
Cell = tuple[int, int]  # width, tokens per parameter
FITTED: tuple[Cell, ...] = ((8, 20), (8, 40), (8, 80), (8, 160), (8, 320), (12, 20), (12, 40), (16, 20))
TARGETS: dict[str, Cell] = {"30 times the compute": (40, 26), "32 times over-trained": (16, 640)}
BETWEEN: tuple[Cell, ...] = ((24, 20), (8, 640), (16, 160))  # foretold, too; the claim is of the targets


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="overtrained_ladder",
        methods=(33,),
        claim="A law of own cheap runs foretells a run of 30 times their compute and a 32 times over-trained one "
        "within 2 %, and closer than the best cheap run's loss does",
        source="Gadre et al. 2024, arXiv:2403.08540",
        smallest_effect=0.0,
        unit="percentage points, the least over both runs of: 2 less the error; that of the best cheap loss less it",
        minutes=5,
        not_covered="language: a Markov chain of first order, 128 words; models above 44 thousand parameters; errors "
        "of downstream tasks; rates tuned for each size. Pilots on seed 1: of a chain of second order the cheap runs "
        "lie up to 5 % off the law, and with 64 words the smallest models are soon as good as they get. "
        "One of the runs between the targets had been measured in a trial before",
        simulated=False,
        run=run,
    )


def model_of(width: int) -> ModelConfig:
    return ModelConfig(VOCAB, d_model=width, n_layers=2, n_heads=max(1, width // 8), bias="none").resolved()


def train_of(cell: Cell, seed: int, quick: bool) -> TrainConfig:
    width, ratio = cell
    steps = round(ratio * counts.params(model_of(width)) / (ROWS * STREAM.length))
    steps = min(steps, 50) if quick else steps
    return TrainConfig(steps, ROWS, STREAM.length, seed, 1e-2 * (16 / width) ** 0.5, "cosine", final_learning_rate=0.0)


def losses(cells: tuple[Cell, ...], quick: bool) -> list[list[float]]:
    """Held-out nats/token of every cell and seed."""
    test = STREAM.draw(np.random.default_rng(LATE), TESTED)
    found: list[list[float]] = []
    for cell in cells:
        model = model_of(cell[0])
        found.append([])
        for seed in SEEDS[:2] if quick else SEEDS:
            feed = fresh(STREAM, np.random.default_rng([seed, *cell]), ROWS)
            found[-1].append(held_out(model, learned(model, train_of(cell, seed, quick), feed), test))
    return found


def table(cells: tuple[Cell, ...], found: np.ndarray, quick: bool) -> pd.DataFrame:
    """params, tokens and loss of `[cells, seeds]` losses."""
    rows = [
        {"params": counts.params(model_of(cell[0])), "tokens": train_of(cell, 0, quick).tokens, "loss": loss}
        for cell, line in zip(cells, found, strict=True)
        for loss in line
    ]
    return pd.DataFrame(rows).astype(float)


def foretold(cheap: list[list[float]], cells: tuple[Cell, ...], quick: bool) -> dict:
    """(predicted, low, high) of every cell by a law of all cheap runs, and what those of each seed alone say."""
    at = table(cells, np.zeros((len(cells), 1)), quick)
    where = {name: at[name].to_numpy() for name in ("params", "tokens")}
    law = fit(OVERTRAINING, table(FITTED, np.array(cheap), quick))
    said = law.predict(0.9, **where)
    alone = [fit(OVERTRAINING, table(FITTED, np.array(cheap)[:, i : i + 1], quick)) for i in range(len(cheap[0]))]
    return {
        "law": law.params, "interval": np.stack([said.mean, said.low, said.high], axis=1).tolist(),
        "by seed": [np.asarray(OVERTRAINING(one.params, **where)).tolist() for one in alone],
    }  # fmt: skip


def run(work: Workspace) -> Measured:
    quick, cells = work.quick, (*TARGETS.values(), *BETWEEN)
    cheap = work.keep("cheap", lambda: losses(FITTED, quick))
    said = work.foretell("large", lambda: foretold(cheap, cells, quick))
    large = np.array(work.keep("large", lambda: losses(cells, quick)))  # [cells, seeds]
    errors = 100 * np.abs(np.array(said["by seed"]).T / large - 1)
    still = 100 * np.abs(np.array(cheap).min(0) / large - 1)  # who foretells no growth
    n = len(TARGETS)
    effect, interval = least([*(WITHIN - errors[:n]), *(still - errors)[:n]])
    told = [
        of_run(f"width {width}, {ratio} tokens per parameter, seed {seed}", numbers, loss)
        for (width, ratio), numbers, line in zip(cells, said["interval"], large, strict=True)
        for seed, loss in zip(SEEDS, line, strict=False)
    ]
    runs = table((*FITTED, *cells), np.concatenate([cheap, large]), quick)
    flops = [counts.train_flops(model_of(c[0]), train_of(c, 0, quick).tokens, STREAM.length) for c in (*FITTED, *cells)]
    shown = {"measured": large.mean(1), "foretold": [line[0] for line in said["interval"]]}
    lines = {name: {"x": flops[len(FITTED) :], "y": list(map(float, y))} for name, y in shown.items()}
    details = {
        "error, %": dict(zip(TARGETS, errors.tolist(), strict=False)),
        "error of the best cheap run's loss, %": dict(zip(TARGETS, still.tolist(), strict=False)),
        "errors of the runs between, %": errors[n:].tolist(),
        "law": said["law"],
        "floor of the stream": STREAM.floor,
        "runs": runs.to_dict("list"),
        "compute of the targets over the largest fitted": [f / max(flops[: len(FITTED)]) for f in flops[len(FITTED) :]],
        "curves": [{"x": "FLOPs", "y": "loss, nats/token", "log": "x", "lines": lines}],
    }
    return Measured(effect, interval, float(sum(flops) * large.shape[1]), details, tuple(told))
