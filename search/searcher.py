"""Searcher: runs a strategy over a stream of problems, some side by side, each as if it were alone."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.errors import ConfigError, require
from search.config import SearchConfig
from search.costs import Costs
from search.decoder import Decoder, Price
from search.engine.program import Program
from search.engine.text_stop import Spelling
from search.ledger import Cost, Ledger
from search.population import ENDED, FORCED
from search.rounds import Extension, Rounds, State
from search.saved import Keep, identity, read, write
from search.strategies.strategy import Strategy
from search.verifiers.scorer import Judge, Scorer, Unscored

# (payload of each row's problem, tokens of each row) -> scores in (0, 1), one per row, or Verdicts
HostScores = Callable[[Sequence[Any], Sequence[tuple[int, ...]]], Any]


class Verdicts(NamedTuple):
    """What a verifier of the host may give instead of scores alone: with the tokens that each took, for the ledger."""

    scores: Sequence[float]
    tokens: Sequence[int]


@dataclass(frozen=True)
class SearchProblem:
    """One problem: its number, which its random numbers depend on, its prompt, and what a host verifier is given."""

    number: int
    prompt: Any
    payload: Any = None


@dataclass(frozen=True)
class Candidate:
    """One particle at the end of a search; weight: as an answer, 0 when it is none."""

    tokens: tuple[int, ...]
    logprob: float
    score: float
    weight: float
    complete: bool


@dataclass(frozen=True)
class Anytime:
    """The answer after each round, and the tokens it had cost by then (drawn and read by the verifier)."""

    tokens: tuple[tuple[int, ...], ...]
    cost: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """What a search of one problem gave.

    best: index of the answer in `candidates`, None without one. failed: why its prompt could not be read, or its
    verifier could not score it. seconds of the cost are those of the device, shared among the problems that it served
    at the same time. report: what the strategy says of its own course.
    """

    problem: SearchProblem
    candidates: tuple[Candidate, ...]
    best: int | None
    cost: Cost
    rounds: int
    out_of_budget: bool
    anytime: Anytime | None = None
    failed: str | None = None
    report: dict[str, float] = field(default_factory=dict)

    @property
    def answer(self) -> tuple[int, ...] | None:
        """The tokens of the best candidate."""
        return None if self.best is None else self.candidates[self.best].tokens


@dataclass
class _Slot:
    problem: SearchProblem
    place: int  # of the problem among all that were taken
    began: float
    seconds: float = 0.0
    failed: str | None = None


@dataclass
class _Course:
    """One call of `Searcher.run`: digests of the problems that were taken, and what was found, with their places."""

    taken: list[str] = field(default_factory=list)
    found: list[tuple[int, Found]] = field(default_factory=list)
    kept: float = 0.0  # when the state was last written


class Searcher:
    """One strategy with one policy and one scorer.

    decoder: the policy. scorer: on the device, where whole searches then run as one program; or a function of the host
    (`HostScores`), which is asked once per round. mesh: problems are shared among the devices of its `data` axis.
    host_flops: FLOPs of each token in a host function's `Verdicts`. What those took is known only afterwards, so that a
    budget may be overrun by what the last round's verdicts cost. spelling: bytes of every token, for delimiters and
    ends that are texts (`Policy.spelling`).
    """

    def __init__(
        self,
        decoder: Decoder,
        strategy: Strategy,
        config: SearchConfig,
        scorer: Scorer | Judge | HostScores | None = None,
        mesh: Mesh | None = None,
        host_flops: float = 0.0,
        spelling: Spelling = (),
    ):
        on_device = scorer is None or hasattr(scorer, "flops_per_token")
        self._host_scores: Any = None if on_device or not strategy.scored else scorer
        device_scorer: Any = scorer if on_device and scorer is not None else Unscored()
        if not on_device:
            device_scorer.flops_per_token = host_flops
        require(not strategy.scored or scorer is not None, "scorer", f"{strategy.name} needs one", "give a scorer")
        self.config, self.strategy, self.decoder = config, strategy, decoder
        self.rounds = Rounds(decoder, strategy, device_scorer, config, spelling)
        self.params: Any = (decoder.params, device_scorer.params)
        self.ledger = Ledger()
        self._scorer_flops = device_scorer.flops_per_token
        self._sharding: NamedSharding | None = None
        whole, mine = PartitionSpec(), PartitionSpec("data")
        if mesh is not None:
            shards, problem = mesh.shape["data"], f"{config.problems} do not divide into {mesh.shape['data']} shards"
            require(config.problems % shards == 0, "search.problems", problem, f"give a multiple of {shards}")
            self._sharding = NamedSharding(mesh, mine)
            self.params = jax.device_put(self.params, NamedSharding(mesh, whole))

        def each(f: Callable[..., Any], *specs: PartitionSpec) -> Callable[..., Any]:
            """`f` on every device for its own problems: they never wait for one another inside of a program."""
            return f if mesh is None else jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=mine, check_vma=False)

        rounds, compiled = self.rounds, partial(Program, out_shardings=self._sharding)
        self._admit = compiled(rounds.admit, donate_argnums=1)
        self._run = compiled(each(rounds.run, whole, mine, whole, whole), donate_argnums=1)
        self._advance = compiled(each(rounds.advance, whole, mine), donate_argnums=1)
        given = (0, 1) if strategy.replaces else 0
        self._settle = compiled(each(rounds.settle, mine, mine, mine), donate_argnums=given)
        self._answers = compiled(each(rounds.outcome, mine))
        self._slots: list[_Slot | None] = [None] * config.problems
        self._course = _Course()
        self._state = self._placed(jax.jit(self.rounds.empty)())
        self._readers = self.params[0]  # whose prompts lie in it

    @property
    def compilations(self) -> int:
        """Programs compiled so far."""
        return sum(p.compilations for p in (self._admit, self._run, self._advance, self._settle, self._answers))

    def run(self, problems: Iterable[SearchProblem], keep: Keep | None = None) -> Iterator[Found]:
        """Every problem as its search ends; problems are taken from the iterable as room appears. What an earlier run
        left unfinished is forgotten.

        keep: where the state is written between rounds. If it is there, the search goes on from it: give the same
        problems; what was found before comes again first, and everything is as if nothing had interrupted it.

        A prompt that the decoder cannot read fails its own search alone. Raises ConfigError for a state that is damaged
        or of another search.
        """
        waiting, source = True, iter(problems)
        self._course = _Course(kept=time.perf_counter())
        if any(self._slots):  # of a run that nobody finished
            self._slots = [None] * self.config.problems
            self._state = self._state._replace(occupied=jnp.zeros_like(self._state.occupied))
        if self._readers is not self.params[0]:  # no prompt goes on from what other weights have read
            self._readers, contexts = self.params[0], jax.jit(self.decoder.contexts, static_argnums=0)
            self._state = self._state._replace(contexts=self._placed(contexts(self.config.problems)))
        if keep is not None and keep.path.exists():
            self._go_on(keep, source)
            yield from [found for _, found in self._course.found]
        while True:
            entering: list[tuple[int, int, Any]] = []  # place, number, prompt
            while waiting and None in self._slots:
                problem = next(source, None)
                waiting = problem is not None
                if problem is not None:
                    refused = self._enter(problem, entering)
                    if refused is not None:
                        if keep is not None:
                            self._course.found.append((len(self._course.taken) - 1, refused))
                        yield refused
            self._read(entering)
            if not any(self._slots):
                return
            self._go(until_all=not waiting, most=2**30 if keep is None else keep.rounds)
            for place, found in self._leave():
                if keep is not None:
                    self._course.found.append((place, found))
                yield found
            if keep is not None and time.perf_counter() - self._course.kept >= keep.seconds:
                self._keep(keep)

    def _enter(self, problem: SearchProblem, entering: list[tuple[int, int, Any]]) -> Found | None:
        """Give a problem a place, or say why it cannot have one."""
        prompt, refused = self._encoded(problem)
        self._course.taken.append(_digest(problem, prompt))
        if refused:
            return Found(problem, (), None, Cost(), 0, False, failed=refused)
        slot = self._slots.index(None)
        entering.append((slot, problem.number, prompt))
        self._slots[slot] = _Slot(problem, len(self._course.taken) - 1, time.perf_counter())
        return None

    def _read(self, entering: list[tuple[int, int, Any]]) -> None:
        """Let the searches of problems that have their places begin: one program reads their prompts."""
        if entering:
            none = self.config.problems, 0, entering[0][-1]
            slots, numbers, prompts = zip(*entering, *[none] * (self.config.problems - len(entering)))
            together = jax.tree.map(lambda *each: np.stack(each), *prompts)
            given = np.array(slots, np.int32), np.array(numbers, np.uint32), together
            self._state = self._admit(self.params, self._state, *given)

    def _encoded(self, problem: SearchProblem) -> tuple[Any, str]:
        """What the decoder makes of a problem's prompt, and why it cannot (empty when it can)."""
        try:
            require(0 <= problem.number < 2**32, "number", f"is {problem.number}", "give 0 to 2^32 - 1")
            return self.decoder.encode(problem.prompt), ""
        except ConfigError as error:
            return None, str(error)
        except Exception as error:  # whatever a stranger's prompt may raise is its own
            return None, f"the prompt raised {type(error).__name__}: {error}"

    # ---- kept states -----------------------------------------------------------------------------------------------

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return identity(self.rounds, self.params, self._host_scores is not None)

    def _keep(self, keep: Keep) -> None:
        """Write down all that a new process needs."""
        now = time.perf_counter()
        slots = [
            slot and dict(place=slot.place, elapsed=now - slot.began, seconds=slot.seconds, failed=slot.failed)
            for slot in self._slots
        ]
        none = SearchProblem(0, None)  # its place says which it is
        found = [(i, dataclasses.asdict(dataclasses.replace(f, problem=none))) for i, f in self._course.found]
        host = {"taken": self._course.taken, "slots": slots, "found": found}
        write(keep.path, self._identity, self._state, host)
        self._course.kept = time.perf_counter()

    def _go_on(self, keep: Keep, source: Iterator[SearchProblem]) -> None:
        """Stand where the state that was kept stood."""
        state, host = read(keep.path, self._identity, self._state)
        taken: list[SearchProblem] = []
        for i, digest in enumerate(host["taken"]):
            problem = next(source, None)
            fix = "delete it, or give the same problems in the same order"
            if problem is None:
                raise ConfigError(str(keep.path), f"has {len(host['taken'])} problems, and here are {i}", fix)
            same = _digest(problem, self._encoded(problem)[0]) == digest
            require(same, str(keep.path), f"has another problem than number {problem.number} in place {i}", fix)
            taken.append(problem)
        now = time.perf_counter()
        self._state = self._placed(state)
        self._slots = [
            slot and _Slot(taken[slot["place"]], slot["place"], now - slot["elapsed"], slot["seconds"], slot["failed"])
            for slot in host["slots"]
        ]
        self._course.taken = host["taken"]
        self._course.found = [(i, _found_again(taken[i], found)) for i, found in host["found"]]
        for _, found in self._course.found:
            self.ledger.charge(found.problem.number, **vars(found.cost))

    # ---- rounds ----------------------------------------------------------------------------------------------------

    def _go(self, until_all: bool, most: int) -> None:
        """At most so many rounds, until some search has ended."""
        began = time.perf_counter()
        seconds = self.config.budget is not None and self.config.budget.unit == "seconds"
        if self._host_scores is None and not seconds:
            self._state = self._run(self.params, self._state, np.bool_(until_all), np.int32(most))
            jax.block_until_ready(self._state.done)
        else:
            self._round_on_host()
        taken = [slot for slot in self._slots if slot is not None]
        for slot in taken:
            slot.seconds += (time.perf_counter() - began) / len(taken)

    def _round_on_host(self) -> None:
        """One round, with scores of the host."""
        if self.config.budget is not None and self.config.budget.unit == "seconds":
            now, amount = time.perf_counter(), self.config.budget.amount
            late = np.array([slot is not None and now - slot.began >= amount for slot in self._slots])
            self._state = self._state._replace(broke=self._state.broke | late)
        state, rows = self._advance(self.params, self._state)
        if self._host_scores is None:
            scored: Any = self.rounds.scores(self.params, state, rows)
        else:
            *scored, broken = self._ask(rows)
            if broken.any():
                state = state._replace(broke=state.broke | broken)
        self._state = self._settle(state, rows, scored)

    def _ask(self, rows: Extension) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The host's scores float32 and the tokens int32 that they took `[problems, width]`, and the problems
        `[problems]` that it could not score."""
        live, tokens, length = jax.device_get((rows.live, rows.judged.tokens, rows.judged.length))
        scores, broken = np.full(live.shape, 0.5, np.float32), np.zeros(len(live), bool)
        taken = np.zeros(live.shape, np.int32)
        asked = [(p, w) for p, w in np.argwhere(live)]
        for p in sorted({p for p, _ in asked}):
            slot = self._slots[p]
            assert slot is not None
            mine = [w for q, w in asked if q == p]
            texts = [tuple(int(t) for t in tokens[p, w, : length[p, w]]) for w in mine]
            try:
                answer = self._host_scores([slot.problem.payload] * len(mine), texts)
                verdicts = answer if isinstance(answer, Verdicts) else Verdicts(answer, [0] * len(mine))
                given, read = np.asarray(verdicts.scores, np.float32), np.asarray(verdicts.tokens, np.int32)
                bad = _wrong(given, read, len(mine))
            except Exception as error:  # a verifier is the user's code: its problem is marked and the others go on
                given, bad = np.zeros(len(mine), np.float32), f"raised {type(error).__name__}: {error}"
            if bad:
                slot.failed, broken[p] = f"the verifier {bad}", True
            else:
                scores[p, mine], taken[p, mine] = np.clip(given, 1e-6, 1 - 1e-6), read
        return scores, taken, broken

    def _leave(self) -> Iterator[tuple[int, Found]]:
        """What has ended, with its place among all problems."""
        done = np.asarray(self._state.done)
        ended = [i for i, slot in enumerate(self._slots) if slot is not None and done[i]]
        if not ended:
            return
        weights, best, reports, costs = jax.device_get(self._answers(self._state))
        none: Any = None  # what `_found` does not read
        population, state = self._state.population, self._state
        unread = dict.fromkeys(("caches", "outputs", "steps", "aux", "lineage", "scores", "ends"), none)
        state = state._replace(contexts=none, strategy=none, lineages=none, costs=none)
        host = jax.device_get(state._replace(population=population._replace(**unread)))
        host = host._replace(costs=Costs(*costs.T))
        occupied = np.array(self._state.occupied)
        for i in ended:
            slot = self._slots[i]
            assert slot is not None
            found = self._found(slot, i, host, weights[i], int(best[i]))
            found.report.update({name: float(values[i]) for name, values in reports.items()})
            self._slots[i], occupied[i] = None, False
            self.ledger.charge(slot.problem.number, **vars(found.cost))
            yield slot.place, found
        self._state = self._state._replace(occupied=self._placed(jnp.asarray(occupied)))

    def _found(self, slot: _Slot, i: int, host: State, weights: np.ndarray, best: int) -> Found:
        p = host.population
        lengths, written = p.length[i].tolist(), np.arange(p.tokens.shape[-1]) < p.length[i][:, None]
        tokens = p.tokens[i][written].tolist()  # of hundreds of nodes, most of which may be empty
        texts = (tuple(tokens[end - n : end]) for end, n in zip(accumulate(lengths), lengths))
        sums = _sums(np.asarray(p.logprobs[i][written], np.float64), np.asarray(p.length[i])).tolist()
        ended = (p.reason[i] == ENDED).tolist()
        candidates = tuple(map(Candidate, texts, sums, p.score[i].tolist(), weights.tolist(), ended))
        drawn = written & (p.origins[i] != FORCED)
        draws = np.sort(p.origins[i][drawn].astype(np.uint64) << 32 | np.nonzero(drawn)[1].astype(np.uint64))
        kept = int(len(draws) > 0) + int(np.count_nonzero(draws[1:] != draws[:-1]))
        cost = self._cost(jax.tree.map(lambda x: int(x[i]), host.costs), kept, slot, i)
        anytime = None
        if host.trace is not None and slot.failed is None:
            rounds = int(host.costs.rounds[i])
            answers = tuple(tuple(int(t) for t in row if t >= 0) for row in host.trace.tokens[i, :rounds])
            spent = host.trace.costs.generated[i, :rounds] + host.trace.costs.verifier[i, :rounds]
            anytime = Anytime(answers, tuple(int(x) for x in spent))
        answer = None if best < 0 or slot.failed else best
        return Found(
            slot.problem, candidates, answer, cost, int(host.costs.rounds[i]), bool(host.broke[i]) and not slot.failed,
            anytime, slot.failed,
        )  # fmt: skip

    @cached_property
    def _prices(self) -> tuple[Price, Price]:
        """What a token costs in FLOPs and in bytes."""
        return self.decoder.price("flops"), self.decoder.price("bytes")

    def _cost(self, costs: Any, kept: int, slot: _Slot, i: int) -> Cost:
        """The ledger's entry: exact integers from those of `costs`, a Costs of Python integers."""
        prompt = int(np.asarray(self._state.contexts.length)[i])
        flops, size = self._prices
        tokens = costs.generated + costs.forced
        moved = costs.suffix + 2 * costs.copied + costs.steps * prompt
        return Cost(
            prompt_tokens=prompt + costs.forced,
            generated_tokens=costs.generated,
            discarded_tokens=costs.generated - kept,
            verifier_tokens=costs.verifier,
            flops=round(
                flops.up_to(prompt)
                + flops.fixed * tokens
                + flops.per_context * costs.contexts
                + flops.per_window * costs.windowed
                + self._scorer_flops * costs.verifier
            ),
            bytes=round(size.fixed * tokens + size.per_context * moved + size.per_clone * costs.clones),
            depth=costs.depth,
            seconds=slot.seconds,
        )

    def _placed(self, tree: Any) -> Any:
        """Arrays `[problems, ...]` where their problems are."""
        return tree if self._sharding is None else jax.device_put(tree, self._sharding)


def _sums(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of consecutive runs of so many numbers each, float64 `[runs]`."""
    found, some = np.zeros(len(lengths)), lengths > 0
    if some.any():
        found[some] = np.add.reduceat(flat, (np.cumsum(lengths) - lengths)[some])
    return found


def _wrong(scores: np.ndarray, tokens: np.ndarray, texts: int) -> str:
    """What is wrong with a host verifier's answer for so many texts; empty when nothing is."""
    if scores.shape != (texts,) or tokens.shape != (texts,):
        return f"gave {scores.size} scores and {tokens.size} counts of tokens for {texts} texts"
    if not np.isfinite(scores).all():
        return "gave a score that is not finite"
    if scores.min() < 0 or scores.max() > 1:
        return f"gave a score of {scores[(scores < 0) | (scores > 1)][0]:.4g}, which is not in [0, 1]"
    return "counted less than no tokens" if tokens.min() < 0 else ""


def _digest(problem: SearchProblem, prompt: Any) -> str:
    """sha256 of a problem's number and its prompt as arrays."""
    total = hashlib.sha256(str(problem.number).encode())
    for leaf in jax.tree.leaves(prompt):
        total.update(f" {np.shape(leaf)} ".encode() + np.asarray(leaf, order="C").tobytes())
    return total.hexdigest()


def _found_again(problem: SearchProblem, kept: dict[str, Any]) -> Found:
    """A Found from JSON."""
    candidates = tuple(Candidate(**{**c, "tokens": tuple(c["tokens"])}) for c in kept["candidates"])
    curve = kept["anytime"]
    anytime = curve and Anytime(tuple(tuple(t) for t in curve["tokens"]), tuple(curve["cost"]))
    again = {"problem": problem, "candidates": candidates, "cost": Cost(**kept["cost"]), "anytime": anytime}
    return Found(**{**kept, **again})
