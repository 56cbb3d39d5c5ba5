"""Plans for three budgets, made of measured laws of loss and of attempts, are carried out: is accuracy as foretold?

    python -m launch.reproduce planned_budgets --workdir runs/reproductions/planned_budgets

A ladder of policies of several sizes and lengths gives both laws. The plans, which say how large a policy, how long it
is trained and how many attempts a problem is given, are written down before their policies are trained.

A first form had votes on chains modulo 5, which a policy of this size suddenly learns: intervals from .2 to 1 held, and
told nothing. A second and a third, of one seed and of three of twelve settings from width 16 on, did not determine a
law of loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

import scaling
from configs.reproductions._policy import write
from models import counts
from models.config import ModelConfig
from models.presets import ladder
from scaling.data import DataConfig, Source
from scaling.laws.coverage import pass_at_k
from scaling.registered import of_run
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.sweep.config import SweepConfig, Value
from scaling.tasks import CharTokenizer, task_by_name
from scaling.train.config import TrainConfig
from search.engine.sampling import Sampling
from search.frontier import JointPlan, Option, joint_plan
from search.policy import load_policy

TASK = "countdown:numbers=3,largest=20"
WIDTHS, STEPS, SEEDS = (16, 24, 32, 8, 12), (600, 1200, 2400, 4800), 3
BATCH, SEQ, RATE = 16, 64, 0.32
EXAMPLES, PROBLEMS, SAMPLES, ROOM, LEVEL = 60_000, 500, 32, 48, 0.9
KS = (1, 2, 4, 8, 16, 32)
# FLOPs in all, and problems that will be answered: so few that training takes most, as many, so many that serving does
BUDGETS = {"training-heavy": (8e11, 100), "balanced": (8e11, 7_000), "inference-heavy": (8e11, 60_000)}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="planned_budgets",
        methods=(),
        claim="Policies trained and asked as a plan for a whole budget says answer as often right as it foretold: "
        "training-heavy, balanced and inference-heavy",
        source="Snell et al. 2024, arXiv:2408.03314, and Sardana et al. 2023, arXiv:2401.00448, joined",
        smallest_effect=0.0,
        unit="the least over three plans of: 1 less the error over half of the 90 % interval",
        minutes=15,
        not_covered="language; verifiers that cost or err: an attempt is checked by the sum that it writes; "
        "policies above 40 thousand parameters; sizes between the ladder's "
        "widths: a plan's size is rounded to the nearest, and trained on as many FLOPs. One policy of each plan. "
        "Earlier forms did not decide: votes on chains, and fewer seeds and widths, which determined no law of loss",
        simulated=False,
        run=run,
        sweeps=lambda quick: (sweep(quick),),
    )


def model_of(width: int) -> ModelConfig:
    return ladder(width, vocab_size=CharTokenizer.of(task_by_name(TASK)).vocab_size)


def _sweep(name: str, points: tuple[tuple[int, int], ...], seeds: int = 1) -> SweepConfig:
    """Policies of (width, steps)."""
    settings: tuple[dict[str, Value], ...] = tuple(
        {"model.d_model": width, "train.steps": steps, "train.learning_rate": RATE / width} for width, steps in points
    )
    return SweepConfig(
        name=name,
        model=model_of(WIDTHS[0]),
        data=DataConfig(
            mixture=(Source(source="task", path=f"{TASK},examples={EXAMPLES}"),), tokenizer="characters",
            packing="segments", loss_mask="completion",
        ),
        train=TrainConfig(batch_size=BATCH, seq_len=SEQ, final_learning_rate=0.0, eval_sequences=256, log_every=100),
        points=settings,
        seeds=seeds,
        stack_size=1,
    )  # fmt: skip


def sweep(quick: bool) -> SweepConfig:
    steps = [n // 20 for n in STEPS[:3]] if quick else STEPS
    points = tuple((w, n) for w in WIDTHS for n in steps)
    return _sweep("planned_quick" if quick else "planned", points, 1 if quick else SEEDS)


def asked(work: Workspace, name: str, table: pd.DataFrame) -> dict[str, Any]:
    """What every policy of a sweep solves: every problem [problems, KS], an expectation, and tokens of an attempt."""
    task = task_by_name(TASK)
    problems = task.generate(0, 40 if work.quick else PROBLEMS, "test")
    found: dict[str, Any] = {}
    for trial in table["trial"]:
        work.say(f"policy {trial} answers {len(problems)} problems {SAMPLES} times")
        policy = load_policy(work.folder / "sweeps" / name / "trials" / trial)
        rows = write(policy, [p.prompt for p in problems], SAMPLES, Sampling(), ROOM)
        right = [[float(task.verify(p, text)) for text, _, _ in row] for p, row in zip(problems, rows, strict=True)]
        solved = pass_at_k(SAMPLES, np.sum(right, axis=1)[:, None], np.array(KS))
        tokens = float(np.mean([[n for _, n, _ in row] for row in rows]))
        found[trial] = {"solved": solved.tolist(), "tokens": tokens}
    return found


def plans(table: pd.DataFrame, solved: dict[str, Any]) -> dict[str, JointPlan]:
    """What the laws of the ladder say of every budget."""
    rows = [
        {"loss": loss, "samples": k, "accuracy": float(share)}
        for trial, loss in zip(table["trial"], table["loss"], strict=True)
        for k, share in zip(KS, np.mean(solved[trial]["solved"], axis=0), strict=True)
        if share > 0
    ]
    tokens = float(np.mean([one["tokens"] for one in solved.values()]))
    training = scaling.fit("chinchilla", table[["params", "tokens", "loss"]].astype(float))
    option = Option("verified", scaling.fit("test_time", pd.DataFrame(rows)), tokens)
    return {
        name: joint_plan(training, [option], flops=flops, problems=problems, max_samples=SAMPLES, interval=LEVEL)
        for name, (flops, problems) in BUDGETS.items()
    }


def carried_out(plan: dict[str, float]) -> tuple[int, int]:
    """(width, steps) nearest to a plan: a size of the ladder's family, trained on as many FLOPs."""
    widths = np.arange(min(WIDTHS), 2 * max(WIDTHS), 4)
    sizes = np.array([counts.params(model_of(int(width))) for width in widths])
    at = int(np.argmin(np.abs(np.log(sizes / plan["params"]))))
    return int(widths[at]), max(1, round(plan["params"] * plan["tokens"] / sizes[at] / (BATCH * SEQ)))


def run(work: Workspace) -> Measured:
    small = sweep(work.quick)
    table = work.sweep(small, small.name)
    solved = work.keep("attempts", lambda: asked(work, small.name, table))
    fields = ("params", "tokens", "samples", "loss", "accuracy", "train_flops", "inference_flops")
    made = work.foretell("planned_attempts", lambda: {
        name: {field: float(getattr(plan, field)) for field in fields}
        | {"interval": list(plan.intervals["accuracy"]), "loss interval": list(plan.intervals["loss"])}
        for name, plan in plans(table, solved).items()
    })  # fmt: skip
    cells = {name: carried_out(plan) for name, plan in made.items()}
    if work.quick:
        cells = {name: (width, min(steps, 20)) for name, (width, steps) in cells.items()}
    executed = _sweep(f"{small.name}_out", tuple(dict.fromkeys(cells.values())))
    done = work.sweep(executed, executed.name)
    answered = work.keep("planned_attempts", lambda: asked(work, executed.name, done))
    trials = {trial.id: (trial.model.d_model, trial.train.steps) for trial in executed.trials()}
    by_cell = {trials[trial]: answered[trial]["solved"] for trial in done["trial"]}
    shares, told, rows = [], [], []
    for name, plan in made.items():
        k = round(plan["samples"])
        curve = np.array(by_cell[cells[name]])  # [problems, KS]
        each = np.array([np.interp(np.log(k), np.log(KS), row) for row in curve])  # between two that were counted
        low, high = plan["interval"]
        half = np.where(each.mean() < plan["accuracy"], plan["accuracy"] - low, high - plan["accuracy"])
        margin = bootstrap_interval(each, lambda x, p=plan, h=half: 1 - abs(x.mean() - p["accuracy"]) / h)
        shares.append((float(1 - abs(each.mean() - plan["accuracy"]) / half), margin))
        told.append(of_run(f"{name}, {k} attempts", [plan["accuracy"], low, high], float(each.mean())))
        rows.append({
            "plan": name, "width": str(cells[name][0]), "steps": f"{cells[name][1]:,}", "attempts": str(k),
            "training share": f"{plan['train_flops'] / (plan['train_flops'] + plan['inference_flops']):.0%}",
            "foretold": f"{plan['accuracy']:.3f} [{low:.3f}, {high:.3f}]", "measured": f"{each.mean():.3f}",
        })  # fmt: skip
    effect = min(share for share, _ in shares)
    interval = min(low for _, (low, _) in shares), min(high for _, (_, high) in shares)
    flops = float(table["flops"].sum() + done["flops"].sum())
    lines = {
        f"width {width}, {tokens:.2g} tokens": {"x": list(KS), "y": np.mean(solved[trial]["solved"], axis=0).tolist()}
        for trial, width, tokens in zip(table["trial"], table["d_model"], table["tokens"], strict=True)
        if width == max(WIDTHS)
    }
    details = {
        "tables": [{"title": "Plans, carried out", "rows": rows}],
        "plans": made,
        "curves": [{"x": "attempts", "y": "accuracy", "log": "x", "lines": lines}],
    }
    return Measured(effect, interval, flops, details, tuple(told))
