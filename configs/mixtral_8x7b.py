r"""A Mixtral 8x7B shape (46.7B parameters, 12.9B of them active) on 256 TPU v6e chips.

    python -m launch.compile --config configs/mixtral_8x7b.py --topology v6e:16x16
    python -m launch.train --config configs/mixtral_8x7b.py --workdir runs/mixtral_8x7b \
        --config.data.path=TEXT --config.data.tokenizer=tokenizer.json

Intended topology: v6e:16x16. The 8 experts of a block lie on 8 chips (slots for 1.25 times their even share of tokens),
everything else is divided over all 256 (ZeRO-3); one sequence of 4,096 tokens on each chip, blocks computed again.
"""

import dataclasses

from models import presets
from models.sharding import MeshConfig
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig


def config() -> Trial:
    return Trial(
        model=dataclasses.replace(presets.MIXTRAL_8X7B, remat="full"),
        train=TrainConfig(
            steps=246_000, batch_size=256, seq_len=4096, learning_rate=3e-4, warmup_steps=2000, weight_decay=0.1,
            log_every=100, checkpoint_every=1000, eval_sequences=256,
        ),
        mesh=MeshConfig(fsdp=32, expert=8),
    )  # fmt: skip
