"""An isoFLOP sweep that predicts a run of 30x its largest compute: minutes on one GPU, a night on a CPU.

    python -m launch.sweep --config configs/isoflop_gpu.py --workdir runs/isoflop_gpu

One shape family of depth 6, widths 64 to 512, sequences of 256 bytes in batches of 16,384 tokens, trials of one shape
vmapped into one program. Not measured on a GPU yet: the budgets are those of the quickstart's plan, scaled by 3,000.
"""

import dataclasses

from models.presets import ladder
from scaling.sweep.config import Prediction, SweepConfig
from scaling.sweep.isoflop import Isoflop
from scaling.train.config import TrainConfig


def config() -> SweepConfig:
    model = dataclasses.replace(ladder(64, n_layers=6, n_heads=4), dtype="bfloat16")
    return SweepConfig(
        name="isoflop_gpu",
        model=model,
        train=TrainConfig(
            batch_size=64, seq_len=256, learning_rate=6e-3, final_learning_rate=0.0, eval_sequences=4096,
            log_every=100, checkpoint_every=1000,
        ),
        isoflop=Isoflop(
            budgets=(2.5e14, 5e14, 1e15, 2e15), widths=(96, 128, 192, 256, 320, 384, 512),
            min_ratio=4, max_ratio=320, min_steps=600, learning_rate_exponent=0.9,
        ),
        prediction=Prediction(factor=30.0, widths=(512, 640, 768, 896, 1024)),
    )  # fmt: skip
