"""Rollouts: completions of a policy with verified rewards, as the batch of a step; a pure function of step and params.

The engine draws from the model's own distribution at temperature 1 and records the log-probability of every token that
it drew. The trainer recomputes them: what lies between is the gap of the sampler, a metric of every step.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from models.config import ModelConfig
from models.errors import ConfigError, require
from scaling.data import Tokenizer
from scaling.tasks.task import Problem
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Completion, Request

log = logging.getLogger(__name__)
Reward = Callable[[Problem, str], float]
MEASURED = 0x5EED_0000  # tells the random streams of measuring from those of rollouts


@dataclass(frozen=True)
class Cost:
    """What the rollouts of a step cost: tokens that were drawn, FLOPs of reading prompts and drawing."""

    tokens: int
    flops: int


class Drawn(NamedTuple):
    """Completions with their texts, in the order of (problem, sample), and the FLOPs of reading and drawing."""

    texts: list[tuple[Completion, str]]
    flops: int


class Rollouts:
    """`batch(step, params)`: `group` completions of each of `prompts` problems of `problems`, in an order of the seed.

    seq_len: tokens of a prompt and its completion, less one. reward(problem, text) is called with the text of a
    completion; one that raises or gives no finite number leaves that completion without a reward, which the objective
    masks and counts. ends: tokens that end a completion, and train as any other.

    Raises ConfigError when more than `most_unscorable` of a step's completions have no reward.
    """

    def __init__(
        self,
        model: ModelConfig,
        params: Any,
        tokenizer: Tokenizer,
        problems: Sequence[Problem],
        reward: Reward,
        *,
        prompts: int,
        group: int,
        seq_len: int,
        seed: int = 0,
        ends: tuple[int, ...] = (),
        most_unscorable: float = 0.1,
        engine: EngineConfig | None = None,
    ):
        require(len(problems) > 0, "problems", "is empty", "give problems to practise on")
        self.tokenizer, self.problems, self.reward = tokenizer, list(problems), reward
        self.prompts, self.group, self.seq_len, self.seed = prompts, group, seq_len, seed
        self.most_unscorable = most_unscorable
        config = engine or EngineConfig(
            slots=min(256, prompts * group), max_len=seq_len + 1, page_size=min(64, seq_len + 1), ends=ends,
            stage_tokens=min(32, seq_len), reuse_prefixes=False,
        )  # fmt: skip
        fix = "set it to false: cached prefixes are of the parameters before"
        require(not config.reuse_prefixes, "engine.reuse_prefixes", "is on", fix)
        self.engine = Engine(model, params, config, spelling=tokenizer.spelling)

    def batch(self, step: int, params: Any) -> tuple[dict[str, np.ndarray], Cost]:
        """The batch of one step (see `PolicyGradient.needs`; truncated `[prompts, group]` too), and what it cost."""
        self.engine.device.use_params(params)
        before = self.engine.ledger.total.flops
        chosen = self._chosen(step)
        requests = [self._request(step, i, problem) for i, problem in enumerate(chosen)]
        first = step * self.prompts
        shape = self.prompts, self.group
        batch = {
            "tokens": np.zeros((*shape, self.seq_len + 1), np.int32),
            "weights": np.zeros((*shape, self.seq_len), np.float32),
            "sampled_logprobs": np.zeros((*shape, self.seq_len), np.float32),
            "rewards": np.full(shape, np.nan, np.float32),
            "truncated": np.zeros(shape, np.float32),
        }
        drawn = 0
        for done in self.engine.generate(requests):
            self._write(batch, done.problem - first, chosen[done.problem - first], requests, done)
            drawn += len(done.tokens)
        self._check(batch["rewards"], step)
        return batch, Cost(drawn, self.engine.ledger.total.flops - before)

    def _chosen(self, step: int) -> list[Problem]:
        rng = np.random.default_rng([self.seed, step])
        return [self.problems[i] for i in rng.integers(len(self.problems), size=self.prompts)]

    def drawn(self, problems: Sequence[Problem], params: Any, samples: int, seed: int) -> Drawn:
        """`samples` completions of each problem, for measuring; a function of the arguments, apart from any step's."""
        self.engine.device.use_params(params)
        before = self.engine.ledger.total.flops
        requests = [self._asked(i, problem, samples, (seed ^ MEASURED) % 2**32) for i, problem in enumerate(problems)]
        found = sorted(self.engine.generate(requests), key=lambda done: (done.problem, done.sample))
        return Drawn([(done, self._text(done)) for done in found], self.engine.ledger.total.flops - before)

    def _request(self, step: int, i: int, problem: Problem) -> Request:
        """Problem i of a step has a random stream of its own, whatever was drawn before."""
        return self._asked((step * self.prompts + i) % 2**32, problem, self.group, self.seed)

    def _asked(self, number: int, problem: Problem, samples: int, seed: int) -> Request:
        prompt = tuple(int(token) for token in self.tokenizer.encode(problem.prompt))
        room = self.seq_len + 1 - len(prompt)
        fix = f"give at least {len(prompt) + 1}"
        require(room >= 1, "train.seq_len", f"{self.seq_len} leaves a prompt of {len(prompt)} no room", fix)
        return Request(number, prompt, samples, max_tokens=room, seed=seed)

    def _text(self, done: Completion) -> str:
        return self.tokenizer.decode([token for token in done.tokens if token != self.tokenizer.end_of_document])

    def _write(
        self, batch: dict[str, np.ndarray], row: int, problem: Problem, requests: list[Request], done: Completion
    ) -> None:
        """One completion into its place."""
        prompt, place = requests[row].prompt, (row, done.sample)
        whole = [*prompt, *done.tokens]
        batch["tokens"][place][: len(whole)] = whole
        span = slice(len(prompt) - 1, len(whole) - 1)
        batch["weights"][place][span] = 1
        batch["sampled_logprobs"][place][span] = done.logprobs
        batch["truncated"][place] = done.finish_reason == "length"
        try:
            reward = float(self.reward(problem, self._text(done)))
        except Exception as error:  # whatever an environment raises costs one sample, not the run
            log.warning("reward of %r: %s: %s", problem.prompt, type(error).__name__, error)
            reward = math.nan
        batch["rewards"][place] = reward

    def _check(self, rewards: np.ndarray, step: int) -> None:
        share = float(np.mean(~np.isfinite(rewards)))
        if share > self.most_unscorable:
            problem = f"{share:.0%} of the completions of step {step} have no finite reward"
            raise ConfigError("reward", problem, f"mend it, or allow more than {self.most_unscorable:.0%}")
