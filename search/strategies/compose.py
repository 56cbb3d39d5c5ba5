"""Compositions (Archon, Saad-Falcon et al. 2024): typed components, one after the other, and a search over them.

A component maps a list of candidates to a list and says what that cost; a composition is a chain of components whose
types fit, and ends with one candidate. Everything is paid from one ledger, and nothing starts that could exceed what
is left of its budget.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from models.errors import ConfigError, require
from search.ledger import Cost, Ledger
from search.searcher import Searcher, SearchProblem
from search.strategies.votes import elect

Kind = Literal["generate", "rank", "fuse", "critique", "revise", "verify", "unit_test"]
Texts = Callable[[SearchProblem, Sequence["Proposal"]], Any]


@dataclass(frozen=True)
class Proposal:
    """A candidate on its way through a composition: its tokens, score, and what critics wrote about it."""

    tokens: tuple[int, ...]
    score: float = 0.5
    complete: bool = True
    critiques: tuple[tuple[int, ...], ...] = ()


Run = Callable[[SearchProblem, list[Proposal]], tuple[list[Proposal], Cost]]


@dataclass(frozen=True)
class Component:
    """One part of a composition.

    run: (problem, candidates) -> (candidates, cost), a pure function of both. most(n): the most tokens (drawn or read
    by a verifier) that it can cost for n candidates; gives(n): the most candidates it can return for n.
    """

    name: str
    kind: Kind
    run: Run
    most: Callable[[int], int]
    gives: Callable[[int], int]

    def __post_init__(self) -> None:
        require(self.kind in get_args(Kind), "component.kind", f"is {self.kind!r}", f"use one of {get_args(Kind)}")


def tokens_of(cost: Cost) -> int:
    """What budgets count: tokens drawn, and read by verifiers."""
    return cost.generated_tokens + cost.verifier_tokens


def added(costs: Sequence[Cost]) -> Cost:
    """The sum of costs that follow each other: depth adds up too."""
    return Cost(*(sum(getattr(c, f.name) for c in costs) for f in dataclasses.fields(Cost)))


# ---- components ----------------------------------------------------------------------------------------------------


def generate(searcher: Searcher, name: str | None = None) -> Component:
    """Candidates that a search finds, those that are complete; they join the ones that are there.

    The search must have a token budget, so that its cost is bounded before it starts.
    """
    most = _bound(searcher)

    def run(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        found = next(searcher.run([problem]))
        new = [Proposal(c.tokens, c.score) for c in found.candidates if c.complete]
        return before + new, found.cost

    store = searcher.strategy.store
    return Component(name or f"generate_{searcher.strategy.name}", "generate", run, lambda n: most, lambda n: n + store)


def _bound(searcher: Searcher) -> int:
    budget = searcher.config.budget
    if budget is None or budget.unit != "tokens":
        raise ConfigError("compose.generate", "needs a search with a budget in tokens", "set search.budget=Budget(n)")
    return int(budget.amount)


def written_by(
    searcher: Searcher, kind: Literal["fuse", "critique", "revise"], prompt: Texts, name: str | None = None
) -> Component:
    """A policy fuses all candidates into one, criticises each, or writes each anew: it goes on from
    `prompt(problem, candidates)`.

    For a critique and a revision the prompt is made of one candidate at a time, with the critiques that it got. A fuser
    that gives no answer keeps the first candidate, a reviser the one that it read; a critic that gives none adds
    nothing. Random numbers depend on the problem's number, as everywhere.
    """
    most = _bound(searcher)

    def ask(problem: SearchProblem, group: Sequence[Proposal]) -> tuple[tuple[int, ...] | None, float, Cost]:
        found = next(searcher.run([SearchProblem(problem.number, prompt(problem, group), problem.payload)]))
        return found.answer, 0.5 if found.best is None else found.candidates[found.best].score, found.cost

    def fuse(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        answer, score, cost = ask(problem, before)
        return [before[0] if answer is None else Proposal(answer, score)], cost

    def critique(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        asked = [ask(problem, [p]) for p in before]
        after = [
            p if a is None else dataclasses.replace(p, critiques=(*p.critiques, a))
            for p, (a, _, _) in zip(before, asked)
        ]
        return after, added([cost for _, _, cost in asked])

    def revise(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        asked = [ask(problem, [p]) for p in before]
        after = [p if a is None else Proposal(a, score) for p, (a, score, _) in zip(before, asked)]
        return after, added([cost for _, _, cost in asked])

    name = name or f"{kind}_{searcher.strategy.name}"
    if kind == "fuse":
        return Component(name, "fuse", fuse, lambda n: most, lambda n: 1)
    return Component(name, kind, critique if kind == "critique" else revise, lambda n: n * most, lambda n: n)


def rank(
    keep: int,
    scores: Callable[[SearchProblem, Sequence[Proposal]], Sequence[float]] | None = None,
    max_tokens: int = 0,
) -> Component:
    """The `keep` candidates of the highest score, best first; of equals the first.

    scores: a verifier that gives new scores (None: those they have), charged as in `verify`.
    """
    require(keep >= 1, "compose.rank", f"keeps {keep}", "keep 1 or more")

    def run(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        given = [p.score for p in before] if scores is None else [float(s) for s in scores(problem, before)]
        order = sorted(range(len(before)), key=lambda i: (-given[i], i))[:keep]
        read = 0 if scores is None else sum(min(len(p.tokens), max_tokens) for p in before)
        return [dataclasses.replace(before[i], score=given[i]) for i in order], Cost(verifier_tokens=read)

    most = 0 if scores is None else max_tokens
    return Component(f"rank_{keep}", "rank", run, lambda n: n * most, lambda n: min(n, keep))


def verify(accepts: Callable[[SearchProblem, Proposal], bool], max_tokens: int = 0, name: str = "verify") -> Component:
    """Only candidates that a verifier accepts; all of them when it accepts none.

    max_tokens: the longest candidate, when the verifier reads each token once and that is to be charged; 0: it is free.
    """

    def run(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        accepted = [p for p in before if accepts(problem, p)]
        read = sum(min(len(p.tokens), max_tokens) for p in before)
        return accepted or before, Cost(verifier_tokens=read)

    return Component(name, "verify", run, lambda n: n * max_tokens, lambda n: n)


def unit_test(
    tests: Callable[[SearchProblem], tuple[Sequence[Any], Cost]],
    passes: Callable[[SearchProblem, Proposal, Any], bool],
    most: int = 0,
    name: str = "unit_test",
) -> Component:
    """Every candidate is run on a problem's tests; its score is the share of them that it passes.

    tests: those of the task, which cost nothing, or those that a policy writes, with what that cost, which is at most
    `most` tokens and does not grow with the candidates. Without tests candidates stay as they are.
    """

    def run(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        written, cost = tests(problem)
        if not written:
            return before, cost
        shares = [sum(passes(problem, p, test) for test in written) / len(written) for p in before]
        return [dataclasses.replace(p, score=share) for p, share in zip(before, shares, strict=True)], cost

    return Component(name, "unit_test", run, lambda n: most, lambda n: n)


def vote(answer: Callable[[tuple[int, ...]], Any], weighted: bool = False) -> Component:
    """The first candidate with the winning answer: fusing without a model."""

    def run(problem: SearchProblem, before: list[Proposal]) -> tuple[list[Proposal], Cost]:
        won = elect([answer(p.tokens) for p in before], [p.score for p in before] if weighted else None)
        return [before[0 if won is None else won.candidate]], Cost()

    return Component("weighted_vote" if weighted else "majority", "fuse", run, lambda n: 0, lambda n: 1)


# ---- compositions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Composition:
    """Components one after the other; checked when it is made.

    The first, and no later one, generates; the last leaves one candidate. `most`: the most tokens of one problem.
    """

    components: tuple[Component, ...]
    most: int = field(init=False)

    def __post_init__(self) -> None:
        require(bool(self.components), "composition", "is empty", "begin with generate")
        first, *later = self.components
        require(
            first.kind == "generate", "composition", f"begins with {first.kind} {first.name}", "begin with generate"
        )
        number, most = 0, 0
        for component in self.components:
            most += component.most(number)
            number = component.gives(number)
        late = [c.name for c in later if c.kind == "generate"]
        require(not late, "composition", f"generates again in {late}", "generate in the first component only")
        fix = "end with rank(1) or a fuser"
        require(number == 1, "composition", f"ends with up to {number} candidates", fix)
        object.__setattr__(self, "most", most)

    @property
    def name(self) -> str:
        """The components' names, in order."""
        return " > ".join(c.name for c in self.components)

    def run(self, problem: SearchProblem) -> tuple[Proposal | None, Cost]:
        """(the answer, None when nothing was generated; what it cost)."""
        proposals: list[Proposal] = []
        costs: list[Cost] = []
        for component in self.components:
            proposals, cost = component.run(problem, proposals)
            costs.append(cost)
            if not proposals:
                return None, added(costs)
        return proposals[0], added(costs)


def compositions(layers: Sequence[Sequence[Component | None]]) -> list[Composition]:
    """Every composition with one component of each layer (None: leave the layer out) whose types fit, in that order."""
    chains: list[tuple[Component, ...]] = [()]
    for layer in layers:
        chains = [chain if c is None else (*chain, c) for chain in chains for c in layer]
    found = []
    for chain in chains:
        try:
            found.append(Composition(chain))
        except ConfigError:
            continue
    return found


@dataclass(frozen=True)
class Trial:
    """A composition and what it did: rewards by the problem's number."""

    composition: Composition
    rewards: Mapping[int, float]

    @property
    def mean(self) -> float:
        """The mean reward; -inf before the first problem."""
        return float(np.mean(list(self.rewards.values()))) if self.rewards else -np.inf


@dataclass(frozen=True)
class Chosen:
    """The best composition, every trial, and the ledger of the whole search; exhausted: the budget ended it early."""

    best: Trial
    trials: tuple[Trial, ...]
    ledger: Ledger
    exhausted: bool


Reward = Callable[[SearchProblem, Proposal | None], float]


class _Purse:
    """Runs compositions while the ledger's total, and what one more problem could cost, stay within a budget."""

    def __init__(self, budget: int, reward: Reward):
        self.budget, self.reward, self.ledger, self.exhausted = budget, reward, Ledger(), False

    def try_on(self, trial: Trial, problems: Sequence[SearchProblem]) -> Trial:
        """The trial with the rewards of these problems added, of as many as the budget allows."""
        rewards = dict(trial.rewards)
        for problem in problems:
            if problem.number in rewards:
                continue
            if tokens_of(self.ledger.total) + trial.composition.most > self.budget:
                self.exhausted = True
                break
            answer, cost = trial.composition.run(problem)
            self.ledger.charge(problem.number, **vars(cost))
            rewards[problem.number] = float(self.reward(problem, answer))
        return Trial(trial.composition, rewards)


def _chosen(trials: Sequence[Trial], candidates: Sequence[Trial], purse: _Purse) -> Chosen:
    seen = [t for t in candidates if t.rewards]
    require(bool(seen), "budget", f"of {purse.budget} tokens pays for no problem", "raise it")
    return Chosen(max(seen, key=lambda t: t.mean), tuple(trials), purse.ledger, purse.exhausted)


def random_search(
    space: Sequence[Composition], problems: Sequence[SearchProblem], reward: Reward, budget: int, seed: int = 0
) -> Chosen:
    """Compositions in random order, each on all problems, until the token budget is used; the best mean reward wins.

    A composition that the budget stopped in the middle is not chosen unless it is the only one. Ties: the earlier.
    """
    require(bool(space), "space", "is empty", "give compositions")
    purse, trials = _Purse(budget, reward), []
    for place in np.random.default_rng(seed).permutation(len(space)):
        trials.append(purse.try_on(Trial(space[int(place)], {}), problems))
        if purse.exhausted:
            break
    whole = [t for t in trials if len(t.rewards) == len(problems)]
    return _chosen(trials, whole or trials, purse)


def successive_halving(
    space: Sequence[Composition],
    problems: Sequence[SearchProblem],
    reward: Reward,
    budget: int,
    eta: int = 2,
    first: int = 1,
) -> Chosen:
    """All compositions on the first problems; the best 1/eta of them on eta times as many, and so on (Jamieson 2016).

    Rounds see prefixes of `problems`, so that what was measured is kept: a round pays only for its new problems. Every
    composition of a round is measured on the same problems; a round that the budget cuts short does not count. Ties:
    the earlier. first: problems of the first round.
    """
    require(bool(space), "space", "is empty", "give compositions")
    require(eta >= 2, "eta", f"is {eta}", "use 2 or more")
    purse = _Purse(budget, reward)
    trials = {place: Trial(c, {}) for place, c in enumerate(space)}
    alive, number, candidates = list(trials), first, list(trials.values())
    while True:
        given = problems[:number]
        for place in alive:
            trials[place] = purse.try_on(trials[place], given)
        complete = all(len(trials[place].rewards) >= len(given) for place in alive)
        if complete or not any(t.rewards for t in candidates):
            candidates = [trials[place] for place in alive]
        if not complete or number >= len(problems):
            break
        alive = sorted(alive, key=lambda place: (-trials[place].mean, place))[: max(1, len(alive) // eta)]
        if len(alive) == 1:
            candidates = [trials[alive[0]]]
            break
        alive.sort()
        number = min(number * eta, len(problems))
    return _chosen(list(trials.values()), candidates, purse)


def grow(
    generators: Sequence[Component],
    layers: Sequence[Component],
    ends: Sequence[Component],
    problems: Sequence[SearchProblem],
    reward: Reward,
    budget: int,
    most: int,
    depth: int = 3,
) -> Chosen:
    """Layer by layer, the one that raises the mean reward most, at equal cost (greedy; after Archon's search).

    Between a generator and an end lie no layers at first. In every stage each of `layers` is tried at every place among
    those that were chosen, with each of `ends`, and begun by the last of `generators`, which are in order of size, with
    which the composition costs at most `most` tokens a problem: a layer is paid for with candidates. It stops after
    `depth` layers, or when none raises the mean. Ties: the earlier. `trials` are in the order of stages.
    """
    purse, trials, layered = _Purse(budget, reward), list[Trial](), tuple[Component, ...]()
    best: Trial | None = None
    for stage in range(depth + 1):
        places = range(len(layered) + 1)
        bodies = [(*layered[:i], layer, *layered[i:]) for layer in layers for i in places] if stage else [layered]
        space = [_largest(generators, (*body, end), most) for body in dict.fromkeys(bodies) for end in ends]
        new = [purse.try_on(Trial(c, {}), problems) for c in space if c is not None]
        require(bool(new or trials), "most", f"of {most} tokens pays for no composition", "raise it")
        trials += new
        whole = [trial for trial in new if len(trial.rewards) == len(problems)]
        if not whole:
            break
        winner = max(whole, key=lambda trial: trial.mean)
        if best is not None and winner.mean <= best.mean:
            break
        best, layered = winner, winner.composition.components[1:-1]
    return _chosen(trials, trials if best is None else [best], purse)


def _largest(generators: Sequence[Component], rest: tuple[Component, ...], most: int) -> Composition | None:
    """The composition begun by the last generator with which it fits and costs at most so many tokens."""
    for generator in reversed(generators):
        found = compositions([[component] for component in (generator, *rest)])
        if found and found[0].most <= most:
            return found[0]
    return None
