"""MASFormer: one layer of full attention among layers of short windows recalls what windows of equal FLOPs lose.

    python -m launch.reproduce mixed_spans --workdir runs/reproductions/mixed_spans

Sixteen pairs, then questions anywhere among 96 tokens, of models of four layers: the second sees everything and the
others four keys, or each sees 16 keys, which costs as much, and together they reach back 60 tokens. Layers that all see
everything (or all but the first) learn to bind a value to its key later and not with every seed, so that perfect recall
stands for them.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from models import counts
from models.config import Layer, ModelConfig
from models.mixers import Attention
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.tasks.sequences import AssociativeRecall
from scaling.train.config import TrainConfig

RECALL = AssociativeRecall(vocab=64, length=96, pairs=16, power=1.0)
SEEDS, ROWS = (1, 2, 3), 512
SPANS = {
    "full": (None,) * 4, "bound": (4, None, None, None), "mixed": (4, None, 4, 4), "windows": (16,) * 4,
}  # fmt: skip


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="mixed_spans", methods=(205,), smallest_effect=0.9, minutes=8,
        claim="at 31 % of the FLOPs of full attention, one full layer of four recalls all that windows of as many "
        "FLOPs lose", source="Zhang et al. 2023, Efficient long-range transformers: you need to attend more, but not "
        "necessarily at every layer", unit="recall less that of windows, as a share of the lead of perfect recall",
        not_covered="language, blocks in place of sliding windows, more than 96 tokens, other layers that are full; a "
        "fully trained model of full layers, of which 250 steps train some seeds only: for that the effect, first a "
        "share of the lead of three full layers, was changed after the run to one of perfect recall's",
        simulated=False, run=run,
    )  # fmt: skip


def model_of(spans: tuple[int | None, ...]) -> ModelConfig:
    """Layers without channels."""
    pattern = tuple(Layer(Attention(window=window), None) for window in spans)
    return ModelConfig(RECALL.vocab, d_model=64, n_layers=len(spans), n_heads=2, pattern=pattern)


def scores_flops(spans: tuple[int | None, ...]) -> int:
    """Forward FLOPs of scores and weighted values, of one sequence."""
    model = model_of(spans)
    return sum(layer.mixer.flops(model.stream, RECALL.length) for layer in model.layers)


def train_of(quick: bool, seed: int = 0) -> TrainConfig:
    """Muon, which learns to bind in fewer steps than AdamW."""
    return TrainConfig(10 if quick else 250, 32, RECALL.length, seed, 5e-3, optimizer="muon", weight_decay=0.0)


def recall(spans: tuple[int | None, ...], seed: int, quick: bool) -> float:
    from scaling.tasks.probe import probe, recalled

    model = model_of(spans)
    return recalled(model, probe(model, RECALL, train_of(quick, seed)), RECALL, ROWS, seed)


def run(work: Workspace) -> Measured:
    found: dict[str, list[float]] = {name: [] for name in SPANS}
    for seed in SEEDS[:2] if work.quick else SEEDS:
        for name, spans in SPANS.items():
            found[name].append(work.keep(f"{name}_{seed}", partial(recall, spans, seed, work.quick)))
            work.say(f"{name}, seed {seed}: recall {found[name][-1]:.3f}")
    mixed, windows = np.array(found["mixed"]), np.array(found["windows"])
    share = (mixed - windows) / (1 - windows)
    train = train_of(work.quick)
    flops = len(share) * sum(counts.train_flops(model_of(s), train.tokens, RECALL.length) for s in SPANS.values())
    costs = {name: scores_flops(spans) / scores_flops(SPANS["full"]) for name, spans in SPANS.items()}
    details = {"recall": found, "share of full attention's FLOPs": costs}
    return Measured(float(share.mean()), t_interval(share), float(flops), details)
