"""Test-time compute in ten minutes on a CPU: two small policies, two tasks, seven strategies, at equal FLOPs.

python -m launch.quickstart --part search
"""

from models.presets import ladder
from scaling.data import DataConfig, Source
from scaling.sweep.config import SweepConfig
from scaling.tasks import CharTokenizer, task_by_name
from scaling.train.config import TrainConfig
from search.study import SearchSweepConfig, StudyConfig

TASKS = ("countdown:numbers=3,largest=20", "modular:operations=5")


def policies(
    tasks: tuple[str, ...],
    widths: tuple[int, ...],
    steps: int,
    examples: int = 50_000,
    rate: float = 0.64,
    batch_size: int = 16,
    seq_len: int = 128,
) -> SweepConfig:
    """A ladder of policies, all trained on all of the tasks with a loss on the completions alone, at learning rates of
    `rate` / width."""
    sources = tuple(
        Source(source="task", path=f"{task}{',' if ':' in task else ':'}examples={examples}") for task in tasks
    )
    return SweepConfig(
        name="policies",
        model=ladder(widths[0], vocab_size=CharTokenizer.of(*map(task_by_name, tasks)).vocab_size),
        data=DataConfig(mixture=sources, tokenizer="characters", packing="segments", loss_mask="completion"),
        train=TrainConfig(
            steps=steps, batch_size=batch_size, seq_len=seq_len, learning_rate=0.02, final_learning_rate=0.0,
            eval_sequences=256, log_every=100, checkpoint_every=1000,
        ),
        points=tuple({"model.d_model": width, "train.learning_rate": rate / width} for width in widths),
        stack_size=1,
    )  # fmt: skip


def config() -> SearchSweepConfig:
    return SearchSweepConfig(
        name="search_quickstart",
        policies=policies(TASKS, (32, 96), steps=1500),
        study=StudyConfig(
            tasks=TASKS,
            strategies=(
                "beam:samples=4,width=2", "beam:samples=16,width=4", "dvts:samples=16,width=4", "rebase:samples=16",
                "particle_filter:samples=16", "astar:branch=4,capacity=32", "mcts:simulations=8,actions=4",
            ),
            problems=100, samples=64, width=8, max_tokens=40, max_steps=10, max_rounds=24, rows=256,
            head_problems=64,
        ),
    )  # fmt: skip
