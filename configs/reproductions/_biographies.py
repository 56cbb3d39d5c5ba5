"""What several reproductions share: models of one size that learn people by heart, often, rarely, and rarely among
strangers, and the bits that they then know, with their numbers as they are and in 8 and 4 bits.

The learning rate and what there is to know were settled on trial runs of seed 1. Seeds 1 to 3 were then trained for an
earlier form of knowledge_capacity and seen before the other claims were written: 2.50 bits a parameter after 1000
exposures (2.45 in int8, none in int4), 1.48 after 100, 0.44 with junk. So all that is kept is of seeds from 4 on. Two
minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from models import counts
from models.config import ModelConfig
from models.quantize import QuantizeMode, quantize
from scaling.reproduction import Workspace
from scaling.tasks.biographies import Biographies
from scaling.tasks.sequences import Labelled
from scaling.train.config import TrainConfig

SEEDS, WIDTH, ROWS, RATE = (4, 5, 6, 7, 8, 9), 8, 64, 5e-2
TO_KNOW = 4.0  # bits of a parameter, so that a model is full before it knows all
OFTEN, RARELY, JUNK = "1000 exposures", "100 exposures", "100 exposures and junk"
ARMS = {OFTEN: (1000, 0), RARELY: (100, 0), JUNK: (100, ROWS)}
MODES: tuple[QuantizeMode, ...] = ("float32", "int8", "int4")
MODEL = ModelConfig(Biographies().vocab_size, d_model=WIDTH, n_layers=2, n_heads=1, tied_embeddings=True)
PARAMS = counts.params(MODEL)


def people_of(seed: int = 0) -> Biographies:
    """As many as there is room for a fraction of."""
    return Biographies(people=round(TO_KNOW * PARAMS / Biographies(people=1).bits), seed=seed)


def train_of(arm: str, quick: bool) -> TrainConfig:
    """So many passes over the people; junk comes on top of them."""
    exposures, junk = ARMS[arm]
    steps = 20 if quick else round(exposures * people_of().people / ROWS)
    return TrainConfig(steps, ROWS + junk, people_of().size, 0, RATE, final_learning_rate=0.0, optimizer="muon",
                       weight_decay=0.0)  # fmt: skip


def feed_of(arm: str, seed: int) -> Callable[[int], Labelled]:
    """Batches of people, and of as many strangers where the arm has junk."""
    from scaling.tasks.skills import joined, passes

    kind, rng, junk = people_of(seed), np.random.default_rng(seed), ARMS[arm][1]
    again = passes(kind.everyone(), ROWS, seed)
    return (lambda step: joined([again(step), kind.strangers(rng, junk)])) if junk else again


def learn(arm: str, quick: bool) -> list[dict[str, float]]:
    """Bits known for a parameter in each mode, of each seed."""
    from scaling.tasks.probe import learned_each, losses

    seeds, found = SEEDS[:2] if quick else SEEDS, []
    trained = learned_each(MODEL, train_of(arm, quick), seeds, [feed_of(arm, seed) for seed in seeds])
    for seed, params in zip(seeds, trained, strict=True):
        kind, nats = people_of(seed), partial(losses, MODEL, data=people_of(seed).everyone())
        bits = {str(mode): kind.known_bits(nats(quantize(params, MODEL, mode))) for mode in MODES}
        found.append({mode: value / PARAMS for mode, value in bits.items()})
    return found


def known(work: Workspace, arm: str) -> dict[str, np.ndarray]:
    """Bits for a parameter `[seeds]` in each mode, of models that whichever reproduction comes first trains."""
    name = f"people_{arm.replace(' ', '_')}{'_quick' * work.quick}"
    seeds = work.keep(name, partial(learn, arm, work.quick), shared=True)
    bits = {str(mode): np.array([one[mode] for one in seeds]) for mode in MODES}
    work.say(f"{arm}: " + ", ".join(f"{mode} {value.mean():.2f}" for mode, value in bits.items()))
    return bits


def flops_of(arm: str, quick: bool) -> float:
    """Of the training of all seeds."""
    seeds = len(SEEDS[:2] if quick else SEEDS)
    return float(seeds * counts.train_flops(MODEL, train_of(arm, quick).tokens, people_of().size))


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Of what a model knows; finite where it knows nothing, as after a quick run."""
    return part / np.maximum(whole, 1e-9)
