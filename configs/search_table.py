"""The results table of the docs: four policies, four tasks, twelve strategies, six budgets or more, at equal FLOPs.

python -m launch.search --config configs/search_table.py --workdir runs/search_table
"""

from configs.search_quickstart import policies
from search.study import SearchSweepConfig, StudyConfig

TASKS = ("countdown:numbers=3,largest=20", "countdown:numbers=4,largest=20", "modular:operations=8", "tag:steps=4")


def config() -> SearchSweepConfig:
    sizes = {
        "beam": ("samples=4,width=2", "samples=16,width=4", "samples=64,width=4"),
        "dvts": ("samples=4,width=2", "samples=64,width=4"),
        "rebase": ("samples=4", "samples=64"),
        "particle_filter": ("samples=4", "samples=16", "samples=64"),
        "particle_gibbs": ("samples=8,iterations=2",),
        "twisted_smc": ("samples=4,candidates=2", "samples=16,candidates=2"),
        "astar": ("branch=2,capacity=16", "branch=8,capacity=64"),
        "mcts": ("simulations=4,actions=2", "simulations=24,actions=4"),
        "metropolis": ("chains=2,steps=4", "chains=8,steps=8"),
    }
    return SearchSweepConfig(
        name="search_table",
        policies=policies(TASKS, (24, 40, 64, 104), steps=3000, examples=100_000, rate=0.32),
        study=StudyConfig(
            tasks=TASKS,
            strategies=tuple(f"{name}:{size}" for name, each in sizes.items() for size in each),
            problems=60, samples=128, width=64, max_tokens=52, max_steps=12, max_rounds=40, rows=256,
        ),
        budgets=10,  # so that the largest policy, 18 times as dear as the smallest, has six
        budget_factor=2.5,
    )  # fmt: skip
