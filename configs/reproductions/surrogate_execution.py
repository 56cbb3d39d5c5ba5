"""What a program prints, told by a model that does not run it: with its size, with its data, and how it goes wrong.

    python -m launch.reproduce surrogate_execution --workdir runs/reproductions/surrogate_execution
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np

from models import counts
from models.config import ModelConfig
from scaling.reproduction import Measured, Reproduction, Workspace, least
from scaling.tasks.execution import CATEGORIES, ERRORS, REGISTERS, Execution, errors
from scaling.tasks.sequences import Labelled
from scaling.tasks.skills import joined
from scaling.train.config import TrainConfig

SEEDS, MORE, WIDTHS = (1, 2, 3), (4, 5), (8, 16)  # MORE: seeds that were added, since three could not tell
SEEN, EACH, ROWS = (100, 200, 400, 800, 1600), 16, 400  # EACH: rows of a step
KINDS = {category: Execution(category) for category in CATEGORIES}
SIZE = KINDS[CATEGORIES[0]].size


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="surrogate_execution",
        methods=(229,),
        claim="Programs' outputs are told better by larger models and after more programs",
        source="Lyu et al. 2025, SURGE: on the potential of large language models as general-purpose surrogate code "
        "executors, arXiv:2502.11167",
        smallest_effect=0.01,
        unit="accuracy for each doubling of parameters or of programs seen, the lesser of the two",
        minutes=4,
        not_covered="languages that people write, pretrained models, programs of more than three statements "
        "after the first four; data beyond 102400 programs and models beyond 0.01M parameters; sizes in data are those "
        "of one pass at a constant rate. Programs that printed one register, tried first, were answered by the digit "
        "that is most common",
        simulated=False,
        run=run,
    )


def model_of(width: int) -> ModelConfig:
    return ModelConfig(KINDS[CATEGORIES[0]].vocab_size, d_model=width, n_layers=2, n_heads=width // 8)


def train_of(quick: bool, seed: int = 0) -> TrainConfig:
    steps, rows = SEEN[1] if quick else SEEN[-1], EACH * len(KINDS)
    return TrainConfig(steps, rows, SIZE, seed, 1e-2, "constant", optimizer="muon", weight_decay=0.0)


def accuracies(width: int, seeds: tuple[int, ...], quick: bool) -> list[dict]:
    """Of every seed: share of right answers by category after each of SEEN steps, and the errors at the end."""
    from scaling.tasks.probe import LATE, learned, said

    found = []
    for seed in seeds:
        model, rng, late = model_of(width), np.random.default_rng(seed), np.random.default_rng(seed + LATE)
        tests = {category: kind.draw(late, ROWS) for category, kind in KINDS.items()}
        one: dict = {"steps": [], "right": {category: [] for category in KINDS}}

        def watch(steps: int, params: dict, one: dict = one, tests: dict = tests, model: ModelConfig = model) -> None:
            if steps not in SEEN:
                return
            one["steps"].append(steps)
            for category, test in tests.items():
                told = said(model, params, test)[:, -REGISTERS:]
                one["right"][category].append(float((told == test.labels[:, -REGISTERS:]).mean()))
                one[category] = dict(Counter(filter(None, errors(test.tokens, told))))

        feed = partial(_batch, rng)
        learned(model, train_of(quick, seed), feed, watch=watch)
        found.append(one)
    return found


def _batch(rng: np.random.Generator, step: int) -> Labelled:
    return joined([kind.draw(rng, EACH) for kind in KINDS.values()])


def run(work: Workspace) -> Measured:
    found, flops = {}, 0.0
    for width in WIDTHS:
        seeds = SEEDS[:2] if work.quick else SEEDS
        found[width] = work.keep(f"width{width}", partial(accuracies, width, seeds, work.quick))
        for seed in () if work.quick else MORE:
            found[width] += work.keep(f"width{width}_seed{seed}", partial(accuracies, width, (seed,), work.quick))
        flops += len(found[width]) * counts.train_flops(model_of(width), train_of(work.quick).tokens, SIZE)
        work.say(f"width {width}: {found[width][0]['right']}")
    right = {  # [seeds, categories, steps]
        width: np.array([list(one["right"].values()) for one in seeds]) for width, seeds in found.items()
    }
    params = [counts.params(model_of(width)) for width in WIDTHS]
    seen = np.array(found[WIDTHS[0]][0]["steps"]) * EACH * len(KINDS)
    means = np.array([right[width].mean(1) for width in WIDTHS])  # [widths, seeds, steps]
    by_size = np.polyfit(np.log2(params), means[:, :, -1], 1)[0]
    by_data = np.polyfit(np.log2(seen), means[-1].T, 1)[0]
    effect, interval = least([by_size, by_data])
    wrong = {
        category: {kind: sum(one[category].get(kind, 0) for one in found[WIDTHS[-1]]) for kind in ERRORS}
        for category in KINDS
    }
    lines = {f"{n} parameters": {"x": seen.tolist(), "y": one.mean(0).tolist()}
             for n, one in zip(params, means, strict=True)}  # fmt: skip
    details = {
        "accuracy for a doubling of parameters": by_size.tolist(), "of programs": by_data.tolist(),
        "accuracy by category, largest model": dict(zip(KINDS, right[WIDTHS[-1]].mean(0).tolist(), strict=True)),
        "errors of the largest models": wrong,
        "curves": [{"x": "programs seen", "y": "accuracy", "log": "x", "lines": lines}],
    }  # fmt: skip
    return Measured(effect, interval, flops, details)
