"""What several reproductions share: a small and a larger policy on chains of arithmetic, from easy to hard ones.

Both read as many tokens of chains of 2 to 12 operations modulo 7 (scaling/tasks/modular.py); the larger is three times
as wide, and nine times as dear a token.
"""

from __future__ import annotations

from collections.abc import Sequence

from configs.reproductions._policy import write
from models.presets import ladder
from scaling.data import DataConfig, Source
from scaling.reproduction import Workspace
from scaling.sweep.config import SweepConfig
from scaling.tasks import CharTokenizer, Problem, task_by_name
from scaling.train.config import TrainConfig
from search.engine.sampling import Sampling
from search.ledger import Prices
from search.policy import Policy, load_policy

TASK = "modular:operations=2/4/8/12"
WIDTHS = {"small": 32, "large": 96}
SHORTEST = 2
STEPS, CONTEXT, ROOM = 400, 128, 90


def plan(quick: bool = False) -> SweepConfig:
    """The sweep that trains them, or one of seconds."""
    return SweepConfig(
        name="reckoners",
        model=ladder(WIDTHS["small"], vocab_size=CharTokenizer.of(task_by_name(TASK)).vocab_size, n_layers=2),
        data=DataConfig(
            mixture=(Source(source="task", path=f"{TASK},examples={1000 if quick else 16_000}"),),
            tokenizer="characters", packing="segments", loss_mask="completion",
        ),
        train=TrainConfig(
            batch_size=16, seq_len=CONTEXT, learning_rate=0.005, schedule="wsd", warmup_steps=20,
            final_learning_rate=0.0, eval_sequences=32, log_every=50, checkpoint_every=1000, optimizer="muon",
            weight_decay=0.0,
        ),
        points=tuple({"model.d_model": width, "train.steps": 5 if quick else STEPS} for width in WIDTHS.values()),
        workers=1,
    )  # fmt: skip


def reckoners(work: Workspace) -> dict[str, Policy]:
    """Each policy by its name."""
    name = "reckoners_quick" if work.quick else "reckoners"
    table = work.sweep(plan(work.quick), name, shared=True).sort_values("d_model")
    folders = (work.shared / "sweeps" / name / "trials" / trial for trial in table["trial"])
    return {name: load_policy(folder) for name, folder in zip(WIDTHS, folders, strict=True)}


def posed(work: Workspace) -> list[Problem]:
    """The held-out problems, without the shortest chains: few of these differ, and the larger policy, which read too
    few, ends a quarter of them only."""
    task = task_by_name(TASK)
    return [p for p in task.generate(0, 32 if work.quick else 720, "test") if task.level(p) > SHORTEST]


def said(policy: Policy, prompts: Sequence[str], samples: int, temperature: float = 1.0) -> list[list[tuple]]:
    """(text, tokens, mean probability of a token) of every sample of every prompt."""
    return write(policy, prompts, samples, Sampling(temperature), ROOM, CONTEXT)


def flops(policy: Policy, prompt: str, tokens: Sequence[int]) -> int:
    """Of reading a prompt once and writing samples of so many tokens each."""
    prices, read = Prices(policy.model, CONTEXT), len(policy.tokenizer.encode(prompt))
    return prices.prefill(0, read, 1) + sum(prices.decode(read + 1, n - 1) for n in tokens if n > 1)
