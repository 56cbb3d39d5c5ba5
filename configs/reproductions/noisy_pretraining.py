"""Images with wrong labels, from few to many: what a model that learned them knows of new classes.

    python -m launch.reproduce noisy_pretraining --workdir runs/reproductions/noisy_pretraining
"""

from __future__ import annotations

from functools import partial

import numpy as np

from models import counts
from models.config import ModelConfig
from scaling.reproduction import Measured, Reproduction, Workspace, least
from scaling.tasks.images import Images
from scaling.train.config import TrainConfig

SEEDS, WIDTHS, SETS, ROWS = (1, 2, 3), (8, 32), (80, 200, 500, 1250, 3200, 9600), 32
STEPS, TUNED, SHOTS = 300, 50, 8  # steps of pretraining, of fine-tuning; images of each new class
BEFORE, AFTER = Images(classes=20, noise=0.3), Images(classes=10, first=20)


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="noisy_pretraining",
        methods=(210,),
        claim="Accuracy on new classes rises with the logarithm of the images that were learned before, though a third "
        "of these have wrong labels, and the most images gain more in a larger model",
        source="Sun et al. 2017, Revisiting unreasonable effectiveness of data in deep learning era, arXiv:1707.02968",
        smallest_effect=0.005,
        unit="accuracy for each doubling of images in the larger model, or by which that is more than in the smaller, "
        "the lesser",
        minutes=3,
        not_covered="photographs and convolutions: images have 64 pixels and models read patches of four; more than "
        "9600 images; other tasks than classes; compute that grows with the images (every set has 300 steps)",
        simulated=False,
        run=run,
    )


def model_of(width: int) -> ModelConfig:
    return ModelConfig(BEFORE.vocab_size, d_model=width, n_layers=2, n_heads=width // 8, positions="learned",
                       max_seq_len=BEFORE.size)  # fmt: skip


def train_of(steps: int, seed: int = 0) -> TrainConfig:
    return TrainConfig(steps, ROWS, BEFORE.size, seed, 1e-2, optimizer="muon", weight_decay=0.0)


def accuracies(width: int, quick: bool) -> list[list[float]]:
    """On images of new classes after pretraining on each of SETS and a little fine-tuning, each seed."""
    from scaling.tasks.probe import LATE, learned, said
    from scaling.tasks.skills import passes

    model, found = model_of(width), []
    for seed in SEEDS[:2] if quick else SEEDS:
        rng = np.random.default_rng(seed)
        many, few = BEFORE.draw(rng, max(SETS)), AFTER.draw(rng, SHOTS * AFTER.classes)
        test, one = AFTER.draw(np.random.default_rng(seed + LATE), 1000), []
        for count in SETS[::5] if quick else SETS:
            some = type(many)(*(x[:count] for x in many))
            params = learned(model, train_of(50 if quick else STEPS, seed), passes(some, ROWS, seed))
            tuned = learned(model, train_of(TUNED, seed), passes(few, ROWS, seed), params)
            one.append(float((said(model, tuned, test) == test.labels)[test.scored].mean()))
        found.append(one)
    return found


def run(work: Workspace) -> Measured:
    right, flops = {}, 0.0
    for width in WIDTHS:
        right[width] = np.array(work.keep(f"width{width}", partial(accuracies, width, work.quick)))  # [seeds, sets]
        work.say(f"width {width}: {right[width].mean(0).round(3).tolist()}")
        steps = right[width].size * ((50 if work.quick else STEPS) + TUNED)
        flops += counts.train_flops(model_of(width), steps * ROWS * BEFORE.size, BEFORE.size)
    sets = np.array(SETS[::5] if work.quick else SETS)
    small, large = (np.polyfit(np.log2(sets), right[width].T, 1)[0] for width in WIDTHS)
    effect, interval = least([large, large - small])
    lines = {f"{counts.params(model_of(width))} parameters": {"x": sets.tolist(), "y": one.mean(0).tolist()}
             for width, one in right.items()}  # fmt: skip
    line = np.polyval(np.polyfit(np.log2(sets), right[WIDTHS[-1]].mean(0), 1), np.log2(sets))
    details = {
        "accuracy for a doubling": {"larger": large.tolist(), "smaller": small.tolist()},
        "farthest from the line, larger model": float(np.abs(line - right[WIDTHS[-1]].mean(0)).max()),
        "curves": [{"x": "images before", "y": "accuracy on new classes", "log": "x", "lines": lines}],
    }
    return Measured(effect, interval, flops, details)
