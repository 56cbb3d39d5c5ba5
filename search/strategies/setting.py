"""Setting: what a strategy may need of where it runs; and what every strategy's config can be asked for.

A config is a frozen dataclass with a `name`, the fields that its strategy needs, and `make`. What a person can write as
text (a delimiter, a trigger, how answers are read) becomes tokens here, where the policy is known.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jax.sharding import Mesh

from models.errors import ConfigError, require
from search.config import SearchConfig
from search.decoder import Decoder, TransformerDecoder, ValueHead
from search.engine.config import Precision
from search.named import Named
from search.searcher import Searcher
from search.strategies.answers import Reader, reader
from search.strategies.strategy import Strategy
from search.strategies.survey import Tags
from search.strategies.votes import AnswerOf, by_vote, whole

if TYPE_CHECKING:
    from search.policy import Policy

Vote = Literal["none", "majority", "weighted"]


@dataclass(frozen=True)
class Setting:
    """One policy and one search of it.

    search: sizes, seed, limits; what ends a step and a generation. answer: how answers are read (`answers.reader`).
    scorer, head, host_flops: of the verifier, as `Searcher` and its decoder take them. quantized_cache: keys and values
    in int8, of every model that draws.
    """

    policy: Policy
    search: SearchConfig
    answer: str = "whole"
    scorer: Any = None
    head: ValueHead | None = None
    host_flops: float = 0.0
    mesh: Mesh | None = None
    precision: Precision = "float32"
    quantized_cache: bool = False

    def decoder(
        self, policy: Policy | None = None, kind: type[TransformerDecoder] = TransformerDecoder
    ) -> Decoder:
        """The policy as what draws a search's tokens, or another one beside it."""
        if policy is None:
            policy, head = self.policy, self.head
        else:
            head = None
        return kind(
            policy.model, policy.params, self.search.prompt_len, self.precision, head,
            quantized_cache=self.quantized_cache,
        )  # fmt: skip

    def tokens(self, text: str, field: str) -> tuple[int, ...]:
        """A text as tokens that may stand in the middle of others."""
        found = self.policy.continuation(text)
        require(bool(found), field, f"{text!r} is no token", "give at least one letter")
        return found

    def token(self, text: str, field: str) -> int:
        """The one token that a text is."""
        found = self.policy.continuation(text)
        if len(found) == 1:
            return found[0]
        spelled = [i for i, word in enumerate(self.policy.spelling) if word == text.encode()]
        if len(spelled) == 1:
            return spelled[0]
        problem = f"{text!r} is {len(found)} tokens of {self.policy.source}"
        raise ConfigError(field, problem, "give a text that is one token of the policy's tokenizer")

    def reader(self, answer: str | None = None) -> Reader:
        """How answers are read: a strategy's own way, or the search's."""
        return reader(answer or self.answer)

    def answer_of(self, answer: str | None = None) -> AnswerOf:
        """The same on the device."""
        policy = self.policy
        return self.reader(answer).on_device(policy.spelling, policy.model.vocab_size, policy.ends)

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a generation."""
        return self.policy.ends


class StrategyConfig(Named):
    """A strategy by name; subclasses are frozen dataclasses."""

    tags: ClassVar[Tags]  # where it stands among all ways to spend compute at test time
    stepwise: ClassVar[bool] = False  # whether it chooses between the steps of a text, so that something must end them

    def make(self, setting: Setting | None) -> Strategy:
        """The strategy itself; setting: None where there is no policy, for those that need none."""
        raise NotImplementedError

    def strategy(self, setting: Setting | None = None) -> Strategy:
        """`make`, answered as the config says."""
        return self.make(setting)

    def parted(self, delimiter: str | None) -> StrategyConfig:
        """The same with another text that ends a step, where it chooses between steps; None: as it is."""
        return self

    def sized(self, search: SearchConfig) -> SearchConfig:
        """The sizes of a search that this strategy can run in."""
        return search

    def rows(self, setting: Setting) -> int:
        """Rows that it decodes side by side for one problem."""
        return self.strategy(setting).width

    def decoder(self, setting: Setting) -> Decoder:
        """What draws its tokens."""
        return setting.decoder()

    def scorer(self, setting: Setting) -> Any:
        """What scores them."""
        return setting.scorer

    def search(self, setting: Setting) -> Searcher:
        """The strategy with the policy of the setting; ConfigError for what cannot be."""
        at = dataclasses.replace(setting, search=self.sized(setting.search))
        texts = any(isinstance(end, str) for end in (*at.search.delimiters, *at.search.ends))
        spelling = at.policy.spelling if texts else ()
        decoder, scorer = self.decoder(at), self.scorer(at)
        return Searcher(decoder, self.strategy(at), at.search, scorer, at.mesh, at.host_flops, spelling)


class NeedsPolicy(ConfigError):
    """A strategy that is made of texts was to be made without a policy that can read them."""


def needs(setting: Setting | None, name: str) -> Setting:
    """The setting, or a ConfigError: this strategy is made of texts that only a policy can read."""
    if setting is None:
        raise NeedsPolicy("strategy", f"{name} needs a policy and its tokenizer", "give it to launch.infer --strategy")
    return setting


@dataclass(frozen=True, kw_only=True)
class Stepwise(StrategyConfig):
    """A strategy that chooses between steps."""

    delimiter: str | None = None  # text that ends a step, however tokens cut it; None: as the search says
    tokens_per_step: int | None = None  # a step ends after so many tokens, too; None: as the search says

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        tokens, fix = self.tokens_per_step, "give a positive integer, or None"
        require(tokens is None or tokens >= 1, f"{self.name}.tokens_per_step", f"is {tokens}", fix)

    def parted(self, delimiter: str | None) -> StrategyConfig:
        """With a delimiter of its own."""
        return self if delimiter is None else dataclasses.replace(self, delimiter=delimiter)

    def sized(self, search: SearchConfig) -> SearchConfig:
        """The search with this config's own ends of steps."""
        if self.delimiter is not None:
            search = dataclasses.replace(search, delimiters=(self.delimiter,))
        if self.tokens_per_step is not None:
            search = dataclasses.replace(search, tokens_per_step=self.tokens_per_step)
        return search


@dataclass(frozen=True, kw_only=True)
class Voting(StrategyConfig):
    """A strategy whose candidates may vote on the answer."""

    vote: Vote = "none"  # majority: one each; weighted: the strategy's own weights; none: the strategy chooses
    answer: str | None = None  # how an answer is read, such as number:####; None: as the search says

    def strategy(self, setting: Setting | None = None) -> Strategy:
        """The strategy, or the vote of its candidates."""
        made = self.make(setting)
        if self.vote == "none":
            return made
        return by_vote(made, answer_of(self.answer, setting), weighted=self.vote == "weighted")


def answer_of(answer: str | None, setting: Setting | None) -> AnswerOf:
    """How answers are read on the device; without a policy the whole text is one."""
    if setting is None:
        if answer not in (None, "whole"):
            raise NeedsPolicy("answer", f"is {answer!r}, which needs a policy's tokenizer", "leave it out")
        return whole
    return setting.answer_of(answer)
