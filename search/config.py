"""SearchConfig and Budget: the static shapes of a search, and what one problem may cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from models.errors import LARGEST_SIZE, require
from scaling.typed import STEPS, at_most, typed
from search.engine.sampling import Sampling

Unit = Literal["tokens", "flops", "bytes", "seconds"]


@dataclass(frozen=True)
class Budget:
    """The most that one problem may cost, in one unit.

    tokens: drawn from the policy or read by a verifier. flops: of matrix products, the policy's and the verifier's.
    bytes: of keys and values read, written and moved. These three stop a search before the token that would exceed
    them. seconds: from a problem's first round; looked at between rounds, so the last round may exceed it, and the
    answer depends on the machine.
    """

    amount: float
    unit: Unit = "tokens"

    def __post_init__(self) -> None:
        typed(self, "budget")
        require(self.unit in get_args(Unit), "budget.unit", f"is {self.unit!r}", f"use one of {get_args(Unit)}")
        require(self.amount > 0, "budget.amount", f"is {self.amount}", "give a positive number")


@dataclass(frozen=True)
class SearchConfig:
    """Sizes of one search. At fixed `problems`, strategy width and mesh answers depend on problem and seed alone.

    A step ends with one of the `delimiters`, after `tokens_per_step` tokens, or with the generation.
    """

    problems: int = 8  # searched side by side
    prompt_len: int = 64  # most tokens of a prompt
    max_tokens: int = 64  # most tokens that follow it
    max_steps: int = 32  # most steps of one particle
    max_rounds: int = 64  # of one problem; the search then answers with what it has
    tokens_per_step: int | None = None  # None: only delimiters end a step
    delimiters: tuple[int | str, ...] = ()  # tokens, or texts however tokens cut them, that end a step
    ends: tuple[int | str, ...] = ()  # the same, that end a generation
    sampling: Sampling = field(default_factory=Sampling)
    budget: Budget | None = None
    seed: int = 0
    trace: bool = False  # keep the answer after every round, for anytime curves

    def __post_init__(self) -> None:
        typed(self, "search")
        sizes = ("problems", "prompt_len", "max_tokens", "max_steps")
        for name in (*sizes, "max_rounds"):
            value = getattr(self, name)
            require(value >= 1, f"search.{name}", f"is {value}", "give a positive integer")
        at_most(self, "search", **dict.fromkeys((*sizes, "tokens_per_step"), LARGEST_SIZE), max_rounds=STEPS)
        for name in ("delimiters", "ends"):
            empty = [end for end in getattr(self, name) if end == ""]
            require(not empty, f"search.{name}", "holds an empty text", "remove it")
        cap = self.tokens_per_step
        require(cap is None or cap >= 1, "search.tokens_per_step", f"is {cap}", "give a positive integer, or None")
        require(0 <= self.seed < 2**32, "search.seed", f"is {self.seed}", "give 0 to 2^32 - 1")
        problem, fix = "needs the history of every particle, which a search does not keep", "set it to 1"
        require(self.sampling.repetition_penalty == 1, "search.sampling.repetition_penalty", problem, fix)
        problem, fix = "belongs to samples of an engine", "set it to 0"
        require(self.sampling.min_tokens == 0, "search.sampling.min_tokens", problem, fix)
        require(not self.sampling.forced, "search.sampling.forced", "belongs to a strategy here", "leave it empty")


@dataclass(frozen=True)
class SearchSizes:
    """What a search of one's own prompts needs beside its strategy."""

    rows: int = 64  # candidates that decode side by side: prompts times what the strategy takes for one
    prompt_len: int | None = None  # most tokens of a prompt; None: what engine.max_len leaves beside max_tokens
    max_steps: int = 64  # most steps of one candidate
    max_rounds: int = 256  # of one prompt; the search then answers with what it has
    delimiter: str | None = None  # text that ends a step, for strategies that choose between steps; a strategy's own
    # delimiter comes before it, and that of a prompt's field `delimiter` before both
    tokens_per_step: int | None = None  # a step ends after so many tokens, too
    budget: Budget | None = None  # of one prompt

    def __post_init__(self) -> None:
        typed(self, "search")
        sizes = ("rows", "prompt_len", "max_steps", "tokens_per_step")
        for name in (*sizes, "max_rounds"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"search.{name}", f"is {value}", "give a positive integer")
        at_most(self, "search", **dict.fromkeys(sizes, LARGEST_SIZE), max_rounds=STEPS)
        require(self.delimiter != "", "search.delimiter", "is empty", "give a text, or leave it out")
