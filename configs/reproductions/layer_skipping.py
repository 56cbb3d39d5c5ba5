"""A quarter of the layers left out, evenly spaced or next to each other, of models trained whole.

    python -m launch.reproduce layer_skipping --workdir runs/reproductions/layer_skipping
"""

from collections.abc import Sequence

import numpy as np

from models.config import ModelConfig
from models.skipping import evenly_spaced, with_layers
from scaling import arms
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig

MODEL = ModelConfig(d_model=64, n_layers=8, n_heads=4).resolved()
EVEN = evenly_spaced(8, 4 / 3)
CONTIGUOUS = {f"without {i} and {i + 1}": tuple(j for j in range(8) if j not in (i, i + 1)) for i in range(1, 6)}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="layer_skipping", methods=(61,), smallest_effect=0.5, minutes=6,
        claim="without two of 8 layers the loss is lower when they are evenly spaced than when they are neighbours",
        source="Liu et al. 2024, arXiv:2404.06954", unit="per cent of loss that neighbours lie above evenly spaced "
        "layers, mean over all neighbours but the first and last layer", not_covered="training with layers left out; "
        "more than 8 layers of width 64 and 300 steps", simulated=False, run=run, sweeps=planned,
    )  # fmt: skip


def planned(quick: bool) -> Sequence[SweepConfig]:
    train = TrainConfig(steps=20 if quick else 300, batch_size=8, seq_len=64, learning_rate=3e-3)
    return [SweepConfig(name="whole", model=MODEL, train=train, seeds=2 if quick else 5, workers=1)]


def run(work: Workspace) -> Measured:
    (config,) = planned(work.quick)
    flops = arms.train(work, config, {"whole": MODEL}).flops
    losses = work.keep("losses", lambda: measured(work, config))
    even, others = np.array(losses["even"]), np.array([losses[name] for name in CONTIGUOUS])
    excess = 100 * (others.mean(0) / even - 1)
    return Measured(float(excess.mean()), t_interval(excess), flops, {"loss": losses})


def measured(work: Workspace, config: SweepConfig) -> JSON:
    """Held-out loss of every seed's model without some layers."""
    tokens, found = arms.heldout(config, 128), {}
    for name, layers in {"whole": tuple(range(8)), "even": EVEN, **CONTIGUOUS}.items():
        left = [with_layers(MODEL, params, layers) for params in arms.trained(work, config)]
        found[name] = [arms.heldout_loss(*model, tokens) for model in left]
    return found
