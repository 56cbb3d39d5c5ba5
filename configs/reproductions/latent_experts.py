"""A trained mixture's experts behind one map that they share, by two-phase SVD, against the mixture itself.

    python -m launch.reproduce latent_experts --workdir runs/reproductions/latent_experts

Rank 32 of width 64 leaves 54 % of the experts' weights. Both are tuned for 100 steps more, on the same text.
"""

import dataclasses
from pathlib import Path

import numpy as np

from configs.reproductions.expert_routers import MODEL, TOP_K, base
from models import counts
from models.config import ModelConfig
from models.latent_experts import with_latent_experts
from scaling import arms
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig, Value
from scaling.train.config import TrainConfig

SEEDS, RANK, OTHER = 5, 32, 1000  # the last is added to a seed for the text that it is tuned on
WHOLE = dataclasses.replace(MODEL, moe=TOP_K)
NARROW = dataclasses.replace(MODEL, moe=dataclasses.replace(TOP_K, bottleneck=RANK))


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="latent_experts", methods=(203,), smallest_effect=0.0, minutes=6,
        claim="experts of a trained mixture converted to half of their weights have a loss within 2 % of its own after "
        "as much tuning", source="Liu et al. 2025, arXiv:2503.23100",
        unit="percentage points of loss below the 2 % that the conversion may cost",
        not_covered="more than 8 experts, 3 layers of width 64 and 250 steps; pretrained models; what is sent between "
        "devices", simulated=False, run=run, sweeps=lambda quick: [pretrained(quick)],
    )  # fmt: skip


def pretrained(quick: bool) -> SweepConfig:
    return dataclasses.replace(base(quick, SEEDS), name="whole", model=WHOLE)


def tuned(name: str, model: ModelConfig, starts: dict[int, Path], quick: bool) -> SweepConfig:
    steps = 10 if quick else 100
    train = TrainConfig(steps=steps, batch_size=8, seq_len=64, learning_rate=1e-3, warmup_steps=0)
    points: list[dict[str, Value]] = [
        {"train.init_from": str(path.absolute()), "train.seed": OTHER + seed} for seed, path in starts.items()
    ]
    return SweepConfig(name=name, model=model, train=train, points=tuple(points), workers=1)


def run(work: Workspace) -> Measured:
    first = arms.train(work, pretrained(work.quick), {"whole": WHOLE})
    trials = {trial.train.seed: trial.id for trial in pretrained(work.quick).trials()}
    whole = {seed: work.folder / "sweeps" / "whole" / "trials" / name for seed, name in trials.items()}
    narrow = {seed: work.folder / "converted" / str(seed) for seed in whole}
    losses = work.keep("converted", lambda: convert(work, whole, narrow))
    arm = {"tuned": (WHOLE, whole), "tuned_latent": (NARROW, narrow)}
    found = [arms.train(work, tuned(name, model, starts, work.quick), {name: model})
             for name, (model, starts) in arm.items()]  # fmt: skip
    both = arms.Arms(found[0].losses | found[1].losses, first.flops + found[0].flops + found[1].flops)
    margin = 2 - both.excess("tuned_latent", "tuned")
    params = {name: counts.params(model) for name, (model, _) in arm.items()}
    active = {name: counts.forward_flops(model, 64) // 64 for name, (model, _) in arm.items()}
    details = both.details() | {"before tuning": losses, "params": params, "forward FLOPs per token": active}
    return Measured(float(np.mean(margin)), t_interval(margin), both.flops, details)


def convert(work: Workspace, whole: dict[int, Path], narrow: dict[int, Path]) -> JSON:
    """Writes every converted model as the checkpoint of a run; held-out losses before tuning, by own rank."""
    from scaling.train.checkpoint import Checkpoints, load_params

    tokens = arms.heldout(pretrained(work.quick), 128)
    found: dict[str, list[float]] = {"whole": [], "own rank 32": [], "converted": []}
    for seed, start in whole.items():
        params = load_params(start)
        found["whole"].append(arms.heldout_loss(WHOLE, params, tokens))
        for name, own in (("own rank 32", RANK), ("converted", None)):
            model, fewer = with_latent_experts(WHOLE, params, RANK, own)
            assert model == NARROW.resolved()
            found[name].append(arms.heldout_loss(model, fewer, tokens))
        with Checkpoints(narrow[seed] / "checkpoints") as checkpoints:
            checkpoints.save(1, {"params": fewer})
    return found
