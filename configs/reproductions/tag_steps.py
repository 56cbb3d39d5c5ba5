"""A small policy runs tag systems ever less rightly the more steps and the more letters they have.

python -m launch.reproduce tag_steps --workdir runs/reproductions/tag_steps
"""

from functools import partial
from typing import cast

import numpy as np

from configs.reproductions._policy import write
from models.presets import ladder
from scaling.data import DataConfig, Source
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.sweep.config import SweepConfig
from scaling.tasks import CharTokenizer, task_by_name
from scaling.tasks.mixed import Mixed
from scaling.tasks.tag import Tag
from scaling.train.config import TrainConfig
from search.engine.sampling import Sampling
from search.policy import load_policy

STEPS, LETTERS = 8, (2, 3, 4, 5)
TASK = f"tag:letters={'/'.join(map(str, LETTERS))},steps={STEPS}"
FIRST, SAMPLES = 2, 4


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="tag_steps",
        methods=(213,),
        claim="The share of tag systems that a trained policy runs rightly falls with the number of steps and with "
        "that of letters",
        source="Wu et al. 2025, Turing machine evaluation for large language models, arXiv:2504.20771",
        smallest_effect=0.05,
        unit="share of completions that are right, the lesser of: to step 2 less to step 8, of systems that do not "
        "halt before; to step 8 with 2 letters less with 5",
        minutes=15,
        not_covered="language models and Turing machines with a head: one policy, tag systems only. An earlier policy, "
        "of a fifth of the training, was at a floor to step 8, whatever the letters: this one was trained for longer "
        "after that look, and nothing else was changed",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def plan(quick: bool = False) -> SweepConfig:
    """One policy of width 64, or one of seconds."""
    return SweepConfig(
        name="taggers",
        model=ladder(64, vocab_size=CharTokenizer.of(task_by_name(TASK)).vocab_size, n_layers=2),
        data=DataConfig(
            mixture=(Source(source="task", path=f"{TASK},examples={1000 if quick else 130_000}"),),
            tokenizer="characters", packing="segments", loss_mask="completion",
        ),
        train=TrainConfig(
            batch_size=16, seq_len=128, learning_rate=0.005, schedule="wsd", warmup_steps=20,
            final_learning_rate=0.0, eval_sequences=32, log_every=50, checkpoint_every=1000, optimizer="muon",
            weight_decay=0.0,
        ),
        points=({"train.steps": 5 if quick else 4000},),
    )  # fmt: skip


def prefixes(work: Workspace) -> list[list[float]]:
    """Of every system that runs through all steps: its letters, and the share of samples right to each step."""
    trial = work.sweep(plan(work.quick), "taggers")["trial"].iloc[0]
    policy, mixed = load_policy(work.folder / "sweeps" / "taggers" / "trials" / trial), cast(Mixed, task_by_name(TASK))
    problems = []
    for problem in mixed.generate(0, 60 if work.quick else 1000, "test"):
        part, own = cast(Tag, mixed.parts[problem.instance.part]), problem.instance.problem
        if len(part.right_steps(own)) == STEPS:  # a system that halts has a short solution, which is easier
            problems.append((part, own, problem.prompt))
    work.say(f"{len(problems)} systems, each {SAMPLES} times")
    said = write(policy, [prompt for _, _, prompt in problems], SAMPLES, Sampling(), 90)
    rows = []
    for (part, own, _), row in zip(problems, said, strict=True):
        right = np.array([round(STEPS * part.right_share(own, text)) for text, _, _ in row])
        rows.append([float(part.letters), *(float((right >= step).mean()) for step in range(1, STEPS + 1))])
    return rows


def run(work: Workspace) -> Measured:
    rows = np.array(work.keep("prefixes", partial(prefixes, work)))

    def to(rows: np.ndarray, step: int, letters: int | None = None) -> float:
        those = rows[rows[:, 0] == letters] if letters else rows
        return float(those[:, step].mean()) if len(those) else 0.0

    def parts(rows: np.ndarray) -> list[float]:
        few, many = (to(rows, STEPS, letters) for letters in (LETTERS[0], LETTERS[-1]))
        return [to(rows, FIRST) - to(rows, STEPS), few - many]

    def effect(rows: np.ndarray) -> float:
        return min(parts(rows))

    steps = list(range(1, STEPS + 1))
    lines = {f"{n} letters": {"x": steps, "y": [to(rows, step, n) for step in steps]} for n in LETTERS}
    once = {n: np.array(line["y"]) for n, line in lines.items()}
    details = {
        "curves": [{"x": "steps", "y": "share right to this step", "log": "", "lines": lines}],
        "parts of the effect": parts(rows),
        "intervals of the parts": [bootstrap_interval(rows, lambda r, i=i: parts(r)[i], resamples=500) for i in (0, 1)],
        "share right, mean over steps": {n: [float(rows[rows[:, 0] == int(n[0]), 1:].mean()),
                                             *bootstrap_interval(rows[rows[:, 0] == int(n[0]), 1:].mean(1))]
                                         for n in lines if (rows[:, 0] == int(n[0])).any()},
        "systems, by letters": {str(n): int((rows[:, 0] == n).sum()) for n in LETTERS},
        "share right at a step of those right so far": {
            n: (y / np.maximum(np.concatenate([[1.0], y[:-1]]), 1e-9)).tolist() for n, y in once.items()},
    }  # fmt: skip
    flops = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(effect(rows), bootstrap_interval(rows, effect), float(flops), details)
