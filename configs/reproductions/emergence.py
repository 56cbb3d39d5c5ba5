"""Emergence is in the metric: the same outputs, judged by exact match and by edit distance, over a ladder of sizes.

    python -m launch.reproduce emergence --workdir runs/reproductions/emergence

Six small models at two lengths of training sort six letters; they are part of the ladder of
configs/benchmark_ladder.py, whose training takes 10 of the 14 minutes.
"""

import numpy as np
import pandas as pd

from configs.benchmark_ladder import plan
from scaling.evaluate.completion import edit_distance
from scaling.reproduction import Measured, Reproduction, Workspace
from scaling.tasks import Problem, task_by_name
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling
from search.policy import Policy, load_policy

TASK = "copy:longest=6,order=sorted"
LETTERS = 6
STEPS = (400, 1600)


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="emergence",
        methods=(266,),
        claim="The same outputs rise sharply with size by exact match and smoothly by edit distance",
        source="Schaeffer et al. 2023, arXiv:2304.15004",
        smallest_effect=0.25,
        unit="doublings of the score per doubling of size, exact match less edit accuracy",
        minutes=14,
        not_covered="arithmetic by large models, vision; sizes above 130 thousand parameters. A model without a match "
        "counts as half a match, which makes exact match less sharp than it is. The task was chosen after a first one, "
        "the next eight bytes of held-out text, where the two scores grew alike (0.00 [-0.02, 0.02] over 3.6 to 33 "
        "thousand parameters): its items are runs of spaces that every size completes, or out of reach of all",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def run(work: Workspace) -> Measured:
    name = "benchmark_ladder_quick" if work.quick else "benchmark_ladder"
    table = work.sweep(plan(work.quick), name, shared=True)
    rows = work.keep("outputs", lambda: outputs(work, table[table["seed"] == 0], name, 20 if work.quick else 400))
    found = pd.DataFrame(rows).sort_values(["steps", "params"], ignore_index=True)
    edits = np.stack(found["edits"]).astype(float)  # [models, items]
    exact, close = (edits == 0).astype(float), 1 - edits / LETTERS
    doublings = np.log2(found["params"].to_numpy(float))
    longest = (found["steps"] == found["steps"].max()).to_numpy()

    def growth(rates: np.ndarray) -> float:
        """Slope of log2 score on log2 size [models], an intercept for each length of training."""
        y = np.log2(np.maximum(rates, 0.5 / edits.shape[1]))
        basis = np.stack([doublings, longest, ~longest], 1)
        return float(np.linalg.lstsq(basis, y, rcond=None)[0][0])

    def effect(items: np.ndarray) -> float:
        return growth(exact[:, items].mean(1)) - growth(close[:, items].mean(1))

    rng, every = np.random.default_rng(0), np.arange(edits.shape[1])
    low, high = np.quantile([effect(rng.choice(every, len(every))) for _ in range(2000)], [0.05, 0.95])
    power = close.mean(1) ** LETTERS
    names = {"exact match": exact.mean(1), "1 - edits / 6": close.mean(1), "(1 - edits / 6)^6": power}
    panels = [
        {"x": "parameters", "y": f"score after {steps} steps", "log": "x", "lines": {
            label: {"x": found["params"][mine].tolist(), "y": y[mine].tolist()} for label, y in names.items()
        }}
        for steps in found["steps"].unique() for mine in [(found["steps"] == steps).to_numpy()]
    ]  # fmt: skip
    above = [int((exact[:, :count].sum(1) > 0).sum()) for count in (20, edits.shape[1])]
    details = {
        "curves": panels,
        "growth": {label: growth(y) for label, y in names.items()},
        "mean error of p^L as exact match": float(np.abs(power - exact.mean(1)).mean()),
        "correlation of p^L and exact match": float(np.corrcoef(power, exact.mean(1))[0, 1]),
        "models above zero with 20 items, and with all": above,
    }
    return Measured(effect(every), (float(low), float(high)), float(table["flops"].sum()), details)


def outputs(work: Workspace, table: pd.DataFrame, name: str, items: int) -> list[dict]:
    """Of every model: the edits between its greedy answers and the right ones, item by item."""
    task, rows = task_by_name(TASK), []
    problems = [p for p in task.generate(0, 4 * items, "test") if len(p.instance) == LETTERS][:items]
    chosen = table if work.quick else table[table["steps"].isin(STEPS)]
    for trial, steps, params in zip(chosen["trial"], chosen["steps"], chosen["params"], strict=True):
        policy = load_policy(work.shared / "sweeps" / name / "trials" / trial)
        edits = [edit_distance(a, "".join(sorted(p.instance))) for a, p in zip(answers(policy, problems), problems)]
        work.say(f"{trial}: {np.mean(np.array(edits) == 0):.1%} exact, {np.mean(edits):.2f} edits")
        rows.append(dict(params=int(params), steps=int(steps), edits=edits))
    return rows


def answers(policy: Policy, problems: list[Problem]) -> list[str]:
    """The likeliest answer to every problem, token by token, cut to the letters that an answer has."""
    end = policy.tokenizer.end_of_document
    engine = Engine(policy.model, policy.params, EngineConfig(slots=128, max_len=32, page_size=16, stage_tokens=6))
    greedy = Sampling(temperature=0.0)
    prompts = ((end, *policy.tokenizer.encode(p.prompt).tolist()) for p in problems)
    asked = (Request(i, prompt, 1, LETTERS, greedy) for i, prompt in enumerate(prompts))
    found = {done.problem: policy.tokenizer.decode(done.tokens) for done in engine.generate(asked)}
    return [found[i] for i in range(len(problems))]
