"""What several reproductions share: a ladder of small byte models of one text (python -m launch.reproduce --list)."""

from models.presets import ladder as rung
from scaling.data import DataConfig
from scaling.sweep.combinators import grid, product, seeds
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig

WIDTHS = (8, 12, 16, 24, 32)


def ladder(quick: bool = False) -> SweepConfig:
    """Equal tokens, sizes that differ in width alone, two seeds of each."""
    widths, repeats, steps = (WIDTHS[:2], 1, 30) if quick else (WIDTHS, 2, 1500)
    points = [{**at, "train.learning_rate": 0.4 / at["model.d_model"]} for at in grid({"model.d_model": list(widths)})]
    return SweepConfig(
        name="text_ladder",
        model=rung(8, n_layers=2),
        data=DataConfig(),
        train=TrainConfig(
            steps=steps, batch_size=16, seq_len=64, final_learning_rate=0.0, eval_sequences=256, log_every=500,
        ),
        points=tuple(product(points, seeds(repeats))),
        stack_size=2,
    )  # fmt: skip
