"""Decontamination: training texts that say what a test item says, in its words (n-grams) or in others (word vectors).

After He et al. 2025 (DeepMath-103K, arXiv:2504.11456), with weighted words (Sparck Jones 1972) in place of a trained
embedding, and without their strongest directions (Mu & Viswanath 2018, arXiv:1702.01417): what most texts share is
their form. Numbers are words: two problems of the same form are told apart by them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import svds

from models.errors import require
from scaling.evaluate.measures.leakage import words

_AT_ONCE = 256  # texts whose similarities with all documents are in memory together


@dataclass(frozen=True)
class Neighbours:
    """Texts as unit vectors of their words, each weighted by how few of the texts have it.

    places: word -> column; weights `[words]` float64: 1 + log((1 + texts) / (1 + texts that have it)), which an unknown
    word has as if none did; vectors: `[texts, words]`, sparse; form: `[words, top]` orthonormal, the directions along
    which the vectors are longest together and that no similarity reads.
    """

    places: dict[str, int]
    weights: np.ndarray
    vectors: scipy.sparse.csr_matrix
    form: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str], top: int = 0) -> Neighbours:
        """Of training documents; `top` directions are left out. Raises ConfigError when there is none, or too few."""
        require(len(texts) > 0, "texts", "are none", "give at least one document")
        having = Counter(word for text in texts for word in set(words(text)))
        places = {word: i for i, word in enumerate(sorted(having))}
        found = np.array([having[word] for word in places], dtype=np.float64)
        weights = 1 + np.log((1 + len(texts)) / (1 + found))
        vectors = _vectors(texts, places, weights, len(texts))
        fix = f"give less than {min(vectors.shape)}"
        require(0 <= top < max(1, min(vectors.shape)), "top", f"is {top} of {min(vectors.shape)} directions", fix)
        form = svds(vectors, top, v0=np.ones(min(vectors.shape)))[2].T if top else np.zeros((len(places), 0))
        return cls(places, weights, vectors, form)

    def similarity(self, texts: Sequence[str]) -> np.ndarray:
        """Cosine of each text with the nearest document `[texts]` float64, 0 or more; 0 without a known word."""
        given = _vectors(texts, self.places, self.weights, self.vectors.shape[0])
        found = np.zeros(len(texts))
        documents, rest = self._apart(self.vectors)
        for start in range(0, len(texts), _AT_ONCE):
            some = given[start : start + _AT_ONCE]
            inner, left = self._apart(some)
            cosine = ((some @ self.vectors.T).toarray() - inner @ documents.T) / (left[:, None] * rest)
            found[start : start + _AT_ONCE] = cosine.max(axis=1).clip(0)
        return found

    def _apart(self, vectors: scipy.sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """(each vector's part along the form `[texts, top]`, the length of the rest `[texts]`, not below 1e-9)."""
        along = vectors @ self.form
        return along, np.sqrt((1 - (along**2).sum(axis=1)).clip(1e-18))

    def least(self, clean: Sequence[str], wrongly: float = 0.01) -> float:
        """The similarity that at most the share `wrongly` of texts known to be clean exceed."""
        require(0 <= wrongly < 1, "wrongly", f"is {wrongly}", "give a share below 1")
        ranked = np.sort(self.similarity(clean))[::-1]
        require(len(ranked) > 0, "clean", "are no texts", "give texts written after the training text")
        return float(ranked[int(wrongly * len(ranked))])

    def flagged(self, texts: Sequence[str], least: float) -> np.ndarray:
        """Whether each text is nearer than `least` to some document `[texts]` bool."""
        return self.similarity(texts) > least


def _vectors(
    texts: Sequence[str], places: dict[str, int], weights: np.ndarray, documents: int
) -> scipy.sparse.csr_matrix:
    """Unit vectors `[texts, words]` of known words; unknown ones count in the length alone."""
    unknown = 1 + np.log(1 + documents)
    rows, columns, values = [], [], []
    for row, text in enumerate(texts):
        counted = Counter(words(text))
        weighed = {w: n * (weights[places[w]] if w in places else unknown) for w, n in counted.items()}
        length = np.sqrt(sum(value**2 for value in weighed.values()))
        for word, value in weighed.items():
            if word in places:
                rows.append(row)
                columns.append(places[word])
                values.append(value / length)
    return scipy.sparse.csr_matrix((values, (rows, columns)), shape=(len(texts), len(places)))
