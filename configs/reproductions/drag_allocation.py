"""What a context is best spent on: documents, examples or iterations, and whether small budgets tell it of large ones.

    python -m launch.reproduce drag_allocation --workdir runs/reproductions/drag_allocation

Three layers learn to read contexts of scaling/tasks/retrieved.py and are then asked, with 1 to 6 iterations, in four
worlds: a good and a bad retriever, good and bad examples. Half of the questions choose settings and fit the allocation
law, those of settings of at most `SMALL` tokens; the other half judge.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from models import counts
from models.config import Layer, ModelConfig
from models.mixers import Attention
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks.retrieved import NONE, Retrieved
from scaling.tasks.sequences import Labelled
from scaling.train.config import TrainConfig

WORLDS = {
    f"signal {signal}, {flawed:.0%} flawed": Retrieved(names=16, people=10, signal=signal, flawed=flawed, asked=12)
    for signal, flawed in itertools.product((1.0, 2.5), (0.25, 0.45))
}
KIND = next(iter(WORLDS.values()))
PATTERN = (Layer(Attention(window=2), None), Layer(Attention(), None), Layer(Attention()))  # the first binds pairs
MODEL = ModelConfig(KIND.vocab_size, d_model=64, n_layers=3, n_heads=2, pattern=PATTERN).resolved()
ROWS, EASY, STEPS, LENGTH, LENGTHS = 64, 300, 900, KIND.cost(16, 8) + 2 * (KIND.asked - 1), (16, 32, 58)
DOCUMENTS, SHOTS, ITERATIONS, QUESTIONS = (1, 2, 4, 8, 16), (0, 1, 2, 4, 8), 6, 400
BUDGETS = tuple(round(8 * 2 ** (k / 2)) for k in range(11))  # tokens of all iterations together, up to the most
SMALL = 64
STRAIGHT, NEAR = 0.9, 0.95


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="drag_allocation",
        methods=(5,),
        claim="The best accuracy of each budget is near linear in the logarithm of its tokens, and a law that was "
        "fitted to small budgets chooses settings for larger ones that reach 95 % of the best",
        source="Yue et al. 2024, Inference scaling for long-context retrieval augmented generation, arXiv:2410.04343 "
        "(96.6 % on lengths beyond those fitted)",
        smallest_effect=0.0,
        unit="the smaller of: R2 of a line through the best accuracy against log tokens, less 0.9; share of the best "
        "accuracy that the chosen settings reach, less 0.95",
        minutes=6,
        not_covered="language models, text and embeddings: a document is a fact of two tokens and a retriever's error "
        "is normal; examples that show documents too; sub-questions that the policy must think of: each is about the "
        "person named before, and one reading answers one hop; more than one policy, of 0.09M parameters; a law that "
        "holds for several worlds at once: it is fitted to each",
        simulated=False,
        run=run,
    )


def train_of(quick: bool) -> TrainConfig:
    return TrainConfig(20 if quick else STEPS, ROWS, LENGTH, 0, 5e-3, final_learning_rate=0.0, optimizer="muon",
                       weight_decay=0.0)  # fmt: skip


def settings(quick: bool) -> list[tuple[int, int]]:
    """Documents and shots."""
    return list(itertools.product(DOCUMENTS[::2], SHOTS[::2]) if quick else itertools.product(DOCUMENTS, SHOTS))


def answered(quick: bool) -> JSON:
    """Of every world and setting, the right questions of each number of iterations, as text of 0 and 1."""
    from scaling.tasks.probe import ends, learned
    from scaling.tasks.skills import joined

    rng, count = np.random.default_rng(0), 40 if quick else QUESTIONS
    kinds = [replace(kind, absent=absent) for absent in (0.0, 0.5) for kind in WORLDS.values()]

    def feed(step: int) -> Labelled:
        at_first = kinds[: len(WORLDS)] if step < EASY else kinds[len(WORLDS) :]
        return joined([kind.draw(rng, ROWS // len(WORLDS)) for kind in at_first])

    params = learned(MODEL, train_of(quick), feed)
    first = int(KIND.value(np.int64(0), np.int64(0)))

    def read(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = ends(MODEL, params, tokens, LENGTHS, rows=128)
        return logits.argmax(1) == NONE, first + logits[:, first:].argmax(1)

    found: dict[str, list] = {}
    for i, (name, kind) in enumerate(WORLDS.items()):
        worlds = kind.worlds(np.random.default_rng([1, i]), count)
        right = [kind.followed(worlds, documents, shots, ITERATIONS, read) for documents, shots in settings(quick)]
        found[name] = ["".join("01"[hit] for hit in one) for table in right for one in table.T.tolist()]
    return found


def grid(quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """Documents, shots and iterations of every setting `[settings, 3]`, and its tokens."""
    rows = [(d, s, i + 1) for d, s in settings(quick) for i in range(ITERATIONS)]
    return np.array(rows), np.array([KIND.cost(*row) for row in rows])


def chosen(accuracy: np.ndarray, questions: int, quick: bool) -> list[int]:
    """The settings that the law, fitted to what costs little, takes for the larger budgets."""
    from scaling.fitting import fit
    from scaling.laws.retrieval import AXES, allocate, retrieval_law

    rows, cost = grid(quick)
    table: dict[str, Any] = dict(zip(AXES, rows.T.astype(float), strict=True)) | {
        f"i_{axis}": np.zeros(len(rows)) for axis in AXES}  # fmt: skip
    table["accuracy"] = (accuracy * questions + 0.5) / (questions + 1)
    few = {name: column[cost <= SMALL] for name, column in table.items()}
    fitted = fit(retrieval_law(1.0), few, fixed={f"b_{axis}": 0.0 for axis in AXES})
    return [allocate(fitted, table, cost, budget).row for budget in BUDGETS if budget > SMALL]


def curve(first: np.ndarray, second: np.ndarray, cost: np.ndarray) -> list[float]:
    """The best of each budget by the first accuracies, judged by the second: luck in one does not count."""
    within = [np.flatnonzero(cost <= budget) for budget in BUDGETS]
    return [float(second[some[np.argmax(first[some])]]) for some in within]


def straightness(x: np.ndarray, y: np.ndarray) -> float:
    """R2 of a line through the points; 0 where they lie level."""
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) ** 2 / (x @ x) / max(float(y @ y), 1e-12))


def run(work: Workspace) -> Measured:
    quick = work.quick
    kept = work.keep("answered", partial(answered, quick))
    right = {name: np.array([[c == "1" for c in one] for one in rows]).T for name, rows in kept.items()}
    _, cost = grid(quick)
    count = len(next(iter(right.values())))

    def judged(order: np.ndarray) -> dict[str, Any]:
        """order `[questions]`: those of every world, of which the first half chooses."""
        found: dict[str, Any] = {"curves": [], "shares": [], "settings": []}
        for table in right.values():
            halves = [table[: count // 2], table[count // 2 :]]
            first, second = (half[order % len(half)].mean(0) for half in halves)
            found["curves"].append(curve(first, second, cost))
            rows = chosen(first, len(order), quick)
            best = found["curves"][-1][-len(rows) :]
            found["shares"].append([float(second[row]) / max(top, 1e-3) for row, top in zip(rows, best, strict=True)])
            found["settings"].append(rows)
        return found

    def parts(found: dict[str, Any]) -> list[float]:
        line = np.mean(found["curves"], axis=0)
        return [straightness(np.log(BUDGETS), line) - STRAIGHT, float(np.mean(found["shares"])) - NEAR]

    orders = np.arange(count // 2)
    whole = judged(orders)
    resamples = 20 if quick else 200
    interval = bootstrap_interval(orders, lambda order: min(parts(judged(order.astype(int)))), resamples=resamples)
    return Measured(min(parts(whole)), interval, flops(quick), details(whole, parts(whole), right, quick))


def flops(quick: bool) -> float:
    """Of training, and of reading, at most."""
    rows, cost = grid(quick)
    reads = len(WORLDS) * (40 if quick else QUESTIONS) * int(cost[rows[:, 2] == ITERATIONS].sum())
    trained = counts.train_flops(MODEL, train_of(quick).tokens, LENGTH)
    return float(trained + reads * counts.forward_flops(MODEL, LENGTH) / LENGTH)


def details(found: dict[str, Any], parts: list[float], right: dict[str, np.ndarray], quick: bool) -> dict[str, JSON]:
    rows, cost = grid(quick)
    late = [budget for budget in BUDGETS if budget > SMALL]
    usual = {
        budget: float(np.mean([table[:, (cost <= budget) & (cost > budget / 1.5)].mean() for table in right.values()]))
        for budget in late
    }
    lines = {name: {"x": list(BUDGETS), "y": line} for name, line in zip(WORLDS, found["curves"], strict=True)}
    return {
        "parts of the effect": parts,
        "recall of 1, 4 and 16 documents": {name: [kind.recall(n) for n in (1, 4, 16)] for name, kind in WORLDS.items()},
        "accuracy over documents, shots and iterations": {
            name: table.mean(0).reshape(len(settings(quick)), ITERATIONS).tolist() for name, table in right.items()},
        "mean accuracy of settings of two thirds of a budget or more": {str(k): v for k, v in usual.items()},
        "share of the best that the law's setting reaches, over larger budgets": dict(
            zip(WORLDS, found["shares"], strict=True)),
        "documents, shots and iterations that the law takes": {
            name: rows[some].tolist() for name, some in zip(WORLDS, found["settings"], strict=True)},
        "curves": [{"x": "tokens of all iterations", "y": "best accuracy", "log": "x", "lines": lines}],
    }  # fmt: skip
