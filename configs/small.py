"""The small bench shape (10.7M parameters, GPT-2 style) on the embedded corpus.

    python -m launch.train --config configs/small.py --workdir runs/small
"""

from models import presets
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig


def config() -> Trial:
    return Trial(model=presets.SMALL, train=TrainConfig(steps=1000, batch_size=4, seq_len=256, learning_rate=1e-3))
