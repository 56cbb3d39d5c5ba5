"""Hogwild workers as a strategy by name: the texts of all workers are its candidates, and their vote is its answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from models.errors import ConfigError, require
from search.ledger import Cost
from search.saved import Keep
from search.searcher import Candidate, Found, SearchProblem
from search.strategies.hogwild import Hogwild
from search.strategies.setting import NeedsPolicy, Search, Setting, StrategyConfig
from search.strategies.strategy import Strategy
from search.strategies.survey import Tags
from search.strategies.votes import elect_from


@dataclass(frozen=True)
class HogwildWorkers(StrategyConfig):
    """Workers on one cache, each of which sees what all others write, as they do; no verifier looks."""

    workers: int
    openings: tuple[str, ...] = ()  # texts that the workers are made to write first, one each, such as their names
    answer: str | None = None  # how an answer is read, such as number:####; None: as the search says

    name = "hogwild"
    tags = Tags("hybrid", ("stimulation",), "threads", ("accuracy", "efficiency"))

    def make(self, setting: Setting | None) -> Strategy:
        """Several texts on one cache are no search of one."""
        raise NeedsPolicy("strategy", f"{self.name} needs a policy, by whose cache its workers read each other",
                          "give it to launch.infer --strategy, or to a study")  # fmt: skip

    def rows(self, setting: Setting) -> int:
        """Its workers."""
        return self.workers

    def search(self, setting: Setting) -> Search:
        """One problem at a time."""
        return _Workers(self, setting)


class _Workers:
    def __init__(self, config: HogwildWorkers, setting: Setting):
        policy, search = setting.policy, setting.search
        texts = [end for end in search.ends if isinstance(end, str)]
        require(not texts, "stop", f"{texts} end no worker, which stop at tokens alone", "leave it empty")
        require(search.budget is None, "search.budget", "does not hold for workers", "set max_tokens, which is of each")
        openings = [setting.tokens(text, f"{config.name}.openings") for text in config.openings]
        self._hogwild = Hogwild(
            policy.model, policy.params, search.prompt_len, search.max_tokens, config.workers,
            ends=[end for end in search.ends if not isinstance(end, str)], openings=openings,
            settings=search.sampling, seed=search.seed, precision=setting.precision,
        )  # fmt: skip
        self._policy, self._reader = policy, setting.reader(config.answer)

    def run(self, problems: Iterable[SearchProblem], keep: Keep | None = None) -> Iterator[Found]:
        """Every problem in order; the workers' log-probabilities are not known, and nothing is kept on the way."""
        for problem in problems:
            try:
                worked = self._hogwild.run(problem)
            except ConfigError as error:
                yield Found(problem, (), None, Cost(), 0, False, failed=str(error))
                continue
            candidates = tuple(
                Candidate(text, math.nan, 0.5, float(complete), complete)
                for text, complete in zip(worked.texts, worked.complete, strict=True)
            )
            found = Found(problem, candidates, None, worked.cost, 1, False)
            elected = elect_from(found, partial(self._read, problem))
            yield Found(problem, candidates, elected and elected.candidate, worked.cost, 1, False)

    def _read(self, problem: SearchProblem, tokens: tuple[int, ...]) -> str | None:
        written = tokens[:-1] if tokens[-1:] and tokens[-1] in self._policy.ends else tokens
        return self._reader.read(self._policy.text(problem.prompt, written))
