from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError
from scaling.data import Batches, TokenFile, check_manifest


def stream(count, *, seed=0, masked=False, vocabulary=2**16):
    draw = np.random.default_rng(seed)
    tokens = draw.integers(0, vocabulary, count).astype(np.min_scalar_type(vocabulary - 1))
    return TokenFile.from_array(tokens, draw.integers(0, 2, count).astype(np.uint8) if masked else None)


def equal(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def windows_of(file, seq_len):
    return [file.tokens[k * seq_len : k * seq_len + seq_len + 1].tolist() for k in range((file.count - 1) // seq_len)]


@settings(max_examples=50)
@given(
    count=st.integers(60, 2000),
    seq_len=st.integers(1, 16),
    batch_size=st.integers(1, 3),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 1000),
)
def test_every_window_comes_exactly_once_per_epoch(count, seq_len, batch_size, seed, epoch):
    file = stream(count)
    batches = Batches.of(file, seq_len, batch_size, seed)
    expected = windows_of(file, seq_len)
    index = np.arange(epoch * len(expected), (epoch + 1) * len(expected))
    assert sorted(batches.examples(index)["tokens"].tolist()) == sorted(expected)


def test_seeds_and_epochs_have_orders_of_their_own():
    batches = Batches.of(stream(1001), 10, 100)
    first, second, other = batches.batch(0), batches.batch(1), batches.with_seed(1).batch(0)
    assert not equal(first, second) and not equal(first, other) and not equal(second, other)
    rows = [sorted(batch["tokens"].tolist()) for batch in (first, second, other)]
    assert rows[0] == rows[1] == rows[2]
    assert equal(batches.with_seed(1).batch(5), Batches.of(batches.sources[0], 10, 100, 1).batch(5))


FEATURES = {
    "plain": lambda: Batches.of(stream(500), 7, 12),
    "segments": lambda: Batches.of(stream(500, vocabulary=9), 7, 12, packing="segments"),
    "masked": lambda: Batches.of(stream(500, masked=True), 7, 12),
    "mixture": lambda: Batches(
        (stream(500, vocabulary=9), stream(300, seed=1, masked=True, vocabulary=9)),
        7,
        12,
        3,
        weights=(0.7, 0.3),
        packing="segments",
    ),
    "unique": lambda: Batches.of(stream(500), 7, 12, unique_tokens=200),
}


@pytest.fixture(params=FEATURES)
def batches(request):
    return FEATURES[request.param]()


def test_a_batch_does_not_depend_on_what_was_drawn_before(batches):
    whole = batches.batches(0, 10)
    assert whole["tokens"].shape == (10, 12, 8) and whole["tokens"].dtype == np.int32
    assert equal({name: array[4:] for name, array in whole.items()}, batches.batches(4, 6))
    assert equal({name: array[7] for name, array in whole.items()}, batches.batch(7))


@pytest.mark.parametrize("hosts", [1, 2, 3, 12])
def test_hosts_together_read_the_same_batch(batches, hosts):
    parts = [batches.for_hosts(host, hosts).batch(5) for host in range(hosts)]
    assert equal({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, batches.batch(5))
    assert len({batches.for_hosts(host, hosts).manifest_hash for host in range(hosts)}) == 1


def test_a_pickled_copy_draws_the_same(batches):
    assert equal(pickle.loads(pickle.dumps(batches)).batch(3), batches.batch(3))


def test_segments_change_at_the_end_of_a_document(batches):
    drawn = batches.batch(2)
    if batches.packing == "concatenate":
        assert "segments" not in drawn
        return
    for tokens, segments in zip(drawn["tokens"], drawn["segments"], strict=True):
        expected, current = [], 0
        for token in tokens:
            current += token == 0
            expected.append(current)
        assert segments.tolist() == expected
    assert drawn["segments"].dtype == np.int32 and drawn["segments"].max() > 0


def test_weights_are_the_mask_of_the_predicted_tokens():
    file = stream(500, masked=True)
    batches = Batches.of(file, 7, 12)
    _, windows = batches.locate(np.arange(12, 24))
    expected = [file.mask[k * 7 + 1 : k * 7 + 8].tolist() for k in windows]
    weights = batches.batch(1)["weights"]
    assert weights.tolist() == expected and weights.dtype == np.float32


def test_a_source_without_a_mask_keeps_weight_one_in_a_mixture():
    batches = FEATURES["mixture"]()
    source, _ = batches.locate(np.arange(12))
    weights = batches.batch(0)["weights"]
    assert (weights[source == 0] == 1).all() and (weights[source == 1] == 0).any()


def test_a_mixture_draws_exactly_its_shares_and_each_source_in_full():
    first, second = stream(701), stream(301, seed=1)
    batches = Batches((first, second), 10, 10, weights=(0.7, 0.3))
    rows = batches.batches(0, 10)["tokens"].reshape(100, -1).tolist()
    assert sorted(rows) == sorted(windows_of(first, 10) + windows_of(second, 10))


def test_sources_have_orders_of_their_own():
    batches = Batches((stream(1001), stream(1001)), 10, 200, weights=(1, 1))
    source, window = batches.locate(np.arange(200))
    assert window[source == 0].tolist() != window[source == 1].tolist()


def test_a_limit_draws_only_so_many_tokens_whatever_the_seed():
    file = stream(5001)

    def drawn(limit, seed):
        batches = Batches.of(file, 10, 5, seed, unique_tokens=limit)
        assert batches.tokens_per_epoch == limit
        return {tuple(row) for row in batches.batches(0, 100)["tokens"].reshape(500, -1).tolist()}

    assert len(drawn(200, 0)) == 20
    assert drawn(200, 0) == drawn(200, 1) < drawn(1000, 0)


@settings(max_examples=50)
@given(steps=st.integers(0, 60), limit=st.sampled_from([None, 200, 400]), mixed=st.booleans())
def test_distinct_tokens_are_counted(steps, limit, mixed):
    files, weights = ((stream(701), stream(601, seed=1)), (1, 2)) if mixed else ((stream(701),), (1,))
    batches = Batches(files, 10, 5, weights=weights, unique_tokens=limit)
    rows = batches.batches(0, steps)["tokens"].reshape(-1, 11)
    assert batches.unique_tokens_after(steps) == 10 * len({tuple(row) for row in rows.tolist()})


def test_the_manifest_changes_with_everything_a_batch_depends_on():
    file = stream(500)
    base = Batches.of(file, 7, 12)
    same = Batches.of(TokenFile.from_array(np.array(file.tokens)), 7, 12)
    assert base.manifest_hash == same.manifest_hash
    changes = [
        {"sources": (stream(500, seed=1),)},
        {"seq_len": 8},
        {"batch_size": 6},
        {"seed": 1},
        {"unique_tokens": 490},
        {"packing": "segments"},
        {"tokenizer_digest": "other"},
        {"sources": (file, file), "weights": (1.0, 2.0)},
    ]
    hashes = {base.manifest_hash} | {dataclasses.replace(base, **change).manifest_hash for change in changes}
    assert len(hashes) == 1 + len(changes)


def test_a_changed_manifest_is_refused_with_the_entries_that_differ():
    saved = Batches.of(stream(500), 7, 12).manifest
    check_manifest(saved, dict(saved))
    with pytest.raises(ConfigError) as caught:
        check_manifest(saved, saved | {"seed": 1, "files": ["f" * 64]})
    message = str(caught.value)
    assert "seed was 0 and is now 1" in message and "files was" in message and "seq_len" not in message
    with pytest.raises(ConfigError, match=r"packing was .* and is now null"):
        check_manifest(saved, {name: value for name, value in saved.items() if name != "packing"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Batches.of(stream(50), 10, 5), "train.batch_size: the corpus gives 40 training tokens"),
        (
            lambda: Batches.of(stream(5), 10, 1),
            "train.seq_len: the corpus has 5 tokens, from which no",
        ),
        (lambda: Batches.of(stream(500), 10, 5, unique_tokens=40), "data.unique_tokens: the corpus gives 40 training"),
        (
            lambda: Batches.of(stream(500), 10, 5, unique_tokens=4),
            "data.unique_tokens: the corpus has 500 tokens",
        ),
        (
            lambda: Batches.of(stream(500), 10, 5, unique_tokens=900),
            "data.unique_tokens: is 900, but the corpus has",
        ),
        (lambda: Batches.of(stream(500), 10, 5).for_hosts(0, 2), "train.batch_size: 5 examples cannot be shared out"),
        (lambda: Batches.of(stream(500), 10, 4).for_hosts(2, 2), "hosts: host 2 is not one of 2"),
        (lambda: Batches.of(stream(500), 0, 4), "train.seq_len: is 0"),
        (lambda: Batches((stream(50), stream(50)), 5, 4), "data.mixture: has 2 sources and 1 weights"),
    ],
)
def test_batches_that_cannot_be_drawn_are_an_error(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


def test_a_row_of_documents_is_one_document_and_its_padding_carries_no_loss():
    """Against a loop; every document comes once an epoch, and one that does not fit is refused."""
    file = stream(400, vocabulary=9, masked=True)
    documents = [file.tokens[a:b].tolist() for a, b in zip(file.documents[:-1], file.documents[1:], strict=True)]
    longest = max(map(len, documents))
    batches = Batches.of(file, longest - 1, 4, packing="documents")
    assert batches.windows == (len(documents),)
    drawn = batches.examples(np.arange(len(documents)))
    found = []
    for tokens, weights in zip(drawn["tokens"], drawn["weights"], strict=True):
        length = next(n for n in range(1, longest + 1) if tokens[:n].tolist() in documents and not tokens[n:].any())
        place = documents.index(tokens[:length].tolist())
        assert not weights[length - 1 :].any()
        if documents.count(documents[place]) == 1:
            mask = file.mask[file.documents[place] : file.documents[place + 1]]
            assert weights[: length - 1].tolist() == mask[1:].tolist()
        found.append(tokens[:length].tolist())
    assert sorted(found) == sorted(documents)
    with pytest.raises(ConfigError, match=rf"train\.seq_len: a document of .* has {longest} tokens"):
        Batches.of(file, longest - 2, 4, packing="documents")
