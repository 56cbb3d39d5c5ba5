"""Special skills before general ones: what is forgotten, and what a small replay keeps of both.

    python -m launch.reproduce data_composition --workdir runs/reproductions/data_composition
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from configs.reproductions._skills import ROWS, accuracy, late, model_of, train_of
from models import counts
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.tasks.sequences import Labelled
from scaling.tasks.skills import RULES, Skills, joined, passes

SEEDS, WIDTH, STEPS, REPLAYED, FEW = (1, 2, 3, 4), 32, 400, 4, 256  # REPLAYED: rows of 64; FEW: rows of little data
SPECIAL = Skills(("reverse", "sort", "sums", "highest"))  # what a stage of its own is for
GENERAL = Skills(tuple(name for name in RULES if name not in SPECIAL.names))
Draw = Callable[[np.random.Generator, int], Labelled]


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="data_composition",
        methods=(230,),
        claim="A stage of special skills and then one of general skills forgets the special ones, and a sixteenth of "
        "them in the second stage keeps both",
        source="Dong et al. 2024, How abilities in large language models are affected by supervised fine-tuning data "
        "composition (DMT), arXiv:2310.05492",
        smallest_effect=0.05,
        unit="accuracy in the worse of special and general skills, with replay less without",
        minutes=4,
        not_covered="pretrained models; mathematics, code and conversations, for which the skills stand; shares of "
        "replay other than a sixteenth",
        simulated=False,
        run=run,
    )


def both(rng: np.random.Generator, rows: int) -> Labelled:
    return joined([SPECIAL.draw(rng, rows // 2), GENERAL.draw(rng, rows - rows // 2)])


def replaying(rng: np.random.Generator, rows: int) -> Labelled:
    return joined([SPECIAL.draw(rng, REPLAYED), GENERAL.draw(rng, rows - REPLAYED)])


SCHEDULES: dict[str, list[tuple[Draw, int]]] = {  # stages, and how many times STEPS each has
    "mixed": [(both, 2)],
    "one after the other": [(SPECIAL.draw, 1), (GENERAL.draw, 1)],
    "with replay": [(SPECIAL.draw, 1), (replaying, 1)],
}


def scheduled(name: str, quick: bool) -> list[dict[str, float]]:
    """Accuracy in special and in general skills after the stages of a schedule, each seed."""
    from scaling.tasks.probe import learned

    model, found = model_of(WIDTH), []
    for seed in SEEDS[:2] if quick else SEEDS:
        params: dict | None = None
        rng = np.random.default_rng(seed)
        for draw, times in SCHEDULES[name]:
            train = train_of(times * (10 if quick else STEPS), seed)
            params = learned(model, train, lambda step, draw=draw, rng=rng: draw(rng, ROWS), params)  # type: ignore[misc]
        assert params is not None
        tests = {"special": late(SPECIAL, seed, 512), "general": late(GENERAL, seed, 512)}
        found.append({kind: accuracy(model, params, test) for kind, test in tests.items()})
    return found


def beside_general(rows: int, quick: bool) -> list[float]:
    """What as many general rows in every step add to the accuracy in special skills, of `rows` special rows that come
    again and again, or of rows that are always new (0); each seed, from two runs that see special rows alike."""
    from scaling.tasks.probe import learned

    model, gains = model_of(WIDTH), []
    for seed in SEEDS[:2] if quick else SEEDS:
        right = []
        for mixed in (False, True):
            rng = np.random.default_rng(seed)
            again = passes(SPECIAL.draw(rng, rows), ROWS // 2, seed) if rows else None

            def batch(step: int, again: Callable | None = again, mixed: bool = mixed, seed: int = seed) -> Labelled:
                fresh = np.random.default_rng([seed, step])
                special = again(step) if again else SPECIAL.draw(fresh, ROWS // 2)
                return joined([special, GENERAL.draw(fresh, ROWS // 2)]) if mixed else special

            train = train_of(10 if quick else STEPS, seed, rows=ROWS if mixed else ROWS // 2)
            right.append(accuracy(model, learned(model, train, batch), late(SPECIAL, seed, 512)))
        gains.append(right[1] - right[0])
    return gains


def run(work: Workspace) -> Measured:
    found = {name: work.keep(f"schedule{i}", partial(scheduled, name, work.quick)) for i, name in enumerate(SCHEDULES)}
    work.say(str({name: one[0] for name, one in found.items()}))
    gains = {name: work.keep(f"beside{rows}", partial(beside_general, rows, work.quick))
             for name, rows in ((f"{FEW} special rows", FEW), ("new special rows", 0))}  # fmt: skip
    worse = {name: np.array([min(one.values()) for one in seeds]) for name, seeds in found.items()}
    gain = worse["with replay"] - worse["one after the other"]
    rows = len(gain) * (10 if work.quick else STEPS) * ROWS * (2 * len(SCHEDULES) + 2 * 1.5)
    flops = counts.train_flops(model_of(WIDTH), int(rows * SPECIAL.size), SPECIAL.size)
    means = {name: {kind: float(np.mean([one[kind] for one in seeds])) for kind in seeds[0]}
             for name, seeds in found.items()}  # fmt: skip
    details = {
        "accuracy": means, "each seed": found,
        "what general rows add to special skills": {name: {"mean": float(np.mean(one)), "interval": t_interval(one)}
                                                    for name, one in gains.items()},
    }  # fmt: skip
    return Measured(float(gain.mean()), t_interval(gain), flops, details)
