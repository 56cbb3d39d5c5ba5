"""The quickstart: an isoFLOP sweep on the embedded corpus, a fit, and a run of 8x the compute, predicted.

    python -m launch.quickstart --workdir runs/quickstart
"""

from models.presets import ladder
from scaling.sweep.config import Prediction, SweepConfig
from scaling.sweep.isoflop import Isoflop
from scaling.train.config import TrainConfig


def config() -> SweepConfig:
    return SweepConfig(
        name="quickstart",
        model=ladder(16),
        train=TrainConfig(
            batch_size=8, seq_len=64, learning_rate=0.024, final_learning_rate=0.0, eval_sequences=4096,
            log_every=200, checkpoint_every=2000,
        ),
        isoflop=Isoflop(
            budgets=(1.25e11, 2.5e11, 5e11, 1e12), widths=(20, 24, 28, 32, 36, 40, 48, 56),
            min_ratio=8, max_ratio=320, min_steps=800, learning_rate_exponent=0.9,
        ),
        # Chinchilla's sum of two powers predicted 8x three per cent too high; the general law nests it. Runs of one
        # cell differ by 0.3 % between seeds, far above Huber's 1e-3, so least squares wastes less of them.
        prediction=Prediction(factor=8.0, widths=(48, 56, 64, 72, 80, 96), law="general", objective="gaussian"),
    )  # fmt: skip
