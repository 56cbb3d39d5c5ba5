r"""Llama 3 70B (70.6B parameters) on 512 TPU v5p chips, 20 tokens for each parameter.

    python -m launch.compile --config configs/llama3_70b.py --topology v5p:8x8x8
    python -m launch.train --config configs/llama3_70b.py --workdir runs/llama3_70b \
        --config.data.path=TEXT --config.data.tokenizer=tokenizer.json

Intended topology: v5p:8x8x8. One sequence of 8,192 tokens on each chip; parameters, gradients and optimiser divided
over all 512 (ZeRO-3), blocks computed again in the backward pass.
"""

import dataclasses

from models import presets
from models.sharding import MeshConfig
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig


def config() -> Trial:
    return Trial(
        model=dataclasses.replace(presets.LLAMA3_70B, remat="full"),
        train=TrainConfig(
            steps=336_000, batch_size=512, seq_len=8192, learning_rate=1.5e-4, warmup_steps=2000, weight_decay=0.1,
            log_every=100, checkpoint_every=500, eval_sequences=512,
        ),
        mesh=MeshConfig(fsdp=512),
    )  # fmt: skip
