"""The quickstart: an isoFLOP sweep on the embedded corpus, a fit, and a run of 8x the compute foretold before it starts.

    python -m launch.quickstart --workdir runs/quickstart

Needs two CPU cores and pip, nothing else.
"""

from models.presets import ladder
from scaling.sweep.config import Prediction, SweepConfig
from scaling.sweep.isoflop import Isoflop
from scaling.train.config import TrainConfig


def config() -> SweepConfig:
    return SweepConfig(
        name="quickstart",
        model=ladder(16),
        # 512-token batches give the small models enough steps. The peak learning rate falls almost as 1 / width: with
        # the square root of it, width 64 ended 4 % higher, and the law bent with it.
        train=TrainConfig(
            batch_size=8, seq_len=64, learning_rate=0.016, final_learning_rate=0.0, eval_sequences=4096,
            log_every=200, checkpoint_every=2000,
        ),
        # Fewer than 600 steps or 4 tokens per parameter leave the range where the law holds.
        isoflop=Isoflop(
            budgets=(7.5e10, 1.5e11, 3e11, 6e11), widths=(16, 20, 24, 32, 40, 48, 64),
            min_ratio=4, max_ratio=320, min_steps=600, learning_rate_exponent=0.9,
        ),
        prediction=Prediction(factor=8.0, widths=(40, 48, 56, 64, 72, 80, 96)),
    )  # fmt: skip
