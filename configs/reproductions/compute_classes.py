"""At equal time of one core: does a quasi-LSTM's loss fall faster than a transformer's, and where do the curves cross?

    python -m launch.reproduce compute_classes --workdir runs/reproductions/compute_classes

Throughput is measured first; each class then gives as many tokens as a model reads in its seconds. The longest class is
foretold from the others before it is trained. Some two minutes of one core.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from models import counts
from models.config import Layer, ModelConfig
from models.mixers import MLSTM
from scaling.fitting.fit import fit
from scaling.laws.hestness import HESTNESS
from scaling.registered import of_run
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.sweep.classes import crossing, steps_in, throughput
from scaling.tasks.learning_curve import held_out
from scaling.tasks.probe import LATE, learned
from scaling.tasks.streams import Words, fresh
from scaling.train.config import TrainConfig

STREAM, VOCAB, ROWS, TESTED = Words(length=64, concentration=4.0), 32, 8, 512
PATTERNS = {"transformer": (Layer(),), "quasi-LSTM": (Layer(MLSTM(block=64)),)}
WIDTHS, FITTED, TOLD, SEEDS = (16, 32), (0.125, 0.25, 0.5, 1.0), (2.0,), (11, 12, 13)  # classes in seconds of one core
MICRO = 1e6  # the law's tokens are microseconds here


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="compute_classes",
        methods=(23,),
        claim="At equal time of a device the loss of a quasi-LSTM falls faster than that of a transformer, so that "
        "their curves cross",
        source="Stanić et al. 2023, The Languini Kitchen, arXiv:2309.11197",
        smallest_effect=0.02,
        unit="exponent of the loss above the floor in seconds: quasi-LSTM less transformer, each class's best width",
        minutes=3,
        not_covered="books; accelerators: the seconds are those of one core; classes of hours; an mLSTM, whose "
        "gates read the input alone, stands for the quasi-LSTM; two widths; a chain of second order, 32 words",
        simulated=False,
        run=run,
    )


def model_of(pattern: str, width: int) -> ModelConfig:
    return ModelConfig(VOCAB, d_model=width, n_layers=2, n_heads=2, pattern=PATTERNS[pattern], bias="none").resolved()


def train_of(width: int, steps: int, seed: int) -> TrainConfig:
    rate = 1e-2 * (16 / width) ** 0.5
    return TrainConfig(steps, ROWS, STREAM.length, seed, rate, "cosine", final_learning_rate=0.0)


def trained(pattern: str, width: int, steps: int, seed: int) -> Any:
    feed = fresh(STREAM, np.random.default_rng([seed, width, steps]), ROWS)
    return learned(model_of(pattern, width), train_of(width, steps, seed), feed)


def measured(quick: bool) -> list[float]:
    """Tokens per second of every model, in the order of `models`."""
    steps = 50 if quick else 200
    tokens = steps * ROWS * STREAM.length
    return [throughput(lambda: trained(pattern, width, steps, 1), tokens) for pattern, width in models()]  # noqa: B023


def models() -> list[tuple[str, int]]:
    return [(pattern, width) for pattern in PATTERNS for width in WIDTHS]


def losses(classes: tuple[float, ...], speeds: list[float], quick: bool) -> list[list[list[float]]]:
    """Held-out nats/token `[models, classes, seeds]`."""
    test = STREAM.draw(np.random.default_rng(LATE), TESTED)
    found = []
    for (pattern, width), speed in zip(models(), speeds, strict=True):
        steps = [50 if quick else steps_in(seconds, speed, ROWS * STREAM.length) for seconds in classes]
        model = model_of(pattern, width)
        found.append([[held_out(model, trained(pattern, width, n, s), test) for s in SEEDS] for n in steps])
    return found


def foretold(short: list[list[list[float]]]) -> list[list[float]]:
    """(predicted, low, high) of every model in the told class, from the shorter ones; the floor is known."""
    found = []
    for one in short:
        times = np.repeat(np.array(FITTED) * MICRO, len(SEEDS))
        runs = pd.DataFrame({"tokens": times, "loss": np.ravel(one)})
        said = fit(HESTNESS, runs, fixed={"c": STREAM.floor}).predict(0.9, tokens=TOLD[0] * MICRO)
        found.append([float(said.mean), float(said.low), float(said.high)])
    return found


def best(found: np.ndarray) -> dict[str, np.ndarray]:
    """Loss above the floor of each pattern's best width by class, `[classes, seeds]`, of `[models, classes, seeds]`."""
    by_width = (found - STREAM.floor).reshape(len(PATTERNS), len(WIDTHS), *found.shape[1:])
    chosen = by_width.mean(-1).argmin(1)  # [patterns, classes]
    classes = np.arange(found.shape[1])
    return {name: by_width[i][chosen[i], classes] for i, name in enumerate(PATTERNS)}


def run(work: Workspace) -> Measured:
    speeds = work.keep("throughput", lambda: measured(work.quick))
    work.say(f"tokens per second: {dict(zip(models(), map(round, speeds), strict=True))}")
    short = work.keep("short", lambda: losses(FITTED, speeds, work.quick))
    said = work.foretell("long", lambda: foretold(short))
    long = work.keep("long", lambda: losses(TOLD, speeds, work.quick))
    excess = best(np.concatenate([short, long], axis=1))
    classes = np.array([*FITTED, *TOLD])
    falls = {name: -np.polyfit(np.log(classes), np.log(one), 1)[0] for name, one in excess.items()}
    faster = falls["quasi-LSTM"] - falls["transformer"]
    apart = (np.log(excess["quasi-LSTM"]) - np.log(excess["transformer"])).T  # [seeds, classes]
    place, ends = crossing(np.log(classes), apart)
    told = [
        of_run(f"{pattern} of width {width}, {TOLD[0]:g} s, seed {seed}", numbers, loss)
        for (pattern, width), numbers, line in zip(models(), said, np.array(long)[:, 0], strict=True)
        for seed, loss in zip(SEEDS, line, strict=True)
    ]
    lines = {name: {"x": classes.tolist(), "y": one.mean(1).tolist()} for name, one in excess.items()}
    seconds = [float(np.exp(x)) if abs(x) < 50 else None for x in (place, *ends)]
    details = {
        "tokens per second": {f"{p} {w}": s for (p, w), s in zip(models(), speeds, strict=True)},
        "exponents": {name: one.tolist() for name, one in falls.items()},
        "seconds at which the curves cross, with its 90 % interval (null: without end)": seconds,
        "log ratio of losses above the floor by class, quasi-LSTM over transformer": apart.mean(0).tolist(),
        "curves": [{"x": "seconds of one core", "y": "loss above the floor, nats", "log": "xy", "lines": lines}],
    }
    flops = sum(
        len(SEEDS) * counts.train_flops(model_of(*one), round(speed * sum(classes)), STREAM.length)
        for one, speed in zip(models(), speeds, strict=True)
    )
    return Measured(float(faster.mean()), t_interval(faster), float(flops), details, tuple(told))
