"""Retrieved: questions about people whom only documents know, a retriever that errs, and a reader who asks in turn.

A small world for what a context is spent on (Yue et al. 2024, arXiv:2410.04343): documents, examples, or iterations
that ask one sub-question each (DRAG with one iteration, IterDRAG with more).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from models.errors import require
from scaling.tasks.sequences import Labelled

FILL, QUESTION, NONE = 0, 1, 2  # tokens; the last says that no document tells the answer
_FIRST = 3  # token of the first name

Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""tokens `[rows, length]` -> (whether the reader says NONE `[rows]` bool, the value token that it finds likeliest)."""


class Worlds(NamedTuple):
    """Corpora with a question each. Persons and their documents have numbers: that of person p about relation r is
    p * relations + r.

    names `[rows, people]`: of the persons. told `[rows, people, relations]`: the person whom a document names.
    relation `[rows]`: the one that all sub-questions of the row are about. ranked `[rows, people, documents]`: the
    documents in the order in which the retriever gives them to a question about a person. shots `[rows, most, 2]`:
    tokens of examples, a name and a value each. hops `[rows]`: how often the relation is followed from person 0.
    """

    names: np.ndarray
    told: np.ndarray
    relation: np.ndarray
    ranked: np.ndarray
    shots: np.ndarray
    hops: np.ndarray

    @property
    def target(self) -> np.ndarray:
        """The person whom the question asks for `[rows]`."""
        rows, at = np.arange(len(self.hops)), np.zeros(len(self.hops), int)
        for hop in range(int(self.hops.max(initial=0))):
            at = np.where(hop < self.hops, self.told[rows, at, self.relation], at)
        return at


@dataclass(frozen=True)
class Retrieved:
    """People of whom a document tells one relation each: a name, and the name of another in a form of the relation.

    A question names a person and not the relation: examples, which are about people outside the corpus, show it, and
    `flawed` of them show another. Of 1 to `most_hops` hops each is alike often. The retriever scores a document by
    `signal` where it is about the person asked for, plus standard normal noise, and gives the highest first.
    """

    names: int = 24
    people: int = 12
    relations: int = 3
    signal: float = 2.0
    flawed: float = 0.3
    most_shots: int = 8
    most_documents: int = 16
    most_hops: int = 3
    asked: int = 4  # questions of a sequence to train on
    absent: float = 0.5  # share of them that no document there answers

    def __post_init__(self) -> None:
        least = self.relations + 1
        require(self.relations >= 2, "retrieved.relations", f"is {self.relations}", "use 2 or more")
        require(self.people >= least, "retrieved.people", f"is {self.people}", f"use {least} or more")
        fix = f"use more than {self.people} (retrieved.people)"
        require(self.names > self.people, "retrieved.names", f"is {self.names}", fix)
        for field in ("flawed", "absent"):
            require(0 <= getattr(self, field) <= 1, f"retrieved.{field}", f"is {getattr(self, field)}", "use 0 to 1")
        for field in ("most_shots", "most_hops", "asked"):
            require(getattr(self, field) >= 1, f"retrieved.{field}", f"is {getattr(self, field)}", "use 1 or more")
        fix = f"use 1 to {self.documents}, which there are"
        most = self.most_documents
        require(1 <= most <= self.documents, "retrieved.most_documents", f"is {most}", fix)

    @property
    def documents(self) -> int:
        """Of a corpus."""
        return self.people * self.relations

    @property
    def vocab_size(self) -> int:
        """Marks, names, and a form of each name for each relation."""
        return _FIRST + self.names * (1 + self.relations)

    def worlds(self, rng: np.random.Generator, rows: int) -> Worlds:
        """So many."""
        names = np.argsort(rng.random((rows, self.names)), axis=1)
        others = np.argsort(rng.random((rows, self.people, self.people - 1)), axis=2)[..., : self.relations]
        told = others + (others >= np.arange(self.people)[:, None])  # nobody is told of themselves, nor of one twice
        relation = rng.integers(self.relations, size=rows)
        owner = np.arange(self.documents) // self.relations
        about = self.signal * (owner == np.arange(self.people)[:, None])
        ranked = np.argsort(-about - rng.normal(size=(rows, self.people, self.documents)), axis=2)
        size = (rows, self.most_shots)
        wrong = (relation[:, None] + rng.integers(1, self.relations, size)) % self.relations
        shown = np.where(rng.random(size) < self.flawed, wrong, relation[:, None])
        outside = names[:, self.people :]
        who = np.take_along_axis(outside, rng.integers(outside.shape[1], size=size), axis=1)
        shots = np.stack([_FIRST + who, self.value(rng.integers(self.names, size=size), shown)], axis=2)
        hops = rng.integers(1, self.most_hops + 1, rows)
        return Worlds(names[:, : self.people], told, relation, ranked, shots, hops)

    def value(self, name: np.ndarray, relation: np.ndarray) -> np.ndarray:
        """The token of a name in the form of a relation."""
        return _FIRST + self.names * (1 + relation) + name

    def recall(self, documents: int) -> float:
        """Chance that the document asked for is among the first so many: how good the retriever is, exactly.

        By its score z, those before it are a sum of two binomial counts: of the same person and of others.
        """
        about = self.relations
        z = np.linspace(-9, 9 + self.signal, 4001)
        alike = stats.binom.pmf(np.arange(about)[:, None], about - 1, stats.norm.sf(z - self.signal))
        fewer = stats.binom.cdf(documents - 1 - np.arange(about)[:, None], self.documents - about, stats.norm.sf(z))
        return min(1.0, float(np.trapezoid(stats.norm.pdf(z - self.signal) * (alike * fewer).sum(0), z)))

    def cost(self, documents: int, shots: int, iterations: int = 1) -> int:
        """Tokens that are read: a document is two, an example three, a question two."""
        return iterations * (2 * documents + 3 * shots + 2)

    def context(self, worlds: Worlds, shots: int, found: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """`[rows, cost]`: examples, documents of these numbers `[rows, documents]`, questions about these persons
        `[rows, questions]`."""
        rows = np.arange(len(found))[:, None]
        who, about = found // self.relations, found % self.relations
        told = np.take_along_axis(worlds.names, worlds.told[rows, who, about], axis=1)
        pairs = np.stack([_FIRST + np.take_along_axis(worlds.names, who, axis=1), self.value(told, about)], axis=2)
        examples = np.insert(worlds.shots[:, :shots], 0, QUESTION, axis=2)
        questions = np.insert(_FIRST + np.take_along_axis(worlds.names, asked, axis=1)[..., None], 0, QUESTION, axis=2)
        return np.concatenate([x.reshape(len(rows), -1) for x in (examples, pairs, questions)], axis=1).astype(np.int32)

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """Contexts to learn to read from, filled up at the front: of random sizes, with documents that the retriever
        gave to a question about somebody, first ones or those that follow. Labels are the answers or NONE."""
        worlds, at = self.worlds(rng, rows), np.arange(self.most_documents)
        size = rng.integers(1, self.most_documents + 1, rows)
        shots = rng.integers(self.most_shots + 1, size=rows)
        one, before = rng.integers(self.people, size=rows), np.where(rng.random(rows) < 1 / 3, size, 0)
        found, there = self.given(worlds, one, self.most_documents, before), at < size[:, None]
        everyone = np.broadcast_to(np.arange(self.people), (rows, self.people))
        known = self.answers(worlds, np.where(there, found, -1), everyone) != NONE
        wanted = known[:, None] == (rng.random((rows, self.asked, 1)) >= self.absent)
        asked = (wanted + rng.random(wanted.shape)).argmax(2)  # any of the wanted ones, or of all where there is none
        whole = self.context(worlds, self.most_shots, found, asked)
        said = np.arange(self.most_shots) < shots[:, None]
        parts = [np.repeat(said, 3, axis=1), np.repeat(there, 2, axis=1), np.ones((rows, 2 * self.asked), bool)]
        keeps = np.concatenate(parts, axis=1)
        order = np.argsort(keeps, axis=1, kind="stable")  # what is left out comes first
        tokens = np.take_along_axis(np.where(keeps, whole, FILL), order, axis=1)
        labels = np.zeros_like(tokens)
        labels[:, 1 - 2 * self.asked :: 2] = self.answers(worlds, np.where(there, found, -1), asked)
        return Labelled(tokens, labels, labels > 0)

    def answers(self, worlds: Worlds, found: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """What the documents tell `[rows, questions]`: the value of each person's document of the relation, or NONE."""
        rows, relation = np.arange(len(found))[:, None], worlds.relation[:, None]
        there = (found[:, None, :] == (asked * self.relations + relation)[..., None]).any(2)
        told = np.take_along_axis(worlds.names, worlds.told[rows, asked, relation], axis=1)
        return np.where(there, self.value(told, relation), NONE)

    def given(self, worlds: Worlds, asked: np.ndarray, documents: int, before: np.ndarray) -> np.ndarray:
        """So many documents for the person asked about `[rows]`, those that follow the first `before` of the ranking;
        after the last come the first again. `[rows, documents]`."""
        at = (before[:, None] + np.arange(documents)) % self.documents
        return np.take_along_axis(worlds.ranked[np.arange(len(asked)), asked], at, axis=1)

    def followed(self, worlds: Worlds, documents: int, shots: int, iterations: int, read: Read) -> np.ndarray:
        """Whether the answer is right where 1, 2, ... `iterations` are allowed, `[rows, iterations]` bool.

        In each iteration the reader sees the examples, so many documents and a sub-question about one person. It names
        another, who is asked about next, or says NONE, and gets the documents that follow in the ranking. In the last
        one allowed it must name somebody. A name that is nobody's in the corpus ends the search.
        """
        rows = len(worlds.hops)
        at, before, left, target = np.zeros(rows, int), np.zeros(rows, int), worlds.hops.copy(), worlds.target
        right = np.zeros((rows, iterations), bool)
        asking, done = np.arange(rows), np.zeros(rows, bool)
        for i in range(iterations):
            right[:, i] = done
            if not len(asking):
                continue
            some = Worlds(*(x[asking] for x in worlds))
            found = self.given(some, at[asking], documents, before[asking])
            none, value = read(self.context(some, shots, found, at[asking, None]))
            hit = some.names == ((value - _FIRST) % self.names)[:, None]
            named = np.where(hit.any(1), hit.argmax(1), -1)
            last = left[asking] == 1
            right[asking, i] = last & (named == target[asking])
            before[asking] = np.where(none, before[asking] + documents, 0)
            at[asking], left[asking] = np.where(none, at[asking], named), left[asking] - ~none
            done[asking] = right[asking, i]
            asking = asking[(left[asking] > 0) & (at[asking] >= 0)]
        return right

