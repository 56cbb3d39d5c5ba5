"""The chain of clustering on difficulty against a direct curve, on planted families of items."""

from __future__ import annotations

import numpy as np

from scaling.evaluate.measures.difficulty import forecast
from scaling.evaluate.measures.leakage import planted_corpus
from scaling.laws.difficulty import COD


def test_items_that_rise_late_mislead_the_direct_curve_and_not_the_chain() -> None:
    """Three families: one is learned early, one begins to rise, a few never move; no noise but that of items."""
    compute, target = np.geomspace(1e9, 3e10, 12), np.array([3e11])
    kinds = [dict(C0=1.5e9, b=1.2, c=0.02, g=0.25), dict(C0=6e10, b=0.9, c=0.02, g=0.25)]

    def scores(at: np.ndarray) -> np.ndarray:
        curves = [COD(kind, flops=at) for kind in kinds] + [np.full(len(at), 0.25)]
        return np.repeat(np.stack(curves, axis=1), (60, 60, 12), axis=1)

    noise = np.random.default_rng(0).normal(size=(12, 132))
    found = forecast(np.clip(scores(compute) + 0.02 * noise, 0, 1), compute, target, guess=0.25)
    truth = scores(target).mean()
    assert found.kept == 2 and abs(found.chained[0] - truth) < 0.05 and truth - found.direct[0] > 0.15


def test_a_planted_corpus_holds_each_leaked_item_as_often_as_it_says() -> None:
    training, leaked = [f"t{i}" for i in range(50)], ["x1", "x2"]
    documents = planted_corpus(training, leaked, repeats=7, per_document=4)
    words = " ".join(documents).split()
    assert len(documents) == 16 and sorted(set(words)) == sorted([*training, *leaked])
    assert words.count("x1") == words.count("x2") == 7 and len(words) == 64
    assert planted_corpus(training, leaked, 7) == documents != planted_corpus(training, leaked, 7, seed=1)
