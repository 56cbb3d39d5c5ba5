"""GRPO on sums of two two-digit numbers, from a policy that has read solved ones.

    python -m launch.sweep --config configs/sums.py --workdir runs/sums
    python -m launch.posttrain --config configs/posttrain.py --policies runs/sums --workdir runs/practised

Half a minute of one core for three policies; what it gave: docs/posttraining.md.
"""

from scaling.train.config import TrainConfig
from scaling.train.objectives import PolicyGradient
from search.posttrain import MeasureConfig, PostTrainConfig, RolloutConfig


def config() -> PostTrainConfig:
    return PostTrainConfig(
        name="sums",
        task="arithmetic:operation=add",
        train=TrainConfig(
            steps=60, batch_size=64, seq_len=10, learning_rate=1e-3, schedule="constant", warmup_steps=5,
            weight_decay=0.0, objective=PolicyGradient(group=8), log_every=20, checkpoint_every=40,
        ),
        rollouts=RolloutConfig(problems=3000),
        measure=MeasureConfig(problems=300, samples=16),
    )  # fmt: skip
