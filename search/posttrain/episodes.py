"""Episodes: completions in which an environment may answer, drawn turn by turn with the engine.

A policy writes until it calls, the reply is put behind what it wrote, and it goes on, reading the whole again. Every
episode of every turn has a random stream of its own, so a group is a function of seed, numbers and parameters.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from scaling.data import Tokenizer
from scaling.tasks.environment import Environment
from scaling.tasks.task import Problem
from search.engine.engine import Engine
from search.engine.request import Completion, FinishReason, Request
from search.engine.sampling import Sampling
from search.policy import continuation

log = logging.getLogger(__name__)


@dataclass
class Episode:
    """Sample number `sample` of the completions of prompt number `row`.

    tokens: behind the prompt, what was shown included; own: which of them the policy drew; logprobs: of those, 0 for
    others. text: of all. calls, failed: calls of the environment, and those that it could not serve. flops: of drawing,
    and of reading again what replies interrupted. fault: what the environment raised, which ends the episode.
    """

    problem: Problem
    row: int
    sample: int
    prompt: tuple[int, ...]
    tokens: list[int] = field(default_factory=list)
    own: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    state: Hashable = None
    calls: int = 0
    failed: int = 0
    flops: int = 0
    fault: Exception | None = None
    finish_reason: FinishReason = "length"

    @property
    def drawn(self) -> int:
        """Tokens that the policy drew."""
        return sum(self.own)

    def write(self, tokens: Sequence[int], logprobs: Sequence[float], own: bool) -> None:
        """Put tokens behind."""
        self.tokens += tokens
        self.logprobs += logprobs
        self.own += [own] * len(tokens)


@dataclass(frozen=True)
class Stage:
    """Where episodes are played: engine, tokenizer, environment, tokens of a prompt and all behind it, and the most
    calls of an episode, beyond which it is cut off."""

    engine: Engine
    tokenizer: Tokenizer
    environment: Environment
    room: int
    most_calls: int

    def play(
        self, problems: Sequence[Problem], samples: int, seed: int, first: int = 0, temperature: float = 1.0
    ) -> list[Episode]:
        """`samples` episodes of each problem, in that order. first: number of the first problem, by which its random
        stream is known."""
        prompts = [tuple(int(token) for token in self.tokenizer.encode(problem.prompt)) for problem in problems]
        numbers = [(first + row) % 2**32 for row in range(len(problems))]
        episodes = [
            Episode(problem, row, sample, prompts[row])
            for row, problem in enumerate(problems) for sample in range(samples)
        ]  # fmt: skip
        self._begin(episodes)
        law = Sampling(temperature)
        asked = [self._request(numbers[row], prompt, samples, seed, law) for row, prompt in enumerate(prompts)]
        places = {(number, sample): row * samples + sample for row, number in enumerate(numbers)
                  for sample in range(samples)}  # fmt: skip
        for turn in range(1, self.most_calls + 2):
            called = []
            for done in self.engine.generate(asked):
                episode = episodes[places[done.problem, done.sample]]
                if self._heard(episode, done) and turn <= self.most_calls and self._answered(episode):
                    called.append(episode)
            if not called:
                break
            asked, places = [], {}
            again = int(np.random.SeedSequence([seed, turn]).generate_state(1)[0])
            for episode in sorted(called, key=lambda one: (one.row, one.sample)):
                number = (numbers[episode.row] * samples + episode.sample) % 2**32
                asked.append(self._request(number, (*episode.prompt, *episode.tokens), 1, again, law))
                places[number, 0] = episode.row * samples + episode.sample
                episode.flops += self.engine.prices.prefill(0, len(asked[-1].prompt) - 1)
        return episodes

    def _begin(self, episodes: Sequence[Episode]) -> None:
        for episode in episodes:
            try:
                episode.state = self.environment.reset(episode.problem)
            except Exception as error:
                _fail(episode, error)

    def _request(self, number: int, prompt: tuple[int, ...], samples: int, seed: int, law: Sampling) -> Request:
        most = self.room - len(prompt)
        return Request(number, prompt, samples, most, law, seed=seed, stop_texts=self.environment.calls)

    def _heard(self, episode: Episode, done: Completion) -> bool:
        """Take in what the policy wrote; whether it calls."""
        episode.write(done.tokens, done.logprobs, own=True)
        episode.flops += done.flops
        episode.finish_reason = done.finish_reason
        episode.text = self.text(episode.tokens)
        if done.finish_reason != "stop" or episode.fault is not None:
            return False
        episode.finish_reason = "length"  # unless it goes on
        return True

    def _answered(self, episode: Episode) -> bool:
        """Put the reply behind a call; whether the policy goes on, for which there must be room."""
        since = max((i + 1 for i, own in enumerate(episode.own) if not own), default=0)
        try:
            reply = self.environment.step(episode.state, self.text(episode.tokens[since:]))
            shown = list(continuation(self.tokenizer, reply.shown))
        except Exception as error:  # whatever an environment raises costs one sample, not the run
            _fail(episode, error)
            return False
        episode.calls, episode.failed, episode.state = episode.calls + 1, episode.failed + reply.failed, reply.state
        left = self.room - len(episode.prompt) - len(episode.tokens)
        episode.write(shown[:left], [0.0] * len(shown[:left]), own=False)
        episode.text = self.text(episode.tokens)
        if reply.done and len(shown) <= left:
            episode.finish_reason = "stop"
        return not reply.done and len(shown) < left

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without those that end documents."""
        return self.tokenizer.decode([token for token in tokens if token != self.tokenizer.end_of_document])


def _fail(episode: Episode, error: Exception) -> None:
    log.warning("environment of %r: %s: %s", episode.problem.prompt, type(error).__name__, error)
    episode.fault = error
