"""Decontamination: similarities are those of a loop over words, and a rewording keeps what the question asks."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.data.select import Neighbours
from scaling.evaluate.measures.leakage import words
from scaling.tasks.word_problems import reworded, word_problems

DOCUMENTS = ["Tom has 3 pens, Tom buys 4", "Ana has 4 books", "a river runs"]
ASKED = ["Has Tom 4 pens?", "Ana has 4 books!", "Zebras", "", "a a river of 3 zebras"]


def weight(word: str) -> float:
    return 1 + math.log((1 + len(DOCUMENTS)) / (1 + sum(word in words(text) for text in DOCUMENTS)))


def cosine(one: str, other: str) -> float:
    first, second = ([words(text).count(word) * weight(word) for word in sorted({*words(one), *words(other)})]
                     for text in (one, other))  # fmt: skip
    length = math.hypot(*first) * math.hypot(*second)
    return sum(a * b for a, b in zip(first, second, strict=True)) / length if length else 0.0


def test_similarities_are_the_cosines_of_a_loop_over_words() -> None:
    near = Neighbours.of(DOCUMENTS)
    expected = [max(cosine(text, document) for document in DOCUMENTS) for text in ASKED]
    np.testing.assert_allclose(near.similarity(ASKED), expected, atol=1e-12)
    assert near.flagged(ASKED, 0.99).tolist() == [False, True, False, False, False]


def test_directions_left_out_are_the_leading_singular_vectors_of_the_documents() -> None:
    near = Neighbours.of(DOCUMENTS, top=2)
    rows = near.vectors.toarray()
    _, _, directions = np.linalg.svd(rows, full_matrices=False)
    apart = rows - rows @ directions[:2].T @ directions[:2]
    apart /= np.linalg.norm(apart, axis=1, keepdims=True).clip(1e-9)
    expected = (apart @ apart.T).max(axis=1)
    np.testing.assert_allclose(near.similarity(DOCUMENTS), expected, atol=1e-6)
    with pytest.raises(ConfigError, match="top"):
        Neighbours.of(DOCUMENTS, top=3)


def test_no_more_than_the_given_share_of_clean_texts_lies_above_the_threshold() -> None:
    near = Neighbours.of(DOCUMENTS)
    for share in (0.0, 0.2, 0.5):
        assert near.flagged(ASKED, near.least(ASKED, share)).mean() <= share
    with pytest.raises(ConfigError, match="clean"):
        near.least([])
    with pytest.raises(ConfigError, match="texts"):
        Neighbours.of([])


def test_a_rewording_has_the_numbers_of_the_question_in_their_order_and_their_signs() -> None:
    rng = np.random.default_rng(0)
    for problem in word_problems(0, 40, largest=200):
        text = reworded(problem, rng)
        assert re.findall(r"\d+", text) == re.findall(r"\d+", problem.question) and text.endswith("\n")
        now, *amounts = map(int, re.findall(r"\d+", text))
        signs = [1 if way in ("come in", "are received") else -1
                 for way in re.findall("come in|are received|go out|are handed on", text)]  # fmt: skip
        assert now + sum(s * a for s, a in zip(signs, amounts, strict=True)) == int(problem.answer)
        assert not {problem.question.split()[0]} & set(re.findall(r"\w+", text))
