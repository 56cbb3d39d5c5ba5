r"""The 1B rung (1.26B parameters) of a ladder of Llama shapes, on 64 TPU7x chips, 20 tokens for each parameter.

    python -m launch.compile --config configs/ladder_1b.py --topology tpu7x:4x4x4
    python -m launch.train --config configs/ladder_1b.py --workdir runs/ladder_1b \
        --config.data.path=TEXT --config.data.tokenizer=tokenizer.json

Intended topology: tpu7x:4x4x4, 64 chips that are two jax devices each. Four sequences of 2,048 tokens on each device,
16 copies of the model divided over 8 devices each; products kept, the rest of a block computed again.
"""

import dataclasses

from models import presets
from models.sharding import MeshConfig
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig


def config() -> Trial:
    return Trial(
        model=dataclasses.replace(presets.LLAMA_1B, remat="dots"),
        train=TrainConfig(
            steps=24_100, batch_size=512, seq_len=2048, learning_rate=1e-3, warmup_steps=1000, weight_decay=0.1,
            schedule="wsd", log_every=100, checkpoint_every=1000,
        ),
        mesh=MeshConfig(data=16, fsdp=8),
    )  # fmt: skip
