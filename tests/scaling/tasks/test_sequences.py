"""Labelled sequences: every label follows from what stands before it, for a reader who did not draw them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest

from models import transformer
from models.config import Layer, ModelConfig
from models.errors import ConfigError
from models.mixers import Attention
from scaling.tasks import probe as probing
from scaling.tasks.probe import ends, learned, learned_each, losses, probe, recalled, right, said
from scaling.tasks.sequences import AssociativeRecall, Chains, Copying, Passkey, StateTracking, TripleMatch
from scaling.train.config import TrainConfig

KINDS = {
    "recall": AssociativeRecall(vocab=20, length=40, pairs=5, power=0.5),
    "copying": Copying(symbols=5, count=7),
    "passkey": Passkey(length=40, digits=3, times=2, filler=4),
    "parity": StateTracking(2, 12),
    "permutations": StateTracking(3, 12),
}


def read_recall(tokens):
    """Each key that stands a second time has the value behind its first."""
    first = dict(zip(tokens[:10:2], tokens[1:10:2], strict=True))
    assert len(first) == len(set(tokens[1:10:2])) == 5 and max(first) < 10 <= min(first.values())
    labels = [first.get(token) if at >= 10 and token else None for at, token in enumerate(tokens)]
    assert all(at % 2 == 0 for at, label in enumerate(labels) if label) and sum(map(bool, labels)) == 5
    return labels


def read_copying(tokens):
    """After the separator the next of those before it."""
    at = tokens.index(5)
    assert tokens[at + 1 :] == tokens[: at - 1]
    return [None] * at + tokens[:at]


def read_passkey(tokens):
    """The digits behind the first mark, which are stated again right away; filler counts round about."""
    mark, asked = tokens.index(10), tokens.index(11)
    key = tokens[mark + 1 : mark + 4]
    assert tokens[mark : mark + 8] == [10, *key, 10, *key] and max(key) < 10 and tokens[asked + 1 :] == key[:-1]
    filler = tokens[:mark] + tokens[mark + 8 : asked]
    assert filler == [12 + i % 4 for i in range(len(filler))]
    return [None] * asked + key


def read_states(tokens, order):
    """Things that are moved about."""
    elements, things, labels = list(itertools.permutations(range(order))), list(range(order)), []
    for token in tokens:
        things = [elements[token][thing] for thing in things]
        labels.append(elements.index(tuple(things)))
    return labels


READ = {
    "recall": read_recall, "copying": read_copying, "passkey": read_passkey,
    "parity": lambda tokens: read_states(tokens, 2), "permutations": lambda tokens: read_states(tokens, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_labels_are_what_a_reader_of_the_tokens_says(name):
    kind = KINDS[name]
    drawn = kind.draw(np.random.default_rng(0), 50)
    again, other = (kind.draw(np.random.default_rng(seed), 50) for seed in (0, 1))
    assert all((a == b).all() for a, b in zip(drawn, again, strict=True)) and (drawn.tokens != other.tokens).any()
    assert drawn.tokens.dtype == drawn.labels.dtype == np.int32
    assert min(x.min() for x in drawn[:2]) >= 0 and max(x.max() for x in drawn[:2]) < kind.vocab_size
    for tokens, labels, scored in zip(*drawn, strict=True):
        said = READ[name](tokens.tolist())
        assert [None if not there else label for label, there in zip(labels.tolist(), scored, strict=True)] == said


def test_chains_move_as_transitions_of_their_own_say():
    drawn = Chains(symbols=3, length=400, concentration=0.5).draw(np.random.default_rng(5), 200)
    assert drawn.scored.all() and (drawn.tokens[:, 1:] == drawn.labels[:, :-1]).all()
    moves = np.zeros((200, 3, 3))
    np.add.at(moves, (np.arange(200)[:, None], drawn.tokens, drawn.labels), 1)
    often = moves.sum(-1) > 50
    shares = (moves / np.maximum(moves.sum(-1, keepdims=True), 1))[often]
    spread = 1 / 3 * 2 / 3 / (3 * 0.5 + 1)  # of one entry of the Dirichlet distribution
    assert abs(shares.var(0).mean() / spread - 1) < 0.2 and np.abs(shares.mean(0) - 1 / 3).max() < 0.06


def test_triples_match_where_a_loop_over_three_places_says_and_yes_is_as_often_scored_as_no():
    tokens, labels, scored = TripleMatch(modulus=7, length=6).draw(np.random.default_rng(0), 200)
    for row, asked, label in zip(tokens.tolist(), scored, labels, strict=True):
        for at in np.flatnonzero(asked):
            found = {(row[j] + row[k] + row[at]) % 7 == 0 for j, k in itertools.combinations(range(at), 2)}
            loose = {(row[j] + row[k] + row[at]) % 7 == 0 for j in range(at + 1) for k in range(at + 1)}
            assert (True in found) == (True in loose) == label[at]
    assert scored[:, 2:].any(0).all() and not scored[:, :2].any()
    for at in range(2, 6):
        assert labels[scored[:, at], at].mean() == 0.5


def test_parity_is_the_sum_modulo_two():
    drawn = KINDS["parity"].draw(np.random.default_rng(2), 20)
    np.testing.assert_array_equal(drawn.labels, drawn.tokens.cumsum(1) % 2)


@pytest.mark.parametrize(("power", "share"), [(0.01, None), (1.0, 1 / 31)])
def test_questions_come_as_soon_as_the_power_says(power, share):
    """Of one pair in 64 tokens: with weights (g + 1)^(power - 1) over 31 gaps the first has a quarter, or a 31st."""
    drawn = AssociativeRecall(64, 64, 1, power).draw(np.random.default_rng(3), 20_000)
    if share is None:
        share = 1 / sum((g + 1) ** (power - 1) for g in range(31))
        assert 0.24 < share < 0.26
    found = (drawn.labels[:, 2] > 0).mean()
    assert abs(found - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


def test_a_passkey_lies_at_any_depth_alike():
    drawn = KINDS["passkey"].draw(np.random.default_rng(4), 20_000)
    depth = (drawn.tokens == 10).argmax(1)
    counts = np.bincount(depth, minlength=30)
    assert len(counts) == 30 and np.abs(counts - 20_000 / 30).max() < 5 * (20_000 / 30) ** 0.5


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: AssociativeRecall(64, 16, 5), "recall.length: is 16: give at least 20, which ask for every pair"),
        (lambda: AssociativeRecall(8, 64, 5), "recall.vocab: is 8: give at least 12"),
        (lambda: Passkey(10), "passkey.length: is 10: give at least 17"),
        (lambda: StateTracking(6), "tracking.order: is 6: use 2 (parity) to 5"),
        (lambda: Copying(count=0), "copying.count: is 0: give 1 or more"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(make, told):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value) == told


@pytest.mark.slow  # compiles a train step
def test_a_probe_learns_what_one_token_back_tells():
    """Symbols of one kind, so that copying asks for one answer: the model has it right at every place with a label."""
    kind = Copying(symbols=1, count=4)
    model = ModelConfig(kind.vocab_size, 8, 1, 1, d_ff=8, pattern=(Layer(Attention(window=2), None),))
    train = TrainConfig(60, 8, 8, 3, 3e-2, weight_decay=0.0)
    params = probe(model, kind, train)
    shares = right(model, params, kind, 16, 0)
    assert recalled(model, params, kind, 16, 0) == 1 and np.isnan(shares[:4]).all() and (shares[4:] == 1).all()


@pytest.mark.slow  # reads the compiled step of the test above, if that ran in this process
def test_a_probe_is_what_its_batches_its_start_and_its_rates_make_of_it():
    """Without a rate it stays what it started from; a run of other length, seed and rate shares the program."""
    kind = Copying(symbols=1, count=4)
    model = ModelConfig(kind.vocab_size, 8, 1, 1, d_ff=8, pattern=(Layer(Attention(window=2), None),))
    train = TrainConfig(60, 8, 8, 3, 3e-2, weight_decay=0.0)
    rng, asked, seen = np.random.default_rng(3), [], []

    def feed(step):
        asked.append(step)
        return kind.draw(rng, 8)

    first = learned(model, train, feed, watch=lambda steps, params: seen.append(steps))
    assert asked == list(range(60)) and seen == [50, 60]
    alike = jax.tree.map(lambda a, b: (a == b).all(), first, probe(model, kind, train))
    assert all(jax.tree.leaves(alike))
    before, programs = jax.tree.map(np.asarray, first), probing._steps._cache_size()
    still = learned(model, replace(train, steps=110, seed=9, learning_rate=1e-30), feed, first)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (still, before)), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (first, before)), strict=True))
    assert probing._steps._cache_size() == programs
    data = kind.draw(rng, 16)
    assert ((said(model, first, data) == data.labels) | ~data.scored).all()
    nats = losses(model, first, data)
    assert (nats[~data.scored] == 0).all() and (nats[data.scored] > 0).all() and nats.max() < np.log(2)


@pytest.mark.slow  # compiles a train step of two models
def test_models_that_learn_together_are_those_that_learn_alone():
    """Equal but for the rounding of products that are summed in another order."""
    kind = Copying(symbols=1, count=4)
    model = ModelConfig(kind.vocab_size, 8, 1, 1, d_ff=8, pattern=(Layer(Attention(window=2), None),))
    train, seeds = TrainConfig(10, 8, 8, 3, 3e-2, weight_decay=0.0), (3, 5)

    def feed(seed):
        rng = np.random.default_rng(seed)
        return lambda step: kind.draw(rng, 8)

    together = learned_each(model, train, seeds, [feed(seed) for seed in seeds])
    for seed, found in zip(seeds, together, strict=True):
        alone = learned(model, replace(train, seed=seed), feed(seed))
        for a, b in zip(*map(jax.tree.leaves, (alone, found)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_what_follows_a_sequence_depends_neither_on_its_company_nor_on_the_rows_at_once():
    model = ModelConfig(6, 8, 1, 1, d_ff=8)
    params = transformer.init(model, jax.random.key(0))
    tokens = np.random.default_rng(0).integers(1, 6, (5, 3))
    filled = np.pad(tokens, ((0, 0), (1, 0)))
    whole = transformer.apply(model, params, filled)[:, -1]
    for rows in (2, 8):
        found = ends(model, params, tokens, lengths=(8, 4, 2), rows=rows)
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)
