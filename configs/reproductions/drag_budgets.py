"""The best that a context of so many tokens allows, over documents, examples and iterations, rises with its logarithm.

    python -m launch.reproduce drag_budgets --workdir runs/reproductions/drag_budgets

The policy and its answers are shared with drag_allocation.
"""

import numpy as np

from configs.reproductions._retrieval import BUDGETS, ITERATIONS, WORLDS, answered, curve, flops, grid, halves, settings
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, bootstrap_interval


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="drag_budgets",
        methods=(5,),
        claim="The best accuracy of each budget, over documents, examples and iterations, is near linear in the "
        "logarithm of its tokens",
        source="Yue et al. 2024, Inference scaling for long-context retrieval augmented generation, arXiv:2410.04343",
        smallest_effect=0.9,
        unit="R2 of a line through the best accuracy against log tokens",
        minutes=4,
        not_covered="language models, text and embeddings: a document is a fact of two tokens and a retriever's error "
        "is normal; examples that show documents too; sub-questions that the policy must think of: each is about the "
        "person named before, and one reading answers one hop; more than one policy, of 0.09M parameters; budgets of "
        "more than 256 tokens, where the best settings of the easier worlds come to an end",
        simulated=False,
        run=run,
    )


def straightness(x: np.ndarray, y: np.ndarray) -> float:
    """R2 of a line through the points; 0 where they lie level."""
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) ** 2 / (x @ x) / max(float(y @ y), 1e-12))


def run(work: Workspace) -> Measured:
    right, (rows, cost) = answered(work), grid(work.quick)
    orders = np.arange(len(next(iter(right.values()))) // 2)

    def curves(order: np.ndarray) -> np.ndarray:
        return np.array([curve(first, second, cost) for first, second in halves(right, order)])

    def effect(order: np.ndarray) -> float:
        return straightness(np.log(BUDGETS), curves(order).mean(0))

    found = curves(orders)
    once = np.where(rows[:, 2] == 1, cost, np.inf)
    single = np.mean([curve(first, second, once) for first, second in halves(right, orders)], axis=0)
    mean = {"the best": found.mean(0), "the best with one iteration": single}
    lines = dict(zip(WORLDS, found, strict=True)) | mean
    panel = {name: {"x": list(BUDGETS), "y": y.tolist()} for name, y in lines.items()}
    details: dict[str, JSON] = {
        "R2 of each world": {name: straightness(np.log(BUDGETS), y) for name, y in zip(WORLDS, found, strict=True)},
        "R2 against tokens": straightness(np.array(BUDGETS, float), found.mean(0)),
        "recall of 1, 4 and 16 documents": {n: [kind.recall(i) for i in (1, 4, 16)] for n, kind in WORLDS.items()},
        "accuracy over documents and shots, and over iterations": {
            name: table.mean(0).reshape(len(settings(work.quick)), ITERATIONS).tolist()
            for name, table in right.items()},
        "curves": [{"x": "tokens of all iterations", "y": "accuracy", "log": "x", "lines": panel}],
    }  # fmt: skip
    interval = bootstrap_interval(orders, effect, resamples=100 if work.quick else 2000)
    return Measured(effect(orders), interval, flops(work.quick), details)
