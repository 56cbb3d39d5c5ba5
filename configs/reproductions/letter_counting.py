"""Spelling a word before its letters are counted, for a model that reads letters and one that reads pairs of them.

    python -m launch.reproduce letter_counting --workdir runs/reproductions/letter_counting

Four minutes on one core: models of 0.1M parameters learn to count a letter in words of eight, at once or by spelling.
Trained on the task, they count at once (1.00 of letters, 0.97 of pairs): spelling has little left to lift.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from models import counts
from models.config import ModelConfig
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.tasks.letters import LetterCount
from scaling.train.config import TrainConfig

SEEDS, ROWS, STEPS = (1, 2, 3, 4), 256, 400
ARMS = {
    f"{tokens}, {way}": LetterCount(piece=piece, spelled=way == "spelled")
    for tokens, piece in (("letters", 1), ("pairs", 2)) for way in ("direct", "spelled")
}  # fmt: skip


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="letter_counting",
        methods=(238,),
        claim="Spelling a word out lifts the accuracy of counting its letters whether the tokens are letters or pairs",
        source="Xu & Ma 2024, LLM The Genius Paradox, arXiv:2410.14166",
        smallest_effect=0.1,
        unit="accuracy of spelling less that of a direct answer, of the tokenizer where it gains less",
        minutes=8,
        not_covered="words of a language and merges trained on them; pretrained models asked without training; "
        "equal compute (a spelled word has more labels a step); longer training, after which a direct answer may "
        "catch up",
        simulated=False,
        run=run,
    )


def model_of(kind: LetterCount) -> ModelConfig:
    """Two layers; learned positions, by which a place of the spelling finds its piece."""
    return ModelConfig(kind.vocab_size, d_model=64, n_layers=2, n_heads=4, positions="learned", max_seq_len=32)


def train_of(kind: LetterCount, quick: bool, seed: int = 0) -> TrainConfig:
    return TrainConfig(10 if quick else STEPS, 32, kind.size, seed, 5e-3, optimizer="muon", weight_decay=0.0)


def accuracies(kind: LetterCount, quick: bool) -> list[float]:
    """Share of right counts of unseen words, each seed: the model reads nothing but the question and what it wrote."""
    from scaling.tasks.probe import LATE, probe, written

    found = []
    for seed in SEEDS[:2] if quick else SEEDS:
        model, train = model_of(kind), train_of(kind, quick, seed)
        data = kind.draw(np.random.default_rng(seed + LATE), ROWS)
        said = written(model, probe(model, kind, train), data.tokens, kind.asked_at)
        found.append(float((said[:, -1] == data.labels[:, -1]).mean()))
    return found


def run(work: Workspace) -> Measured:
    found, flops = {}, 0.0
    for i, (name, kind) in enumerate(ARMS.items()):
        found[name] = work.keep(f"arm{i}", partial(accuracies, kind, work.quick))
        work.say(f"{name}: {found[name]}")
        train = train_of(kind, work.quick)
        flops += len(found[name]) * counts.train_flops(model_of(kind), train.tokens, kind.size)
    lift = {
        tokens: np.array(found[f"{tokens}, spelled"]) - found[f"{tokens}, direct"] for tokens in ("letters", "pairs")
    }
    least = min(lift.values(), key=lambda one: float(one.mean()))
    details = {"accuracy": found, "lift": {tokens: list(one) for tokens, one in lift.items()},
               "chance": 1 / (LetterCount().length + 1)}  # fmt: skip
    return Measured(float(least.mean()), t_interval(least), flops, details)
