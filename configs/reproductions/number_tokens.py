"""Tokens of one digit against tokens of two for sums of two-digit numbers, and the order in which the sum is written.

    python -m launch.reproduce number_tokens --workdir runs/reproductions/number_tokens

Three minutes on one core: models of 0.1M parameters see as many sums in either form.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from models import counts
from models.config import ModelConfig
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.tasks.numerals import Sum
from scaling.train.config import TrainConfig

SEEDS, ROWS, STEPS = (1, 2, 3), 256, 500
FORMS = {"one digit": Sum(2, reverse=True), "two digits": Sum(2, group=2, reverse=True)}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="number_tokens",
        methods=(243,),
        claim="Tokens of one digit learn sums from fewer examples than tokens of two",
        source="Yang et al. 2024, Number Cookbook, arXiv:2411.03766, section 3",
        smallest_effect=0.05,
        unit="accuracy of whole sums after as many examples, one digit a token less two",
        minutes=6,
        not_covered="fractions and scientific notation, other tasks than sums, numbers longer than those of training, "
        "other positions than learned ones; equal compute (one digit a token makes longer sequences); "
        "numbers of four digits, tried first: one digit a token had no sum of them right after 300 steps",
        simulated=False,
        run=run,
    )


def model_of(kind: Sum) -> ModelConfig:
    return ModelConfig(kind.vocab_size, d_model=64, n_layers=2, n_heads=4, positions="learned", max_seq_len=32)


def train_of(kind: Sum, quick: bool, seed: int = 0) -> TrainConfig:
    return TrainConfig(10 if quick else STEPS, 32, kind.size, seed, 5e-3, optimizer="muon", weight_decay=0.0)


def accuracies(kind: Sum, quick: bool) -> list[float]:
    """Share of unseen sums of which every digit is right, each seed; the model reads what it wrote itself."""
    from scaling.tasks.probe import LATE, probe, written

    found = []
    for seed in SEEDS[:2] if quick else SEEDS:
        model, train = model_of(kind), train_of(kind, quick, seed)
        data = kind.draw(np.random.default_rng(seed + LATE), ROWS)
        said = written(model, probe(model, kind, train), data.tokens, kind.asked_at)
        found.append(float((said == data.labels[:, kind.asked_at :]).all(axis=1).mean()))
    return found


def run(work: Workspace) -> Measured:
    found, flops = {}, 0.0
    for i, (name, kind) in enumerate(FORMS.items()):
        found[name] = work.keep(f"form{i}", partial(accuracies, kind, work.quick))
        work.say(f"{name}: {found[name]}")
        flops += len(found[name]) * counts.train_flops(model_of(kind), train_of(kind, work.quick).tokens, kind.size)
    gain = np.array(found["one digit"]) - found["two digits"]
    return Measured(float(gain.mean()), t_interval(gain), flops, {"accuracy": found})
