"""A strategy on the prompts of an inference job: one search for every row, and one line of what it found.

A row may have `answer` (what is right, for `correct` and for verifiers that compare), `task` (by which the summary
counts) and `delimiter` (text that ends a step of this row's candidates). What a verifier cannot score is marked with
`failed` and stops nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.feed import Feed, own_fields
from models.errors import require
from search.named import Named

if TYPE_CHECKING:
    from launch.jobs import Job, JobConfig, ShardWriter
    from launch.prompts import Prompt
    from scaling.sweep.lease import Presence
    from search.policy import Policy
    from search.searcher import Candidate, Found, Searcher
    from search.strategies.setting import Setting, StrategyConfig

POLL_S = 0.5
MOST_SEARCHES = 4  # with different delimiters, that are kept compiled


def named_parts(strategy: str | None, verifier: str | None) -> dict[str, Named]:
    """What --strategy and --verifier name, as fields of a job: texts, JSON, or files that hold one.

    Raises:
      ConfigError: neither, as one line with near names.
    """
    from search.strategies.catalogue import STRATEGIES, read_strategy
    from search.verifiers.catalogue import VERIFIERS, read_verifier

    found: dict[str, Named] = {}
    if strategy is not None:
        found["strategy"] = _from_file(strategy, tuple(STRATEGIES.values())) or read_strategy(_text(strategy))
    if verifier is not None:
        found["verifier"] = _from_file(verifier, tuple(VERIFIERS.values())) or read_verifier(_text(verifier))
    return found


def _from_file(text: str, kinds: tuple[type, ...]) -> Any:
    """What a Python file's config() returns; None for what names no such file."""
    from launch.overrides import load_config

    return load_config(text, kinds) if text.endswith(".py") else None


def _text(text: str) -> str:
    """The text itself, or what a .json file holds."""
    if not text.endswith(".json") or ":" in text:
        return text
    require(Path(text).is_file(), text, "no such file", "give a .json file")
    return Path(text).read_text(encoding="utf-8")


@dataclass
class Prepared:
    """A job's strategy and verifier with its policy. digest: of all weights that answers depend on."""

    config: JobConfig
    setting: Setting
    digest: str
    searches: dict[str | None, Searcher] = dataclasses.field(default_factory=dict)  # by a row's own delimiter

    @property
    def stepwise(self) -> bool:
        """Whether it chooses between steps, which something must end."""
        return self.config.strategy is not None and self.config.strategy.stepwise

    def of(self, delimiter: str | None) -> Searcher:
        """The search of rows with this delimiter of their own; ConfigError where there can be none."""
        if delimiter not in self.searches:
            made = self.strategy(delimiter).search(self.setting)
            while len(self.searches) >= MOST_SEARCHES:
                self.searches.pop(next(iter(self.searches)))
            self.searches[delimiter] = made
        return self.searches[delimiter]

    def strategy(self, delimiter: str | None) -> StrategyConfig:
        """The job's strategy for rows with this delimiter; ConfigError where nothing would end a step."""
        found = self.config.strategy
        assert found is not None
        if not found.stepwise:
            return found
        parted = found.parted(delimiter)
        search = parted.sized(self.setting.search)
        fix = "name the text that ends a step: --config.search.delimiter, or a row's field delimiter"
        problem = f"is missing, and {found.name} chooses between steps"
        require(bool(search.delimiters) or search.tokens_per_step is not None, "search.delimiter", problem, fix)
        return parted


def prepared(config: JobConfig, policy: Policy, alone: bool = True) -> Prepared | None:
    """What a job's searches need, None for a job of samples. alone: on this process's devices, as the job asks for.

    Raises:
      ConfigError: a strategy, verifier, delimiter or size that cannot be, before anything of the job is written.
    """
    if config.strategy is None:
        return None
    from models.quantize import quantize
    from search.engine.placement import engine_mesh
    from search.strategies.setting import Setting
    from search.verifiers.catalogue import Judging

    policy = dataclasses.replace(policy, params=quantize(policy.params, policy.model, config.quantize))
    mesh = engine_mesh(config.mesh) if alone and config.mesh.sizes["data"] > 1 else None
    search = _search_config(config, policy)
    judging = Judging(None) if config.verifier is None else config.verifier.judging(policy, search, config.answer)
    setting = Setting(
        policy, search, config.answer, judging.scorer, judging.head, judging.host_flops, mesh, config.engine.precision,
        config.engine.quantized_cache,
    )  # fmt: skip
    shards = config.mesh.sizes["data"]
    problems = max(1, config.search.rows // config.strategy.rows(setting) // shards) * shards
    setting = dataclasses.replace(setting, search=dataclasses.replace(search, problems=problems))
    digest = policy.digest
    if judging.digest:
        digest = hashlib.sha256(f"{policy.digest} {judging.digest}".encode()).hexdigest()
    made = Prepared(config, setting, digest)
    own = config.strategy.sized(search)
    if not made.stepwise or own.delimiters or own.tokens_per_step is not None:
        made.of(None)  # else rows may have delimiters of their own
    return made


def _search_config(job: JobConfig, policy: Policy) -> Any:
    from search.config import SearchConfig

    sizes = job.search
    prompt_len = sizes.prompt_len or job.engine.max_len - job.max_tokens
    problem = f"leaves no room for a prompt: {job.engine.max_len} tokens, of which {job.max_tokens} are generated"
    require(prompt_len >= 1, "engine.max_len", problem, "raise it, or lower max_tokens")
    return SearchConfig(
        problems=1, prompt_len=prompt_len, max_tokens=job.max_tokens, max_steps=sizes.max_steps,
        max_rounds=sizes.max_rounds, tokens_per_step=sizes.tokens_per_step,
        delimiters=() if sizes.delimiter is None else (sizes.delimiter,), ends=(*policy.ends, *job.stop),
        sampling=job.sampling, budget=sizes.budget, seed=job.seed,
    )  # fmt: skip


def answer_prompts(job: Job, search: Prepared, stop: Any, presence: Presence) -> None:
    """Search every prompt that nobody else is searching, until all have their lines."""
    from launch.progress import JobDisplay

    feed = SearchFeed(job, search, stop, presence)
    with JobDisplay(job.rows) as display:
        while not stop() and not all(job.is_done(i) for i in range(len(job.shards))):
            try:
                for delimiter, asked in itertools.groupby(feed.requests(), lambda row: row.delimiter):
                    for found in search.of(delimiter).run(row.problem_of() for row in asked):
                        feed.found(found)
                        display.add(found.cost.generated_tokens)
                        if stop():
                            return
            finally:
                feed.close()
            time.sleep(POLL_S)  # other processes hold what is left; take over when one of them dies
    feed.report(last=True)


@dataclass(frozen=True)
class Asked:
    """One row to search; the names are those of a request of samples."""

    problem: int
    prompt: tuple[int, ...]
    skip: tuple[int, ...]
    max_tokens: int
    delimiter: str | None
    fields: dict[str, Any]
    samples: int = 1

    def problem_of(self) -> Any:
        """The row as a search takes it."""
        from search.searcher import SearchProblem
        from search.verifiers.catalogue import Row

        return SearchProblem(self.problem, self.prompt, Row(self.prompt, self.fields))


class SearchFeed(Feed):
    """Turns the shards that this process holds into problems, and what is found into lines of their shards."""

    def __init__(self, job: Job, search: Prepared, stop: Any, presence: Presence):
        super().__init__(job, search.setting.policy, job.config.engine, stop, presence)
        self.search, self.reader = search, search.setting.reader()

    def ordered(self, requests: list[Asked]) -> list[Asked]:
        """Rows with one delimiter together: they are one search."""
        return sorted(requests, key=lambda row: row.delimiter or "")

    def request(self, prompt: Prompt, writer: ShardWriter) -> Asked:
        """A row's problem; ConfigError for one that cannot be."""
        delimiter = prompt.fields.get("delimiter")
        text = delimiter is None or (isinstance(delimiter, str) and delimiter != "")
        require(text, "delimiter", f"is {delimiter!r}", "give a text")
        if not self.search.stepwise:
            delimiter = None
        tokens = self.tokens(prompt)
        most, size = self.search.setting.search.prompt_len, self.policy.model.vocab_size
        fix = "shorten it, or raise engine.max_len or search.prompt_len"
        require(len(tokens) <= most, "prompt", f"has {len(tokens)} tokens, but there is room for {most}", fix)
        unknown = [token for token in tokens if token >= size]
        require(not unknown, "prompt", f"has unknown tokens {unknown[:5]}", f"use 0 to {size - 1}")
        require(bool(tokens), "prompt", "has no tokens", "give at least one")
        self.search.of(delimiter)
        done = tuple(sample for line, sample in writer.done if line == prompt.line)
        named = {"id": prompt.id} if prompt.id is not None else {}
        fields = prompt.fields | named | {"prompt": prompt.text or self.policy.tokenizer.decode(tokens)}
        return Asked(prompt.line - 1, tokens, done, self.job.config.max_tokens, delimiter, fields)

    def found(self, found: Found) -> None:
        """Keep what the search of one row gave."""
        if not found.candidates and found.failed:
            self.fail(found.problem.number, ValueError(found.failed))
            return
        cost = found.cost
        self.keep(found.problem.number, cost.generated_tokens, cost.flops, lambda prompt, _: self._found(prompt, found))

    def _found(self, prompt: Prompt, found: Found) -> dict[str, Any]:
        """The line of one search."""
        from launch.jobs import COSTS

        places = [i for i, candidate in enumerate(found.candidates) if candidate.tokens]
        candidates = [self._candidate(found, found.candidates[i]) for i in places]
        failed = found.failed
        if failed is None and any(candidate["score"] is None for candidate in candidates):
            failed = "the verifier gave a score that is not finite"
        best = places.index(found.best) if found.best in places and failed is None else None
        chosen = {"text": "", "tokens": [], "answer": None} if best is None else candidates[best]
        reason = "answer" if best is not None else "failed" if failed else "budget" if found.out_of_budget else "none"
        graded = {}
        if "answer" in prompt.fields:
            right = best is not None and self.reader.right(chosen["text"], str(prompt.fields["answer"]))
            graded["correct"] = right
        return own_fields(prompt) | {
            "sample": 0,
            "text": chosen["text"],
            "tokens": chosen["tokens"],
            "finish_reason": reason,
            "best": best,
            "prediction": chosen["answer"],
            **graded,
            **({"failed": failed} if failed else {}),
            "candidates": candidates,
            "rounds": found.rounds,
            "out_of_budget": found.out_of_budget,
            "report": {name: _finite(value) for name, value in sorted(found.report.items())},
            "ledger": {name: getattr(found.cost, name) for name in COSTS},
        }

    def _candidate(self, found: Found, candidate: Candidate) -> dict[str, Any]:
        from search.verifiers.catalogue import said

        text = said(self.policy, self.search.setting.search, found.problem.prompt, candidate.tokens)
        return {
            "text": text,
            "tokens": list(candidate.tokens),
            "logprob": _finite(candidate.logprob),
            "score": _finite(candidate.score),
            "weight": _finite(candidate.weight),
            "complete": candidate.complete,
            "answer": self.reader.read(text) if candidate.complete else None,
        }


def _finite(value: float) -> float | None:
    """A number as JSON has it; None for what is none."""
    return round(value, 6) if math.isfinite(value) else None

