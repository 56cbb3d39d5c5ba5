"""Policies of three sizes that read solved sums of two two-digit numbers: what configs/posttrain.py starts from.

    python -m launch.sweep --config configs/sums.py --workdir runs/sums

Half a minute on one core.
"""

from models.config import ModelConfig
from scaling.data import DataConfig
from scaling.sweep.config import SweepConfig
from scaling.tasks import CharTokenizer, task_by_name
from scaling.train.config import TrainConfig
from scaling.train.objectives import Completions

TASK = "arithmetic:operation=add"


def config() -> SweepConfig:
    return SweepConfig(
        name="sums",
        model=ModelConfig(
            vocab_size=CharTokenizer.of(task_by_name(TASK)).vocab_size, d_model=24, n_layers=2, n_heads=4
        ),
        data=DataConfig(
            source="task", path=f"{TASK},examples=1500", tokenizer="characters", packing="documents",
            loss_mask="completion",
        ),
        train=TrainConfig(
            steps=400, batch_size=64, seq_len=10, learning_rate=3e-3, weight_decay=0.0, eval_sequences=64,
            objective=Completions(),
        ),
        points=tuple({"model.d_model": width} for width in (24, 40, 64)),
        stack_size=1,
    )  # fmt: skip
