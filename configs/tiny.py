"""The tiny bench shape (0.8M parameters, GPT-2 style) on the embedded corpus.

    python -m launch.train --config configs/tiny.py --workdir runs/tiny
"""

from models import presets
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig


def config() -> Trial:
    return Trial(model=presets.TINY, train=TrainConfig(steps=1000, batch_size=16, seq_len=256, learning_rate=1e-3))
