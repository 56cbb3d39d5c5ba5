r"""Llama 3 70B (70.6B parameters) on 512 TPU v5p chips, 20 tokens for each parameter.

    python -m launch.compile --config configs/llama3_70b.py --topology v5p:8x8x8
    python -m launch.train --config configs/llama3_70b.py --workdir runs/llama3_70b \
        --config.data.path=TEXT --config.data.tokenizer=tokenizer.json

Intended topology: v5p:8x8x8. One sequence of 8,192 tokens on each chip; parameters divided over 64 (ZeRO-3), gradients
and optimiser over all 512, blocks computed again in the backward pass. With parameters divided over all 512, a chip's
16 of 8,192 features do not fill a tile, and the compiler gathers weights with all-reduces, at twice the bytes.
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
        mesh=MeshConfig(data=8, fsdp=64),
    )  # fmt: skip
