"""Retrieved: documents that a retriever finds as often as an integral says, contexts by hand, and a reader in turns."""

from __future__ import annotations

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.tasks.retrieved import NONE, Retrieved, Worlds

KIND = Retrieved(flawed=0.0)


def forms(tokens: np.ndarray, kind: Retrieved = KIND) -> np.ndarray:
    """The relation of value tokens."""
    return (tokens - 3) // kind.names - 1


def parsed(row: np.ndarray, shots: int, questions: int) -> tuple[list, list, list]:
    """(examples, documents, names asked for) of a context without what fills it up."""
    tokens = row.tolist()
    examples = [tokens[3 * i : 3 * i + 3] for i in range(shots)]
    body, ends = tokens[3 * shots : len(tokens) - 2 * questions], tokens[len(tokens) - 2 * questions :]
    assert all(mark == 1 for mark in [*(e[0] for e in examples), *ends[::2]])
    return examples, [body[i : i + 2] for i in range(0, len(body), 2)], ends[1::2]


@pytest.mark.parametrize("signal", [0.0, 2.0, 50.0])
def test_the_retriever_finds_a_document_as_often_as_it_says(signal: float) -> None:
    kind = Retrieved(signal=signal)
    worlds = kind.worlds(np.random.default_rng(0), 400)
    rows, people = np.arange(400)[:, None], np.arange(kind.people)
    wanted = people * kind.relations + worlds.relation[rows]
    place = (worlds.ranked == wanted[..., None]).argmax(-1)
    for documents in (1, 2, 4, 16):
        said = kind.recall(documents)
        exact = {0.0: documents / 36, 50.0: min(1.0, documents / 3)}.get(signal, said)
        assert said == pytest.approx(exact, abs=1e-6)
        assert (place < documents).mean() == pytest.approx(said, abs=4 * np.sqrt(said * (1 - said) / place.size) + 1e-9)


def test_people_are_told_of_others_once_and_examples_are_of_people_outside() -> None:
    worlds = Retrieved(flawed=0.3).worlds(np.random.default_rng(1), 2000)
    told = np.sort(worlds.told, axis=2)
    assert (np.diff(told) > 0).all() and (worlds.told != np.arange(12)[:, None]).all()
    assert not (worlds.names[:, None] == worlds.shots[:, :, :1] - 3).any()
    flawed = (forms(worlds.shots[..., 1]) != worlds.relation[:, None]).mean()
    assert flawed == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 16000))
    one = worlds.told[7]
    relation, at = worlds.relation[7], 0
    for _ in range(worlds.hops[7]):
        at = one[at, relation]
    assert worlds.target[7] == at


def test_a_context_is_written_as_by_hand_and_costs_its_tokens() -> None:
    """Names 0 to 5 are tokens 3 to 8, in the form of relation 0 they are 9 to 14, and of relation 1, 15 to 20."""
    kind = Retrieved(names=6, people=4, relations=2, most_shots=2, most_documents=3, asked=1)
    told = np.array([[[1, 2], [2, 3], [3, 0], [0, 1]]])
    ranked = np.array([[[7, 1, 0, 2, 3, 4, 5, 6]] * 4])
    shots = np.array([[[8, 15], [7, 9]]])
    worlds = Worlds(np.array([[5, 2, 0, 1]]), told, np.array([1]), ranked, shots, np.array([2]))
    asked = np.array([3])
    found = kind.given(worlds, asked, 3, np.array([0]))
    assert found.tolist() == [[7, 1, 0]] and kind.given(worlds, asked, 3, np.array([6])).tolist() == [[5, 6, 7]]
    text = kind.context(worlds, 2, found, asked[:, None])[0].tolist()
    # person 3 has name 1 and, of relation 1, person 1 (name 2); person 0 (name 5) persons 2 (name 0) and 1 (name 2)
    assert text == [1, 8, 15, 1, 7, 9, 4, 17, 8, 15, 8, 11, 1, 4]
    assert len(text) == kind.cost(3, 2) and kind.cost(3, 2, iterations=3) == 42
    assert kind.answers(worlds, found, np.array([[3, 0, 1]])).tolist() == [[17, 15, NONE]]


def test_labels_are_what_the_documents_of_a_context_tell() -> None:
    data = KIND.draw(np.random.default_rng(2), 200)
    assert data.tokens.shape == (200, 3 * 8 + 2 * 16 + 2 * 4) and data.scored.sum() == 800
    sizes, known = set(), 0
    for tokens, labels, scored in zip(*data, strict=True):
        row = tokens[tokens > 0]
        marks = int((row == 1).sum()) - 4
        examples, documents, asked = parsed(row, marks, 4)
        sizes.add((marks, len(documents)))
        pairs = {(name, int(forms(value))): value for name, value in documents}
        assert len(pairs) == len(documents) == len(set(pairs))
        if examples:
            relation = int(forms(examples[0][2]))
            assert labels[scored].tolist() == [pairs.get((name, relation), NONE) for name in asked]
            known += int((labels[scored] != NONE).sum())
    assert {shots for shots, _ in sizes} == set(range(9)) and {n for _, n in sizes} == set(range(1, 17)) and known > 100


def reader(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds what one example asks for, or names who is outside: the person of the example itself."""
    values = []
    for row in tokens:
        ((_, who, shown),), documents, (name,) = parsed(row, 1, 1)
        pairs = {(one, int(forms(value))): value for one, value in documents}
        values.append(pairs.get((name, int(forms(shown))), -(who - 3 + 27)))
    found = np.array(values)
    return found < 0, np.abs(found)


@pytest.mark.parametrize(("signal", "documents"), [(50.0, 3), (50.0, 1), (1.0, 2), (1.0, 5)])
def test_a_reader_who_errs_never_needs_the_iterations_that_a_plain_loop_counts(signal: float, documents: int) -> None:
    kind = Retrieved(signal=signal, flawed=0.0)
    worlds = kind.worlds(np.random.default_rng(3), 60)
    right = kind.followed(worlds, documents, 1, 8, reader)
    for i in range(60):
        needed, at = 0, 0
        for _ in range(worlds.hops[i]):
            wanted = at * kind.relations + worlds.relation[i]
            needed += worlds.ranked[i, at].tolist().index(wanted) // documents + 1
            at = worlds.told[i, at, worlds.relation[i]]
        assert right[i].tolist() == [count >= needed for count in range(1, 9)]
    if (signal, documents) == (50.0, 3):
        assert (right == (worlds.hops[:, None] <= np.arange(1, 9))).all()


def test_a_guess_counts_where_no_iteration_is_left_and_a_stranger_ends_the_search() -> None:
    """Who never finds anything but always knows the answer is right with one hop, however many iterations."""
    worlds = KIND.worlds(np.random.default_rng(4), 50)
    answer = KIND.value(worlds.names[np.arange(50), worlds.target], worlds.relation)
    single = Worlds(*(x[worlds.hops == 1] for x in worlds))

    def guess(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ones(len(tokens), bool), answer[worlds.hops == 1]

    assert KIND.followed(single, 2, 1, 4, guess).all()
    calls = []

    def stranger(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(len(tokens))
        return np.zeros(len(tokens), bool), tokens[:, 1] + 24

    assert not KIND.followed(worlds, 2, 1, 4, stranger).any() and calls == [50]


def test_settings_that_fit_no_corpus_are_refused() -> None:
    for wrong, told in (
        ({"people": 24}, "retrieved.names: is 24: use more than 24"),
        ({"most_documents": 40}, "retrieved.most_documents: is 40: use 1 to 36, which there are"),
        ({"flawed": 1.5}, "retrieved.flawed: is 1.5: use 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=told):
            Retrieved(**wrong)  # type: ignore[arg-type]
