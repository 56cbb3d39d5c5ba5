r"""Llama 3 8B (8.0B parameters) on 256 TPU v5e chips, 20 tokens for each parameter.

    python -m launch.compile --config configs/llama3_8b.py --topology v5e:16x16
    python -m launch.train --config configs/llama3_8b.py --workdir runs/llama3_8b \
        --config.data.path=TEXT --config.data.tokenizer=tokenizer.json

Intended topology: v5e:16x16. One sequence of 8,192 tokens on each chip; parameters, gradients and optimiser divided
over all 256 (ZeRO-3), blocks computed again in the backward pass.
"""

import dataclasses

from models import presets
from models.sharding import MeshConfig
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig


def config() -> Trial:
    return Trial(
        model=dataclasses.replace(presets.LLAMA3_8B, remat="full"),
        train=TrainConfig(
            steps=76_500, batch_size=256, seq_len=8192, learning_rate=3e-4, warmup_steps=2000, weight_decay=0.1,
            log_every=100, checkpoint_every=1000, eval_sequences=256,
        ),
        mesh=MeshConfig(fsdp=256),
    )  # fmt: skip
