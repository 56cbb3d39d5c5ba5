"""What several reproductions share: a small reader of documents, asked in four worlds with contexts of many forms.

Three layers learn to read contexts of scaling/tasks/retrieved.py: first what documents tell, then also to say that they
do not. They are asked with 1 to 6 iterations, with 1 to 16 documents and 0 to 8 examples each, where the retriever is
good or bad and examples are good or bad. Half of the questions choose settings, the other half judge what was chosen.
Two minutes of a core.

Before the policy that is kept, others of the same task were trained for 400 to 600 steps and dropped: of two layers, of
width 32, and with as many questions that no document answers from the start; they named nobody. How good retriever and
examples are was settled with a reader that errs never, so that accuracy runs from 0.1 to 0.95.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import numpy as np

from models import counts
from models.config import Layer, ModelConfig
from models.mixers import Attention
from scaling.reproduction import Workspace
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


def train_of(quick: bool) -> TrainConfig:
    return TrainConfig(20 if quick else STEPS, ROWS, LENGTH, 0, 5e-3, final_learning_rate=0.0, optimizer="muon",
                       weight_decay=0.0)  # fmt: skip


def settings(quick: bool) -> list[tuple[int, int]]:
    """Documents and shots."""
    return list(itertools.product(DOCUMENTS[::2], SHOTS[::2]) if quick else itertools.product(DOCUMENTS, SHOTS))


def asked(quick: bool) -> dict[str, list[str]]:
    """Of every world and setting, the right questions of each number of iterations, as text of 0 and 1."""
    from scaling.tasks.probe import ends, learned
    from scaling.tasks.skills import joined

    rng, count = np.random.default_rng(0), 40 if quick else QUESTIONS
    kinds = [replace(kind, absent=absent) for absent in (0.0, 0.5) for kind in WORLDS.values()]

    def feed(step: int) -> Labelled:
        at_first = kinds[: len(WORLDS)] if step < EASY else kinds[len(WORLDS) :]
        return joined([kind.draw(rng, ROWS // len(WORLDS)) for kind in at_first])

    params = learned(MODEL, train_of(quick), feed)
    first = int(KIND.value(np.array(0), np.array(0)))

    def read(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = ends(MODEL, params, tokens, LENGTHS, rows=128)
        return logits.argmax(1) == NONE, first + logits[:, first:].argmax(1)

    found: dict[str, list[str]] = {}
    for i, (name, kind) in enumerate(WORLDS.items()):
        worlds = kind.worlds(np.random.default_rng([1, i]), count)
        right = [kind.followed(worlds, documents, shots, ITERATIONS, read) for documents, shots in settings(quick)]
        found[name] = ["".join("01"[hit] for hit in one) for table in right for one in table.T.tolist()]
    return found


def grid(quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """Documents, shots and iterations of every setting `[settings, 3]`, and its tokens."""
    rows = [(d, s, i + 1) for d, s in settings(quick) for i in range(ITERATIONS)]
    return np.array(rows), np.array([KIND.cost(*row) for row in rows])


def curve(first: np.ndarray, second: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """The best setting of each budget by the first accuracies, judged by the second: luck in one does not count."""
    within = [np.flatnonzero(cost <= budget) for budget in BUDGETS]
    return np.array([second[some[np.argmax(first[some])]] for some in within])


def answered(work: Workspace) -> dict[str, np.ndarray]:
    """Whether each question is right in every setting of `grid`, of each world `[questions, settings]` bool; the policy
    is trained and asked by whichever reproduction comes first."""
    worlds = work.keep(f"retrieval{'_quick' * work.quick}", partial(asked, work.quick), shared=True)
    return {name: np.array([[c == "1" for c in one] for one in rows]).T for name, rows in worlds.items()}


def halves(right: dict[str, np.ndarray], order: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Accuracies of all settings by the half of the questions that chooses and by the one that judges, of each world;
    order: the questions of a half, of which some may come twice."""
    some, split = order.astype(int), [np.split(table, 2) for table in right.values()]
    return [(first[some].mean(0), second[some].mean(0)) for first, second in split]


def flops(quick: bool) -> float:
    """Of training, and of reading, at most."""
    rows, cost = grid(quick)
    reads = len(WORLDS) * (40 if quick else QUESTIONS) * int(cost[rows[:, 2] == ITERATIONS].sum())
    trained = counts.train_flops(MODEL, train_of(quick).tokens, LENGTH)
    return float(trained + reads * counts.forward_flops(MODEL, LENGTH) / LENGTH)
