"""Whether small budgets tell what large ones are best spent on: documents, examples or iterations.

    python -m launch.reproduce drag_allocation --workdir runs/reproductions/drag_allocation

The policy and its answers are shared with drag_budgets. With that claim this was one, whose smaller part decided: the
line held and the choice did not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from configs.reproductions._retrieval import BUDGETS, WORLDS, answered, curve, flops, grid, halves
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, bootstrap_interval

SMALL = 64
LARGE = tuple(budget for budget in BUDGETS if budget > SMALL)


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="drag_allocation",
        methods=(5,),
        claim="A law without products of documents, examples and iterations, fitted to settings of small budgets, "
        "chooses settings for budgets of up to four times as many tokens that reach 95 % of the best accuracy",
        source="Yue et al. 2024, Inference scaling for long-context retrieval augmented generation, arXiv:2410.04343 "
        "(96.6 % on lengths beyond those fitted)",
        smallest_effect=0.95,
        unit="share of the best accuracy of a budget that the chosen setting reaches",
        minutes=4,
        not_covered="language models, text and embeddings; more than one policy, of 0.09M parameters; one law for "
        "several worlds, by what a document and an example gain in each: it is fitted to each world, which leaves it "
        "as free; fits to the best settings of small budgets alone, and laws with products",
        simulated=False,
        run=run,
    )


def chosen(accuracy: np.ndarray, questions: int, quick: bool) -> list[int]:
    """The settings that the law, fitted to what costs little, takes for the larger budgets."""
    from scaling.fitting import fit
    from scaling.laws.retrieval import AXES, allocate, retrieval_law

    rows, cost = grid(quick)
    table: dict[str, Any] = dict(zip(AXES, rows.T.astype(float), strict=True))
    table |= {f"i_{axis}": np.zeros(len(rows)) for axis in AXES}
    table["accuracy"] = (accuracy * questions + 0.5) / (questions + 1)
    few = {name: column[cost <= SMALL] for name, column in table.items()}
    fitted = fit(retrieval_law(1.0), few, fixed={f"b_{axis}": 0.0 for axis in AXES})
    return [allocate(fitted, table, cost, budget).row for budget in LARGE]


def run(work: Workspace) -> Measured:
    right, (rows, cost) = answered(work), grid(work.quick)
    orders = np.arange(len(next(iter(right.values()))) // 2)

    def shares(order: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
        """(share of the best that the law's setting reaches `[worlds, budgets]`, the settings)."""
        parts = halves(right, order)
        picks = [chosen(first, len(order), work.quick) for first, _ in parts]
        best = np.array([curve(first, second, cost)[-len(LARGE) :] for first, second in parts])
        reached = np.array([second[pick] for (_, second), pick in zip(parts, picks, strict=True)])
        return reached / np.maximum(best, 1e-3), picks

    found, picks = shares(orders)
    usual = [[second[(cost <= b) & (cost > b / 1.5)].mean() for b in LARGE] for _, second in halves(right, orders)]
    best = [curve(first, second, cost)[-len(LARGE) :] for first, second in halves(right, orders)]
    details: dict[str, JSON] = {
        "budgets": list(LARGE),
        "share of the best that the chosen setting reaches": dict(zip(WORLDS, found.tolist(), strict=True)),
        "documents, shots and iterations chosen": {
            name: rows[pick].tolist() for name, pick in zip(WORLDS, picks, strict=True)},
        "share of the best that the mean setting of two thirds of a budget or more reaches": float(
            np.mean(np.array(usual) / np.maximum(best, 1e-3))),
    }  # fmt: skip
    interval = bootstrap_interval(orders, lambda order: shares(order)[0].mean(), resamples=20 if work.quick else 200)
    return Measured(float(found.mean()), interval, flops(work.quick), details)
