"""What two reproductions share: a small policy that moves blocks, with arrangements written after each move or without.

One policy of width 64 learns both forms of scaling/tasks/stacking.py at sizes of 3 to 7 blocks, half of its solutions
each; the first character of a completion says which form follows, and is forced. It takes some two minutes of a core.

An earlier one was discarded: after 400 steps, on fewer small puzzles, one in a hundred of its completions was right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

import pandas as pd

from configs.reproductions._policy import write
from models.presets import ladder
from scaling import kept
from scaling.data import DataConfig, Source
from scaling.reproduction import Workspace
from scaling.sweep.config import SweepConfig
from scaling.tasks import CharTokenizer, Problem, task_by_name
from scaling.tasks.mixed import Mixed
from scaling.tasks.stacking import DIRECT, THINK, Stacking
from scaling.train.config import TrainConfig
from search.engine.sampling import Sampling
from search.policy import Policy, load_policy

SIZES = (3, 4, 5, 6, 7)
TASK = "stacking:blocks=3/4/5/6/7,weights=4/4/2/1/1"
STEPS, CONTEXT, ROOM = 1500, 256, 200
SAMPLES = {"thought": 8, "none": 16}  # of each problem
MARKS = {"thought": THINK, "none": DIRECT}


def plan(quick: bool = False) -> SweepConfig:
    """The sweep that trains it, or one of seconds."""
    return SweepConfig(
        name="stackers",
        model=ladder(64, vocab_size=CharTokenizer.of(task_by_name(TASK)).vocab_size, n_layers=2),
        data=DataConfig(
            mixture=(Source(source="task", path=f"{TASK},examples={1000 if quick else 60_000}"),),
            tokenizer="characters", packing="segments", loss_mask="completion",
        ),
        train=TrainConfig(
            batch_size=8, seq_len=CONTEXT, learning_rate=0.005, schedule="wsd", warmup_steps=20,
            final_learning_rate=0.0, eval_sequences=32, log_every=50, checkpoint_every=1000, optimizer="muon",
            weight_decay=0.0,
        ),
        points=({"train.steps": 5 if quick else STEPS},),
    )  # fmt: skip


def stacker(work: Workspace) -> Policy:
    """The policy."""
    name = "stackers_quick" if work.quick else "stackers"
    trial = work.sweep(plan(work.quick), name, shared=True)["trial"].iloc[0]
    return load_policy(work.shared / "sweeps" / name / "trials" / trial)


def posed(work: Workspace) -> list[Problem]:
    """The held-out problems; of three blocks there are but 30."""
    return task_by_name(TASK).generate(0, 20 if work.quick else 540, "test")


def own(problem: Problem) -> tuple[Stacking, Problem]:
    """The task of a problem's size, and the problem as that task has it."""
    mixed = cast(Mixed, task_by_name(TASK))
    return cast(Stacking, mixed.parts[problem.instance.part]), problem.instance.problem


def go_on(policy: Policy, prompts: Sequence[str], samples: int, seed: int = 0) -> list[list[tuple[str, int]]]:
    """(text, tokens) of every sample of every prompt, to which the mark of a form, or more, was added."""
    rows = write(policy, prompts, samples, Sampling(), ROOM, CONTEXT, seed)
    return [[(text, tokens) for text, tokens, _ in row] for row in rows]


def written(work: Workspace) -> pd.DataFrame:
    """What the policy writes in both forms, drawn by whichever reproduction comes first: form, problem, level, sample,
    text, correct, answer, generated_tokens."""
    file = work.shared / "stacks" / f"written{'_quick' * work.quick}.json"
    policy, problems, task = stacker(work), posed(work), task_by_name(TASK)
    if not file.exists():
        drawn = {}
        for form, samples in SAMPLES.items():
            work.say(f"the policy solves {len(problems)} problems {samples} times, form: {form}")
            drawn[form] = go_on(policy, [p.prompt + MARKS[form] for p in problems], samples)
        kept.write_atomically(file, json.dumps(kept.sealed({"rows": drawn})))
    rows = kept.opened(kept.read(file, {"rows": dict}), file)["rows"]
    return pd.DataFrame([
        dict(form=form, problem=i, level=int(task.level(problem)), sample=j, text=MARKS[form] + text,
             correct=float(task.verify(problem, MARKS[form] + text)), answer=task.answer(MARKS[form] + text),
             generated_tokens=tokens)
        for form, mark in MARKS.items() for i, problem in enumerate(problems)
        for j, (text, tokens) in enumerate(rows[form][i])
    ])  # fmt: skip
