"""Request and Completion: what goes into the engine and what comes out, one completion per sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from models.errors import require
from search.engine.config import EngineConfig
from search.engine.decode import EOS, LENGTH, STOP
from search.engine.sampling import Sampling
from search.engine.stop import check_stops

FinishReason = Literal["eos", "stop", "length"]
REASONS: dict[int, FinishReason] = {EOS: "eos", STOP: "stop", LENGTH: "length"}
UINT32 = 2**32


@dataclass(frozen=True)
class Request:
    """`samples` independent continuations of one prompt.

    problem: names the random stream; sample i of problem p draws from fold_in(fold_in(fold_in(seed, p), i), step),
        so two requests with equal seed, problem and prompt give equal samples.
    max_tokens: most tokens of a sample; it ends earlier, with the reason "length", where the context is full.
    stop: token sequences that end a sample when it has just generated one of them.
    stop_texts: texts that do, however the tokens cut them; the engine must know how tokens are spelled.
    skip: samples not to generate, because an earlier run has them; the others come out the same.
    """

    problem: int
    prompt: tuple[int, ...]
    samples: int = 1
    max_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[tuple[int, ...], ...] = ()
    seed: int = 0
    skip: tuple[int, ...] = ()
    stop_texts: tuple[str, ...] = ()

    def check(self, vocab_size: int, config: EngineConfig) -> None:
        """Raise ConfigError (field, problem, fix) when the engine cannot serve this request."""
        name = f"request {self.problem}"
        require(0 <= self.problem < UINT32, f"{name}.problem", "is no 32-bit number", "give 0 to 2^32 - 1")
        require(0 <= self.seed < UINT32, f"{name}.seed", f"is {self.seed}", "give 0 to 2^32 - 1")
        require(len(self.prompt) > 0, f"{name}.prompt", "is empty", "give at least one token, such as the end token")
        bad = sorted({t for t in self.prompt if not 0 <= t < vocab_size})
        tokens = f"use 0 to {vocab_size - 1}, from the model's own tokenizer"
        require(not bad, f"{name}.prompt", f"holds unknown tokens {bad[:5]}", tokens)
        require(self.samples >= 1, f"{name}.samples", f"is {self.samples}", "give a positive integer")
        require(self.max_tokens >= 1, f"{name}.max_tokens", f"is {self.max_tokens}", "give a positive integer")
        length, longest = len(self.prompt), config.max_len
        require(
            length < longest,
            f"{name}.prompt",
            f"has {length} tokens, but the context holds {longest} and a sample needs one",
            f"shorten it to {longest - 1}, or raise engine.max_len",
        )
        least, fix = self.sampling.min_tokens, f"give at most {self.max_tokens}, or raise max_tokens"
        require(least <= self.max_tokens, f"{name}.sampling.min_tokens", f"is {least}", fix)
        self.sampling.check_tokens(vocab_size)
        allowed = self.sampling.allowed
        check_stops(self.stop, vocab_size, self.max_tokens, config.ends, allowed)
        count, width = config.stop_sequences, config.stop_length
        require(len(self.stop) <= count, f"{name}.stop", f"has {len(self.stop)} sequences", f"give at most {count}")
        longest = max((len(stop) for stop in self.stop), default=0)
        fix = f"give at most {width}, or raise engine.stop_length"
        require(longest <= width, f"{name}.stop", f"has a sequence of {longest} tokens", fix)


@dataclass(frozen=True)
class Completion:
    """One finished sample.

    tokens: all that were generated, the end token or stop sequence included. logprobs: of each, nats, under the model's
    own distribution at temperature 1 or the one that was drawn from, as `engine.recorded` says. near_ties: indices of
    tokens that another order of float32 sums could have flipped (`precision="layercast"` only). flops,
    bytes: of this sample's decode steps, its prompt not included.
    """

    problem: int
    sample: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    near_ties: tuple[int, ...] = ()
    flops: int = 0
    bytes: int = 0

    @property
    def generated_tokens(self) -> int:
        """Tokens of this sample: also its sequential depth."""
        return len(self.tokens)
