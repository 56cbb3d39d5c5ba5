"""A small model writes the program of a row of bytes: fewer bits than deflate on rows of programs, not on text.

    python -m launch.reproduce shortest_programs --workdir runs/reproductions/shortest_programs
"""

from __future__ import annotations

from functools import partial

import numpy as np

from models import counts
from models.config import ModelConfig
from scaling.data import DataConfig
from scaling.reproduction import Measured, Reproduction, Workspace, least
from scaling.tasks.shortest import ShortestProgram, deflated_bits
from scaling.train.config import TrainConfig

SEEDS, ROWS, STEPS = (1, 2, 3, 4, 5, 6), 400, 2000
KIND = ShortestProgram(48)
MODEL = ModelConfig(KIND.vocab_size, d_model=32, n_layers=2, n_heads=4)


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="shortest_programs",
        methods=(241,),
        claim="A small model trained on programs and what they write compresses such rows better than deflate, and "
        "bytes of the world worse",
        source="Yoran et al. 2025, The KoLMogorov Test, arXiv:2503.13992",
        smallest_effect=0.02,
        unit="share of deflate's bits, saved on synthetic rows or lost on source code, the lesser of the two",
        minutes=4,
        not_covered="models that write Python; audio and DNA; rows longer than 48 bytes; a language that has something "
        "to say of text: a row whose program fails costs its bytes and one bit. Raw deflate is the opponent, since the "
        "header and the sum of gzip are 18 bytes, which would decide alone. A trial of three seeds at half of the "
        "rate and these with three seeds could not tell: from seed to seed 60 to 88 % of the programs are right",
        simulated=False,
        run=run,
    )


def train_of(quick: bool, seed: int = 0) -> TrainConfig:
    return TrainConfig(10 if quick else STEPS, 32, KIND.size, seed, 2e-2, optimizer="muon", weight_decay=0.0)


def source_code(rows: int) -> np.ndarray:
    """Windows of the held-out embedded text, `[rows, length]`, apart from each other."""
    from scaling.data import prepare

    tokens = np.asarray(prepare(DataConfig()).heldout_batches(KIND.length, 16).tokens)[..., :-1]
    windows = tokens.reshape(-1, KIND.length).astype(np.int64)
    return windows[np.random.default_rng(0).permutation(len(windows))[:rows]]


def compressed(seed: int, quick: bool) -> dict:
    """By the model of a seed, on rows of its own: mean bits of a row, of synthetic rows and of source code."""
    from scaling.tasks.probe import LATE, probe, written

    rows = 50 if quick else ROWS
    text = source_code(rows * len(SEEDS))[rows * SEEDS.index(seed) :][:rows]
    params, one = probe(MODEL, KIND, train_of(quick, seed)), {}
    for name, bytes_ in (("synthetic", KIND.rows(np.random.default_rng(seed + LATE), rows)), ("text", text)):
        programs = written(MODEL, params, KIND.sequences(bytes_).tokens, KIND.length)
        bits = np.array([KIND.bits(program, row) for program, row in zip(programs, bytes_, strict=True)])
        fewest = KIND.shortest(bytes_)[1] + 1
        one[name] = {
            "model": float(bits.mean()), "deflate": float(np.mean([deflated_bits(row) for row in bytes_])),
            "shortest program": float(np.minimum(fewest, KIND.literal_bits).mean()),
            "right": float((bits < KIND.literal_bits).mean()), "shortest": float(np.isclose(bits, fewest).mean()),
        }  # fmt: skip
    return one


def run(work: Workspace) -> Measured:
    seeds = SEEDS[:2] if work.quick else SEEDS
    found = [work.keep(f"seed{seed}", partial(compressed, seed, work.quick)) for seed in seeds]
    work.say(str(found[0]))
    saved = {name: np.array([1 - one[name]["model"] / one[name]["deflate"] for one in found]) for name in found[0]}
    effect, interval = least([saved["synthetic"], -saved["text"]])
    flops = len(found) * counts.train_flops(MODEL, train_of(work.quick).tokens, KIND.size)
    details = {"bits of a row, each seed": found, "saved": {name: values.tolist() for name, values in saved.items()}}
    return Measured(effect, interval, flops, details)
