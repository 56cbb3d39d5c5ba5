r"""The 350M rung (349M parameters) of a ladder of Llama shapes, on 16 TPU v5e chips, 20 tokens for each parameter.

    python -m launch.compile --config configs/ladder_350m.py --topology v5e:4x4
    python -m launch.train --config configs/ladder_350m.py --workdir runs/ladder_350m \
        --config.data.path=TEXT --config.data.tokenizer=tokenizer.json

Intended topology: v5e:4x4; or one H200 (--config.mesh.data=1 --config.train.accumulate=4), which is not compiled away
from it. Sixteen sequences of 2,048 tokens on each chip, 16 copies of the model that share the optimiser's state.
"""

import dataclasses

from models import presets
from models.sharding import MeshConfig
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig


def config() -> Trial:
    return Trial(
        model=dataclasses.replace(presets.LLAMA_350M, remat="full"),
        train=TrainConfig(
            steps=13_300, batch_size=256, seq_len=2048, learning_rate=2e-3, warmup_steps=500, weight_decay=0.1,
            schedule="wsd", log_every=100, checkpoint_every=1000,
        ),
        mesh=MeshConfig(data=16),
    )  # fmt: skip
