"""Study: every strategy on every problem of some tasks with one policy, as rows of the results table."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd

from models import counts
from models.errors import LARGEST_SIZE, ConfigError, require
from models.serialize import added
from scaling.sweep.config import SweepConfig
from scaling.tasks import Problem, Task, task_by_name
from scaling.tasks.text import TaskText
from scaling.typed import at_most, typed
from search.config import SearchConfig
from search.decoder import TransformerDecoder
from search.engine.sampling import Sampling
from search.policy import Policy, check_writes
from search.saved import Keep, read_fitted, write_fitted
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.best_of_n import BestOfN, best_of_n
from search.strategies.catalogue import read_strategy, strategy_by_name
from search.strategies.setting import NeedsPolicy, Setting, StrategyConfig
from search.verifiers.learned import Fitted, Judged, Kind, Verifier, check_kind, fit, fitted_like, verifier_of
from search.verifiers.reward_training import RewardTraining

Progress = Callable[[str, int, int], None]  # what, problems done, problems in all
VERIFIER, FIRST, SAMPLES = "verifier", "first", "samples"  # parts of a study, beside its searches


@dataclass(frozen=True)
class StudyConfig:
    """Which tasks, which strategies, how many problems; see `SearchSweepConfig` for the policies.

    strategies: as `strategy_by_name` reads them, several sizes of one name being one family. samples: independent ones
    per problem, from which best-of-N, the votes and coverage follow for every smaller number at once.
    """

    tasks: tuple[str, ...] = ("countdown:numbers=3", "modular")
    strategies: tuple[str, ...] = ("beam:samples=4,width=2", "beam:samples=16,width=4")
    problems: int = 200  # test problems per task
    samples: int = 64  # independent samples of each
    width: int = 64  # of them side by side
    verifier: Kind = "confidence"  # what scores; see search/verifiers/learned.py
    head_problems: int = 128  # training problems per task for the verifier, 8 samples each
    reward: RewardTraining = added(RewardTraining())  # how a process or an outcome model is trained
    max_tokens: int = 64
    max_steps: int = 16
    max_rounds: int = 48
    rows: int = 256  # particles that decode side by side: problems times width
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        typed(self, "study")
        require(len(self.tasks) > 0, "study.tasks", "is empty", "name a task, such as 'countdown'")
        sizes = ("problems", "samples", "width", "head_problems", "max_tokens", "max_steps", "max_rounds", "rows")
        for name in sizes:
            value = getattr(self, name)
            require(value >= 1, f"study.{name}", f"is {value}", "give a positive integer")
        at_most(self, "study", **dict.fromkeys(sizes, LARGEST_SIZE), temperature=1e6)
        require(self.temperature >= 0, "study.temperature", f"is {self.temperature}", "give 0 or more")
        require(0 <= self.seed < 2**32 - 1, "study.seed", f"is {self.seed}", "give an integer in [0, 2^32 - 1)")
        problem = f"is {self.width}, which does not divide the {self.samples} samples"
        require(self.samples % self.width == 0, "study.width", problem, "give a divisor of study.samples")
        check_kind(self.verifier, "study.verifier")
        for text in self.strategies:
            with contextlib.suppress(NeedsPolicy):  # the study's own policies will make it
                strategy_by_name(text)
        for task in self.tasks:
            task_by_name(task)

    @property
    def first(self) -> int:
        """How many samples are drawn first, to foretell what all of them show; 0 when a round of `width` is too many:
        an eighth of them, at least four and at most a quarter."""
        some = max(self.samples // 8 // self.width, 1) * self.width
        return some if 4 <= some <= self.samples // 4 else 0

    def parts(self) -> tuple[str, ...]:
        """What is kept by itself for every policy, in the order in which it is made."""
        return (VERIFIER, *((FIRST,) if self.first else ()), SAMPLES, *self.strategies)

    def smaller(self, strategy: str) -> tuple[str, ...]:
        """The sizes of this search that come before it."""
        family = [text for text in self.strategies if text.partition(":")[0] == strategy.partition(":")[0]]
        return tuple(family[: family.index(strategy)])

    def problem_sets(self) -> dict[str, list[Problem]]:
        """The test problems of every task, by its text."""
        return {text: task_by_name(text).generate(self.seed, self.problems, "test") for text in self.tasks}


@dataclass(frozen=True)
class SearchSweepConfig:
    """A study: the policies, which exist or which a sweep trains on the tasks, and what is searched with them."""

    name: str = "search"
    policies: SweepConfig | None = field(default_factory=SweepConfig)  # trained for this study; None: none is
    existing: tuple[str, ...] = added(())  # trials, finished sweeps and Hugging Face folders, searched as they are
    study: StudyConfig = field(default_factory=StudyConfig)
    budgets: int = 6  # FLOPs per problem, from one sample of the cheapest policy on
    budget_factor: float = 4.0

    def __post_init__(self) -> None:
        typed(self)
        fix = "name a trial, a finished sweep or a model's folder in existing, or give a sweep"
        require(self.policies is not None or bool(self.existing), "policies", "is none, and none exist", fix)
        require(self.budgets >= 1, "budgets", f"is {self.budgets}", "give a positive number")
        at_most(self, "", budgets=1000, budget_factor=1e6)
        require(self.budget_factor > 1, "budget_factor", f"is {self.budget_factor}", "give a number above 1")

    def check(self) -> None:
        """Refuse what would otherwise show only after the policies were trained: no strategies, fewer problems than
        asked for, or tasks with characters that the policies never see."""
        some = "name some, as '[\"beam:samples=4,width=2\"]'"
        require(len(self.study.strategies) > 0, "study.strategies", "is empty", some)
        try:
            self.study.problem_sets()
        except ConfigError as error:
            raise ConfigError("study.problems", error.problem, error.fix) from None
        if self.policies is None:
            return
        mixture = self.policies.data.mixture
        if self.policies.data.tokenizer != "characters" or any(source.source != "task" for source in mixture):
            return
        known = {character for source in mixture for character in TaskText.of(source.path or "").task.alphabet}
        for text in self.study.tasks:
            problem = f"{text!r} has characters that no task of policies.data.mixture has"
            fix = "train the policies on it too, or search another task"
            require(not mixture or set(task_by_name(text).alphabet) <= known, "study.tasks", problem, fix)


@dataclass(frozen=True)
class Posed:
    """A test problem with its task and its place in the study."""

    task_name: str
    task: Task
    problem: Problem
    index: int

    @property
    def level(self) -> float:
        """Its difficulty in a task that mixes several; otherwise NaN."""
        return self.task.level(self.problem)


class Study:
    """One policy's part of a study."""

    def __init__(self, policy: Policy, config: StudyConfig, progress: Progress | None = None):
        self.policy, self.config = policy, config
        self._progress = progress or (lambda what, done, total: None)
        self._tasks = {text: task_by_name(text) for text in config.tasks}
        for text, task in self._tasks.items():
            check_writes(policy.model, policy.tokenizer, policy.source, task, text)
        self.posed = [
            Posed(text, self._tasks[text], problem, i)
            for text, problems in config.problem_sets().items()
            for i, problem in enumerate(problems)
        ]
        train = [
            Posed(text, task, problem, i)
            for text, task in self._tasks.items()
            for i, problem in enumerate(task.generate(config.seed + 1, config.head_problems, "train"))
        ]
        prompts = [policy.tokenizer.encode(p.problem.prompt) for p in (*self.posed, *train)]
        self._prompt_len = max(map(len, prompts))
        self._verifier: Verifier | None = None
        self._train = train
        self.params_count = counts.params(policy.model)

    @property
    def verifier(self) -> Verifier:
        """What scores, fitted on first use to 8 samples of every training problem."""
        if self._verifier is None:
            self._take(self._fit())
        assert self._verifier is not None
        return self._verifier

    def keep_verifier(self, file: Path, facts: dict[str, str]) -> None:
        """Fit the verifier and keep what it learned."""
        fitted = self._fit()
        write_fitted(file, facts, fitted)
        self._take(fitted)

    def read_verifier(self, file: Path, facts: dict[str, str]) -> None:
        """Go on with a verifier that was kept, unless there is one; ConfigError as `read_fitted` raises it."""
        if self._verifier is None:
            self._take(read_fitted(file, facts, fitted_like(self.config.verifier, self.policy.model)))

    def _fit(self) -> Fitted:
        c, policy = self.config, self.policy
        self._progress(f"the {c.verifier} verifier", 0, 1)
        return fit(c.verifier, policy.model, policy.params, self._judged(), c.seed, c.reward)

    def _take(self, fitted: Fitted) -> None:
        self._verifier = verifier_of(self.policy.model, fitted, self._prompt_len + self.config.max_tokens)

    def samples(
        self, keep: Path | None = None, count: int | None = None, first: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """Independent samples: task, problem, sample, correct, score, answer, generated_tokens, flops.

        keep: a file in which the search is kept once a minute, and from which it goes on. count: of every problem, all
        of them unless given. first: those of them that were drawn before.
        """
        config, drawn = self.config, 0 if first is None else int(first["sample"].max()) + 1
        rounds = range(drawn // config.width, (count or config.samples) // config.width)
        given = [(posed, part) for posed in self.posed for part in rounds]
        rows = [] if first is None else first.to_dict("records")
        for (posed, part), found in self._run(BestOfN(config.width), given, "independent samples", keep):
            price = found.cost.flops / max(found.cost.generated_tokens, 1)
            for i, c in enumerate(found.candidates):
                text = self.policy.text(found.problem.prompt, c.tokens)
                rows.append(dict(
                    task=posed.task_name, problem=posed.index, level=posed.level, sample=part * config.width + i,
                    correct=float(c.complete and posed.task.verify(posed.problem, text)),
                    score=c.score if c.complete else 0.0, answer=posed.task.answer(text) if c.complete else None,
                    generated_tokens=len(c.tokens), flops=price * len(c.tokens),
                ))  # fmt: skip
        return pd.DataFrame(rows).sort_values(["task", "problem", "sample"], ignore_index=True)

    def search(self, strategy: str, keep: Path | None = None) -> pd.DataFrame:
        """One row per problem: what the strategy answered and what it cost (columns of the results table); see
        `samples` for keep."""
        rows, given = [], [(p, 0) for p in self.posed]
        for (posed, _), found in self._run(read_strategy(strategy), given, strategy, keep):
            text = None if found.answer is None else self.policy.text(found.problem.prompt, found.answer)
            cost = found.cost
            rows.append(dict(
                task=posed.task_name, problem=posed.index, level=posed.level,
                strategy=strategy.partition(":")[0], size=strategy,
                correct=float(text is not None and posed.task.verify(posed.problem, text)),
                score=0.0 if found.best is None else found.candidates[found.best].score,
                prompt_tokens=cost.prompt_tokens, generated_tokens=cost.generated_tokens,
                discarded_tokens=cost.discarded_tokens, verifier_tokens=cost.verifier_tokens, flops=cost.flops,
                bytes=cost.bytes, depth=cost.depth, rounds=found.rounds, failed=found.failed,
            ))  # fmt: skip
        return pd.DataFrame(rows).sort_values(["task", "problem"], ignore_index=True)

    def _run(
        self, strategy: StrategyConfig, given: Sequence[tuple[Posed, int]], what: str, keep: Path | None
    ) -> Iterator[tuple[tuple[Posed, int], Found]]:
        """Search all of these; a number per (task, problem, part) makes their random numbers."""
        setting = Setting(self.policy, self._search_config(1), scorer=self.verifier.scorer, head=self.verifier.head)
        sized = dataclasses.replace(setting, search=self._search_config(strategy.rows(setting)))
        searcher = strategy.search(sized)
        self._progress(what, 0, len(given))
        names = list(self._tasks)
        numbered = {(names.index(p.task_name) * 2**20 + p.index) * 2**6 + part: (p, part) for p, part in given}
        problems = (SearchProblem(n, self._tokens(p.problem.prompt)) for n, (p, _) in numbered.items())
        for done, found in enumerate(searcher.run(problems, None if keep is None else Keep(keep)), 1):
            self._progress(what, done, len(given))
            yield numbered[found.problem.number], found

    def _search_config(self, width: int) -> SearchConfig:
        c, task = self.config, next(iter(self._tasks.values()))
        delimiter, end = (self.policy.continuation(text)[0] for text in (task.delimiter, task.end))
        return SearchConfig(
            problems=max(1, c.rows // width), prompt_len=self._prompt_len, max_tokens=c.max_tokens,
            max_steps=c.max_steps, max_rounds=c.max_rounds, delimiters=(delimiter,), ends=(end, *self.policy.ends),
            sampling=Sampling(temperature=c.temperature), seed=c.seed,
        )  # fmt: skip

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(int(t) for t in self.policy.tokenizer.encode(text))

    def _judged(self) -> list[Judged]:
        """8 samples of every training problem."""
        strategy = best_of_n(8, scored=False)
        decoder = TransformerDecoder(self.policy.model, self.policy.params, self._prompt_len)
        searcher = Searcher(decoder, strategy, self._search_config(strategy.width))
        given = {2**31 + i: p for i, p in enumerate(self._train)}
        task = self._train[0].task
        marks = {self.policy.continuation(mark)[0] for mark in (task.delimiter, task.end)}
        judged = []
        for found in searcher.run(SearchProblem(n, self._tokens(p.problem.prompt)) for n, p in given.items()):
            task, problem = given[found.problem.number].task, given[found.problem.number].problem
            for c in found.candidates:
                text = self.policy.text(found.problem.prompt, c.tokens)
                ends = tuple(i + 1 for i, token in enumerate(c.tokens) if token in marks)
                right = float(c.complete and task.verify(problem, text))
                rewards = partial(task.step_rewards, problem, text)
                judged.append(Judged(found.problem.prompt, tuple(c.tokens), right, ends, rewards))
        return judged
