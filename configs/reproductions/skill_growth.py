"""Ten skills learned from one mixture: how fast the errors of each fall with data, clean or noisy.

    python -m launch.reproduce skill_growth --workdir runs/reproductions/skill_growth
"""

from __future__ import annotations

from functools import partial

import numpy as np

from configs.reproductions._skills import ROWS, late, model_of, train_of
from models import counts
from scaling.reproduction import Measured, Reproduction, Workspace, least
from scaling.tasks.skills import RULES, Skills

SEEDS, WIDTHS, SEEN = (1, 2, 3), (16, 32), (50, 100, 200, 400, 800)
TESTED, EXTREME = 128, 3  # rows of each skill; skills that are called fastest, and slowest
DATA = {"clean": Skills(), "noisy": Skills(noise=0.3)}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="skill_growth",
        methods=(227,),
        claim="Errors fall with data by a power that differs between skills, and that is greater for clean data than "
        "for data of which a third is answered with another skill",
        source="Song et al. 2023, Dynamics of instruction tuning, arXiv:2310.19651",
        smallest_effect=0.1,
        unit="exponent of errors in rows seen: of the three fastest skills less the three slowest, as other seeds name "
        "them, or of clean data less noisy data over all skills, the lesser",
        minutes=5,
        not_covered="pretrained models, instructions of people, more than 51200 rows; sizes in data are those of one "
        "pass at a constant rate; noise that is regular, such as one template. One skill against one in the wider "
        "model, compared first, could not tell with these seeds",
        simulated=False,
        run=run,
    )


def wrong(width: int, data: str, quick: bool) -> list[list[list[float]]]:
    """Share of wrong labels of each seed, skill and number of steps in SEEN; half an error is added, so that none is
    0."""
    from scaling.tasks.probe import learned, said

    model, kind, found = model_of(width), DATA[data], []
    for seed in SEEDS[:2] if quick else SEEDS:
        tests = [late(Skills((name,)), seed, TESTED) for name in RULES]
        shares: list[list[float]] = [[] for _ in tests]

        def watch(steps: int, params: dict, tests: list = tests, shares: list = shares) -> None:
            for test, one in zip(tests, shares, strict=True):
                if steps in SEEN:
                    misses = (said(model, params, test) != test.labels)[test.scored]
                    one.append(float((misses.sum() + 0.5) / (misses.size + 1)))

        rng = np.random.default_rng(seed)
        train = train_of(SEEN[1] if quick else SEEN[-1], seed)
        learned(model, train, lambda step, rng=rng: kind.draw(rng, ROWS), watch=watch)  # type: ignore[misc]
        found.append(shares)
    return found


def exponents(shares: list[list[list[float]]]) -> np.ndarray:
    """By how much the logarithm of errors falls with that of the data, `[seeds, skills]`."""
    logs = np.log(shares)  # [seeds, skills, looks]
    at = np.log(np.array(SEEN[: logs.shape[-1]]))
    return -np.polyfit(at, logs.reshape(-1, len(at)).T, 1)[0].reshape(logs.shape[:2])


def apart(found: np.ndarray) -> np.ndarray:
    """Of each seed the mean exponent of the skills that the other seeds call fastest, less that of the slowest."""
    ranks = [np.delete(found, seed, axis=0).mean(0).argsort() for seed in range(len(found))]
    return np.array([one[r[-EXTREME:]].mean() - one[r[:EXTREME]].mean() for one, r in zip(found, ranks, strict=True)])


def run(work: Workspace) -> Measured:
    shares, flops = {}, 0.0
    for width in WIDTHS:
        for data in DATA:
            shares[width, data] = work.keep(f"width{width}_{data}", partial(wrong, width, data, work.quick))
            steps = train_of(SEEN[1] if work.quick else SEEN[-1]).steps
            one = counts.train_flops(model_of(width), steps * ROWS * Skills().size, Skills().size)
            flops += len(shares[width, data]) * one
            work.say(f"width {width}, {data}: {np.mean(shares[width, data], axis=(0, 1)).round(3).tolist()} wrong")
    powers = {key: exponents(one) for key, one in shares.items()}
    differences = {
        "fastest less slowest": np.mean([apart(powers[width, "clean"]) for width in WIDTHS], axis=0),
        "clean less noisy": np.mean([powers[w, "clean"] - powers[w, "noisy"] for w in WIDTHS], axis=(0, 2)),
    }
    effect, interval = least(differences.values())
    lines = {name: {"x": (np.array(SEEN[: len(rows)]) * ROWS).tolist(), "y": rows.tolist()}
             for name, rows in zip(RULES, np.mean(shares[WIDTHS[-1], "clean"], axis=0), strict=True)}  # fmt: skip
    details = {
        "differences by seed": {name: values.tolist() for name, values in differences.items()},
        "exponents": {f"width {width}, {data}": dict(zip(RULES, one.mean(0).tolist(), strict=True))
                      for (width, data), one in powers.items()},
        "curves": [{"x": "rows seen", "y": "share of wrong labels", "log": "xy", "lines": lines}],
    }  # fmt: skip
    return Measured(effect, interval, flops, details)
