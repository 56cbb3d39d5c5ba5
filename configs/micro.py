"""The micro bench shape (0.2M parameters, GPT-2 style) on the embedded corpus.

    python -m launch.train --config configs/micro.py --workdir runs/micro
"""

from models import presets
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig


def config() -> Trial:
    return Trial(model=presets.MICRO, train=TrainConfig(steps=1000, batch_size=4, seq_len=64, learning_rate=1e-3))
