"""Bits that a parameter holds of people whose facts no rule foretells, after 100 and after 1000 exposures.

    python -m launch.reproduce knowledge_capacity --workdir runs/reproductions/knowledge_capacity
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from models import counts
from models.config import ModelConfig
from models.quantize import QuantizeMode, quantize
from scaling.reproduction import Measured, Reproduction, Workspace, least
from scaling.tasks.biographies import Biographies
from scaling.tasks.sequences import Labelled
from scaling.train.config import TrainConfig

SEEDS, WIDTHS, ROWS, RATE = (1, 2, 3), (8,), 64, 5e-2
TO_KNOW = 4.0  # bits of a parameter, so that a model is full before it knows all
ARMS = {"1000 exposures": (1000, 0), "100 exposures": (100, 0), "100 exposures and junk": (100, ROWS)}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="knowledge_capacity",
        methods=(139,),
        claim="After 1000 exposures a model knows two bits of facts for each of its parameters",
        source="Allen-Zhu & Li 2024, Physics of language models part 3.3, arXiv:2404.05405",
        smallest_effect=1.8,
        unit="bits known for a parameter",
        minutes=5,
        not_covered="models of more than one size and above 0.0024M parameters, deeper ones than two layers; "
        "sentences: a row is a name and its facts; more to know than 4 bits for a parameter. The bits after 100 "
        "exposures, with junk and in integers are among the numbers, and decide nothing. Bits to know and the "
        "learning rate were settled on trial runs of one of the kept seeds",
        simulated=False,
        run=run,
    )


def people_of(width: int, seed: int = 0) -> Biographies:
    bits = TO_KNOW * counts.params(model_of(width))
    return Biographies(people=round(bits / Biographies(people=1).bits), seed=seed)


def model_of(width: int) -> ModelConfig:
    vocab = Biographies().vocab_size
    return ModelConfig(vocab, d_model=width, n_layers=2, n_heads=width // 8, tied_embeddings=True)


def train_of(width: int, arm: str, quick: bool, seed: int = 0) -> TrainConfig:
    exposures, junk = ARMS[arm]
    steps = 20 if quick else round(exposures * people_of(width).people / ROWS)
    return TrainConfig(steps, ROWS + junk, people_of(width).size, seed, RATE, final_learning_rate=0.0,
                       optimizer="muon", weight_decay=0.0)  # fmt: skip


def known(width: int, arm: str, quick: bool) -> list[dict[str, float]]:
    """Bits for a parameter, each seed: of the model as it is, and with its matrices in 8 and in 4 bits."""
    from scaling.tasks.probe import learned, losses
    from scaling.tasks.skills import joined, passes

    found, model = [], model_of(width)
    for seed in SEEDS[:2] if quick else SEEDS:
        kind, rng = people_of(width, seed), np.random.default_rng(seed)
        everyone = kind.everyone()
        again = passes(everyone, ROWS, seed)

        def batch(
            step: int, again: Callable = again, kind: Biographies = kind, rng: np.random.Generator = rng
        ) -> Labelled:
            junk = ARMS[arm][1]
            return joined([again(step), kind.strangers(rng, junk)]) if junk else again(step)

        params = learned(model, train_of(width, arm, quick, seed), batch)
        modes: tuple[QuantizeMode, ...] = ("float32", "int8", "int4")
        bits = {mode: kind.known_bits(losses(model, quantize(params, model, mode), everyone)) for mode in modes}
        found.append({str(mode): value / counts.params(model) for mode, value in bits.items()})
    return found


def run(work: Workspace) -> Measured:
    found: dict[str, dict[int, list]] = {arm: {} for arm in ARMS}
    flops = 0.0
    for number, arm in enumerate(ARMS):
        for i, width in enumerate(WIDTHS):
            kept = work.keep(f"arm{number}_width{i}", partial(known, width, arm, work.quick))
            found[arm][width] = kept
            flops += len(kept) * counts.train_flops(
                model_of(width), train_of(width, arm, work.quick).tokens, people_of(width).size
            )
            work.say(f"{arm}, width {width}: {kept}")
    full = {width: np.array([one["float32"] for one in seeds]) for width, seeds in found["1000 exposures"].items()}
    effect, interval = least(full.values())
    details = {
        "parameters": {str(width): counts.params(model_of(width)) for width in WIDTHS},
        "people": {str(width): people_of(width).people for width in WIDTHS},
        "bits for a parameter": {arm: {str(k): seeds for k, seeds in one.items()} for arm, one in found.items()},
    }
    return Measured(effect, interval, flops, details)
