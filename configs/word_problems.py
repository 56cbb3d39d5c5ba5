"""A small policy for made-up word problems: 0.2M parameters, two minutes on two cores of a CPU.

    python -m launch.problems --count 20000 --split train --solutions --out runs/words/train.jsonl
    python -m launch.train --config configs/word_problems.py --workdir runs/words/policy
"""

import dataclasses

from models.presets import ladder
from scaling.data import DataConfig
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig


def config() -> Trial:
    data = DataConfig(
        source="jsonl", path="runs/words/train.jsonl", field="solution", prompt_field="prompt", tokenizer="bpe",
        vocab_size=320, loss_mask="completion",
    )  # fmt: skip
    train = TrainConfig(steps=500, batch_size=32, seq_len=96, learning_rate=6e-3)
    return Trial(model=dataclasses.replace(ladder(64), vocab_size=320), data=data, train=train)
