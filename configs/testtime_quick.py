"""configs/testtime.py with two policies, two tasks, fewer problems and sizes.

    python -m launch.search --config configs/testtime_quick.py --workdir runs/testtime_quick
"""

import dataclasses

from configs import testtime
from configs.search_quickstart import policies
from configs.testtime_policies import TASKS
from search.study import SearchSweepConfig
from search.verifiers.reward_training import RewardTraining

STRATEGIES = ("beam", "rebase", "particle_filter", "astar", "mcts")


def config() -> SearchSweepConfig:
    whole = testtime.config()
    ladder = policies(TASKS[:2], (20, 48), steps=2000, examples=60_000, rate=0.32, batch_size=16, seq_len=128)
    study = dataclasses.replace(
        whole.study, tasks=TASKS[:2], problems=100, samples=64, width=8, head_problems=128,
        strategies=tuple(f"{name}:{size}" for name in STRATEGIES for size in testtime.SIZES[name][:2]),
        reward=RewardTraining(steps=300, held_out=0.1),
    )  # fmt: skip
    return dataclasses.replace(whole, name="testtime_quick", policies=ladder, study=study, budgets=8)
