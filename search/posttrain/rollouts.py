"""Rollouts: completions of a policy with verified rewards, as the batch of a step; a pure function of step and params.

The engine draws from the model's own distribution at a temperature and records the log-probability of every token that
it drew, at the same. The trainer recomputes them: what lies between is the gap of the sampler, a metric of every step.
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
from scaling.tasks.environment import Environment, Silence
from scaling.tasks.task import Problem
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling
from search.policy import continuation
from search.posttrain.episodes import Episode, Stage
from search.posttrain.filters import Filter
from search.posttrain.progress import Progress, gains, segments
from search.posttrain.shaping import CosineLength

log = logging.getLogger(__name__)
Reward = Callable[[Problem, str], float]
MEASURED = 0x5EED_0000  # tells the random streams of measuring from those of rollouts
FILTERED, FORCED = 0xF117, 0xF04CED  # and those of filters and of answers that are forced


@dataclass(frozen=True)
class Cost:
    """What the rollouts of a step cost: tokens that were drawn, FLOPs of reading prompts and drawing; how many
    completions they are, with those that a filter left out, and how often these called tools, and in vain. staleness:
    versions that the policy they are of is older than the one that they train."""

    tokens: int
    flops: int
    completions: int
    calls: int = 0
    failed: int = 0
    staleness: int = 0


class Drawn(NamedTuple):
    """Episodes in the order of (problem, sample), and the FLOPs of reading and drawing."""

    episodes: list[Episode]
    flops: int


class Rollouts:
    """`batch(step, params)`: `group` completions of each of `prompts` problems of `problems`, in an order of the seed.

    seq_len: tokens of a prompt and its completion, less one. reward(problem, text) is called with the text of a
    completion; one that raises or gives no finite number leaves that completion without a reward, which the objective
    masks and counts. ends: tokens that end a completion, and train as any other. environment: answers within a
    completion, at most `most_calls` times; what it shows is read and does not train. One that raises leaves the
    completion without a reward. filter: which of more completions the batch keeps. shaping: changes rewards.
    temperature: of what the batch holds, and of its log-probabilities; what is measured has 1. progress: adds a field
    of that name `[prompts, group, seq]`.

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
        environment: Environment | None = None,
        most_calls: int = 8,
        filter: Filter | None = None,
        shaping: CosineLength | None = None,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ):
        require(len(problems) > 0, "problems", "is empty", "give problems to practise on")
        self.tokenizer, self.problems, self.reward = tokenizer, list(problems), reward
        self.prompts, self.group, self.seq_len, self.seed = prompts, group, seq_len, seed
        self.most_unscorable, self.environment, self.filter = most_unscorable, environment or Silence(), filter
        self.shaping, self.temperature, self.progress = shaping, temperature, progress
        self.samples = group * (filter.oversample if filter else 1)
        slots = min(256, prompts * self.samples)
        # a reply makes a prompt of its own of each completion, which needs a page
        pages = slots + 8 if self.environment.calls or progress else None
        room = seq_len + 1 + (progress.tokens + len(continuation(tokenizer, progress.mark)) if progress else 0)
        page_size = min(64, room)
        config = engine or EngineConfig(
            slots=slots, max_len=room, page_size=page_size, ends=ends, stage_tokens=min(32, seq_len),
            pages=pages and pages * -(-room // page_size), reuse_prefixes=False,
            recorded="model" if temperature == 1 else "drawn",
        )  # fmt: skip
        fix = "set it to false: cached prefixes are of the parameters before"
        require(not config.reuse_prefixes, "engine.reuse_prefixes", "is on", fix)
        own = config.recorded == "drawn" or temperature == 1
        fix = "use 'drawn': the trainer compares with it"
        require(own, "engine.recorded", f"is 'model', and the temperature {temperature}", fix)
        self.engine = Engine(model, params, config, spelling=tokenizer.spelling)
        self.stage = Stage(self.engine, tokenizer, self.environment, seq_len + 1, most_calls)

    def batch(self, step: int, params: Any) -> tuple[dict[str, np.ndarray], Cost]:
        """The batch of one step (see `PolicyGradient.needs`; truncated `[prompts, group]` too), and what it cost."""
        problems, first = self._chosen(step), step * self.prompts
        episodes, flops = self._played(problems, params, self.samples, self.seed, first, self.temperature)
        rewards = np.array([self._reward(episode) for episode in episodes], np.float32)
        self._check(rewards, step)
        shape = self.prompts, self.group
        batch = {
            "tokens": np.zeros((*shape, self.seq_len + 1), np.int32),
            "weights": np.zeros((*shape, self.seq_len), np.float32),
            "sampled_logprobs": np.zeros((*shape, self.seq_len), np.float32),
            "rewards": np.full(shape, np.nan, np.float32),
            "truncated": np.zeros(shape, np.float32),
        }
        kept = [self._kept(step, row, episodes, rewards) for row in range(self.prompts)]
        for row, chosen in enumerate(kept):
            for place, i in enumerate(chosen):
                _write(batch, (row, place), episodes[i], float(rewards[i]))
        if self.progress is not None:
            order = [i for chosen in kept for i in chosen]
            batch["progress"], more = self._progress([episodes[i] for i in order], rewards[order], step)
            flops += more
        drawn, calls, failed = (sum(getattr(one, name) for one in episodes) for name in ("drawn", "calls", "failed"))
        return batch, Cost(drawn, flops, len(episodes), calls, failed)

    def _progress(self, episodes: Sequence[Episode], rewards: np.ndarray, step: int) -> tuple[np.ndarray, int]:
        """The progress of every token `[prompts, group, seq]`, and the FLOPs that it took to know."""
        assert self.progress is not None
        cuts = []
        for one in episodes:
            texts = [self.stage.text(one.tokens[:n]) for n in range(1, len(one.tokens) + 1)]
            cuts.append(segments(texts, self.progress.delimiter))
        seed = int(np.random.SeedSequence([self.seed, step, FORCED]).generate_state(1)[0])
        asked = [(one, n) for one, ends in zip(episodes, cuts, strict=True) for n in (0, *ends)]
        forced, flops = self.forced(asked, self.progress, seed)
        chances = iter(forced)
        found = np.zeros((len(episodes), self.seq_len), np.float32)
        for i, (one, ends) in enumerate(zip(episodes, cuts, strict=True)):
            own = [next(chances) for _ in (0, *ends)]
            first = len(one.prompt) - 1
            found[i, first : first + len(one.tokens)] = gains(own, float(rewards[i]), ends, len(one.tokens))
        return found.reshape(self.prompts, self.group, self.seq_len), flops

    def forced(self, asked: Sequence[tuple[Episode, int]], how: Progress, seed: int) -> tuple[list[float], int]:
        """The share of right answers of each episode that is made to answer behind its first n tokens, and FLOPs. Equal
        texts of one problem are asked once. The params are those that the engine has."""
        mark, places = tuple(continuation(self.tokenizer, how.mark)), dict[tuple, int]()
        keys = [(one.row, (*one.prompt, *one.tokens[:n])) for one, n in asked]
        requests: list[Request] = []
        of: list[tuple[Problem, list[int]]] = []
        for key, (one, n) in zip(keys, asked, strict=True):
            if key not in places:
                places[key] = len(of)
                of.append((one.problem, one.tokens[:n]))
                most, prompt = how.tokens, (*key[1], *mark)
                requests.append(Request(places[key], prompt, how.samples, most, Sampling(self.temperature), seed=seed))
        before, right = self.engine.ledger.total.flops, np.zeros((len(of), how.samples))
        for done in self.engine.generate(requests):
            problem, tokens = of[done.problem]
            value = self._valued(problem, self.stage.text([*tokens, *mark, *done.tokens]))
            right[done.problem, done.sample] = value if math.isfinite(value) else 0.0
        found = right.mean(1)
        return [float(found[places[key]]) for key in keys], self.engine.ledger.total.flops - before

    def _kept(self, step: int, row: int, episodes: Sequence[Episode], rewards: np.ndarray) -> list[int]:
        """The places among all episodes of those of one prompt that the batch keeps."""
        first = row * self.samples
        own = range(first, first + self.samples)
        if self.filter is None:
            return list(own)
        calls, failed = (np.array([getattr(episodes[i], name) for i in own]) for name in ("calls", "failed"))
        rng = np.random.default_rng([self.seed, step, row, FILTERED])
        kept = self.filter.kept(rng, rewards[first : own.stop], calls, failed, self.group)
        return [first + int(i) for i in kept]

    def _chosen(self, step: int) -> list[Problem]:
        rng = np.random.default_rng([self.seed, step])
        return [self.problems[i] for i in rng.integers(len(self.problems), size=self.prompts)]

    def drawn(self, problems: Sequence[Problem], params: Any, samples: int, seed: int) -> Drawn:
        """`samples` completions of each problem, for measuring; a function of the arguments, apart from any step's."""
        return Drawn(*self._played(problems, params, samples, (seed ^ MEASURED) % 2**32, 0))

    def _played(
        self, problems: Sequence[Problem], params: Any, samples: int, seed: int, first: int, temperature: float = 1.0
    ) -> tuple[list[Episode], int]:
        longest = max(len(self.tokenizer.encode(problem.prompt)) for problem in problems)
        fix = f"give at least {longest + 1}"
        room = self.seq_len + 1 - longest
        require(room >= 1, "train.seq_len", f"{self.seq_len} leaves a prompt of {longest} no room", fix)
        self.engine.device.use_params(params)
        before = self.engine.ledger.total.flops
        episodes = self.stage.play(problems, samples, seed, first, temperature)
        return episodes, self.engine.ledger.total.flops - before

    def _reward(self, episode: Episode) -> float:
        """The reward of an episode; NaN where there is none."""
        if episode.fault is not None:
            return math.nan
        reward = self._valued(episode.problem, episode.text)
        if self.shaping is None:
            return reward
        own = [token for token, drawn in zip(episode.tokens, episode.own, strict=True) if drawn]
        return self.shaping.shaped(reward, own, episode.finish_reason == "length")

    def _valued(self, problem: Problem, text: str) -> float:
        """What the verifier says of a text; NaN where it raises."""
        try:
            return float(self.reward(problem, text))
        except Exception as error:  # whatever a verifier raises costs one sample, not the run
            log.warning("reward of %r: %s: %s", problem.prompt, type(error).__name__, error)
            return math.nan

    def _check(self, rewards: np.ndarray, step: int) -> None:
        share = float(np.mean(~np.isfinite(rewards)))
        if share > self.most_unscorable:
            problem = f"{share:.0%} of the completions of step {step} have no finite reward"
            raise ConfigError("reward", problem, f"mend it, or allow more than {self.most_unscorable:.0%}")


def _write(batch: dict[str, np.ndarray], place: tuple[int, int], episode: Episode, reward: float) -> None:
    """One episode into its place; what was shown has no weight."""
    whole = [*episode.prompt, *episode.tokens]
    batch["tokens"][place][: len(whole)] = whole
    span = slice(len(episode.prompt) - 1, len(whole) - 1)
    batch["weights"][place][span] = episode.own
    batch["sampled_logprobs"][place][span] = episode.logprobs
    batch["truncated"][place] = episode.finish_reason == "length"
    batch["rewards"][place] = reward
