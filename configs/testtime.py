"""Test-time compute with power to decide: five policies, four tasks from easy to hard, 21 strategies, equal FLOPs.

    python -m launch.search --config configs/testtime.py --workdir runs/testtime --workers=2

Policies first, then a verifier for each, then the searches: a night by estimate, as it has not been run to its end yet.
Whatever is finished is kept, and `launch.status` says how far it is. configs/testtime_quick.py is a small form.
"""

from configs import testtime_policies
from search.study import SearchSweepConfig, StudyConfig
from search.verifiers.reward_training import RewardTraining

SIZES = {
    "greedy": ("",),
    "beam": ("samples=4,width=2", "samples=16,width=4", "samples=64,width=8"),
    "dvts": ("samples=4,width=2", "samples=16,width=4", "samples=64,width=8"),
    "rebase": ("samples=4", "samples=16", "samples=64"),
    "particle_filter": ("samples=4", "samples=16", "samples=64"),
    "odds_filter": ("samples=4", "samples=16", "samples=64"),
    "twisted_smc": ("samples=4,candidates=2", "samples=16,candidates=2"),
    "particle_gibbs": ("samples=8,iterations=2", "samples=16,iterations=4"),
    "astar": ("branch=2,capacity=16", "branch=4,capacity=32", "branch=8,capacity=64"),
    "mcts": ("simulations=4,actions=2", "simulations=12,actions=3", "simulations=24,actions=4"),
    "metropolis": ("chains=2,steps=4", "chains=4,steps=6", "chains=8,steps=8"),
    "short_m": ("chains=4", "chains=16,m=3", "chains=64,m=9"),
    "early_stopping": ("window=3,most=8", "window=5,most=24", "window=7,most=64"),
    "adaptive_consistency": ("most=8", "most=24", "most=64"),
    "pruning": ("samples=4", "samples=16", "samples=64"),
    "restarts": ("samples=4,threshold=0.8", "samples=16,threshold=0.8", "samples=64,threshold=0.8"),
    "confident_vote": ("samples=8,warm_up=4", "samples=24,warm_up=8", "samples=64,warm_up=16"),
}


def config() -> SearchSweepConfig:
    return SearchSweepConfig(
        name="testtime",
        policies=testtime_policies.config(),
        study=StudyConfig(
            tasks=testtime_policies.TASKS,
            strategies=tuple(f"{name}:{size}".rstrip(":") for name, each in SIZES.items() for size in each),
            problems=500, samples=128, width=16, verifier="outcome", head_problems=1500,
            reward=RewardTraining(steps=2500, batch=128, learning_rate=1e-3, held_out=0.1),
            max_tokens=100, max_steps=18, max_rounds=40, rows=256,
        ),
        budgets=10,
        budget_factor=2.5,
    )  # fmt: skip
