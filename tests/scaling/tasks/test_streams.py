"""Streams: drawn as they say, with floors that no predictor beats and the true one reaches; curves and needed sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scaling.tasks import learning_curve as curves
from scaling.tasks.sequences import Labelled
from scaling.tasks.streams import Facts, Tags, Words, _chain, fresh, noise_entropy
from scaling.train.config import TrainConfig


def test_the_floor_of_words_is_the_entropy_rate_of_a_chain_whose_pairs_stay_as_they_are() -> None:
    kind = Words(words=4, length=8, concentration=2.0)
    chances, pairs = _chain(kind)
    after = np.zeros((4, 4))
    floor = 0.0
    for a, b, c in itertools.product(range(4), repeat=3):
        after[b, c] += pairs[a, b] * chances[a, b, c]
        floor -= pairs[a, b] * chances[a, b, c] * np.log(max(chances[a, b, c], 1e-300))
    assert after == pytest.approx(pairs, abs=1e-12) and kind.floor == pytest.approx(floor)
    data = kind.draw(np.random.default_rng(0), 20_000)
    before, here, label = data.tokens[:, :-1], data.tokens[:, 1:], data.labels[:, 1:]
    assert (
        (data.tokens[:, 1:] == data.labels[:, :-1]).all() and data.scored[:, 1:].all() and not data.scored[:, 0].any()
    )
    losses = -np.log(chances[before, here, label])
    assert losses.mean() == pytest.approx(kind.floor, abs=4 * losses.std() / np.sqrt(losses.size / 4))


def test_facts_are_asked_by_rank_and_answered_alike_but_for_the_noise() -> None:
    kind = Facts(facts=9, values=4, power=1.0, noise=0.25, length=8)
    data = kind.draw(np.random.default_rng(0), 20_000)
    assert data.scored[0].tolist() == [False, True, False, False, True, False, False, False]
    assert (data.labels[data.scored] == data.tokens[:, 2:6:3].ravel()).all()
    keys = 4 * data.tokens[:, 0:6:3] + data.tokens[:, 1:6:3]
    shares = np.sort(np.unique(keys, return_counts=True)[1])[::-1] / keys.size
    assert shares == pytest.approx(1 / np.arange(1, 10) / (1 / np.arange(1, 10)).sum(), abs=0.01)
    answers = data.labels[:, 1:6:3]
    for key in np.unique(keys):
        told = np.bincount(answers[keys == key] - 4, minlength=4) / (keys == key).sum()
        assert sorted(told)[-1] == pytest.approx(0.75, abs=0.03)
    assert kind.floor == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25 / 3))


def test_tags_follow_from_a_word_and_the_one_before_but_for_the_noise() -> None:
    clean = Tags(words=5, noise=0.0, length=4)
    data = clean.draw(np.random.default_rng(0), 500)
    own, before = np.random.default_rng(0).normal(size=(2, 5))
    for tokens, labels in zip(data.tokens, data.labels, strict=True):
        for t in range(1, 4):
            assert labels[t] == (own[tokens[t] - 2] + before[tokens[t - 1] - 2] > 0)
    noisy = Tags(words=5, noise=0.2, length=4).draw(np.random.default_rng(0), 4000)
    says = own[noisy.tokens[:, 1:] - 2] + before[noisy.tokens[:, :-1] - 2] > 0
    assert (says != noisy.labels[:, 1:]).mean() == pytest.approx(0.2, abs=0.02)
    assert (clean.floor, Tags().floor) == (0.0, pytest.approx(noise_entropy(0.1, 1)))
    assert max(one.draw(np.random.default_rng(0), 9).tokens.max() for one in (Tags(), Facts(), Words())) < 64


def test_fresh_rows_come_in_order_and_never_twice() -> None:
    kind = Tags(words=40, length=6)
    feed = fresh(kind, np.random.default_rng(3), rows=2, steps=3)
    drawn = [feed(step).tokens for step in range(7)]
    again = np.random.default_rng(3)
    whole = np.concatenate([kind.draw(again, 6).tokens for _ in range(3)])
    assert (np.concatenate(drawn) == whole[:14]).all()


def test_the_size_that_is_needed_is_read_off_a_line_between_logarithms() -> None:
    floor, sizes = 1.0, (10.0, 100.0, 1000.0)
    excess = np.array([1.0, 0.1, 0.09])  # the target, 0.099, lies between the last two
    at = np.log(0.1 / 0.099) / np.log(0.1 / 0.09)
    assert curves.needed(floor + excess, sizes, floor, 0.1) == pytest.approx(100 * 10**at)
    assert curves.needed([1.1, 1.1, 1.1], sizes, floor, 0.1) == 10.0  # the smallest is as good as any


def test_a_learning_curve_reads_the_first_rows_alone_and_takes_the_best_look(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(8)[:, None]
    data = Labelled(rows, rows, np.ones((8, 1), bool))
    read: list[int] = []

    def learned(model, train, feed, watch):
        read.append(max(int(feed(step).tokens.max()) for step in range(20)))
        for loss in (3.0, 1.0 + read[-1], 2.5):
            watch(0, loss)

    monkeypatch.setattr(curves, "learned", learned)
    monkeypatch.setattr(curves, "held_out", lambda model, params, test: params)
    assert curves.learning_curve(None, TrainConfig(batch_size=4), data, data, (1, 2, 8)) == [1.0, 2.0, 2.5]  # type: ignore[arg-type]
    assert read == [0, 1, 7]
