"""Five policies that span 30 times in parameters, on four tasks whose problems run from easy to hard.

    python -m launch.sweep --config configs/testtime_policies.py --workdir runs/testtime/policies

One ladder for every study of test-time compute (`existing=` of a search sweep; configs/testtime.py trains it where it
is not there). Each policy sees 23 million tokens and keeps six checkpoints on the way, so that a law may also be fitted
over training tokens. A pod needs other widths and steps.
"""

import dataclasses

from configs.search_quickstart import policies
from scaling.sweep.config import SweepConfig

TASKS = (
    "countdown:numbers=3/4,largest=20",
    "modular:operations=2/4/8/16",
    "tag:steps=2/4/8",
    "random_graph:shortest=2/3/4",
)
WIDTHS = (12, 20, 32, 48, 68)


def config() -> SweepConfig:
    sweep = policies(TASKS, WIDTHS, steps=6000, examples=200_000, rate=0.32, batch_size=24, seq_len=160)
    return dataclasses.replace(sweep, train=dataclasses.replace(sweep.train, keep_checkpoints=6))
