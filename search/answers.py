"""Greedy answers of a policy, as `scaling.evaluate` takes them: many contexts in, one text each out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling
from search.policy import Policy


class GreedyAnswers:
    """A function from contexts (token ids) to what the policy goes on with, at temperature 0.

    An answer ends with the policy's own end of a text, with one of `stop`, or after `max_tokens`. The engine compiles
    once, when it is first asked. flops: of all reading and writing so far.
    """

    def __init__(self, policy: Policy, config: EngineConfig, max_tokens: int, stop: Sequence[str] = ()) -> None:
        self.policy, self.config, self.max_tokens, self.stop = policy, config, max_tokens, tuple(stop)
        self.engine: Engine | None = None
        self.params: Any = policy.params

    @property
    def flops(self) -> int:
        return self.engine.ledger.total.flops if self.engine else 0

    def use_params(self, params: Any) -> None:
        """Answer with other parameters of the same model; the config must not reuse prefixes, which are of those
        before."""
        assert not self.config.reuse_prefixes
        self.params = params
        if self.engine is not None:
            self.engine.device.use_params(params)

    def __call__(self, contexts: Sequence[tuple[int, ...]]) -> list[str]:
        if self.engine is None:
            spelling = self.policy.spelling if self.stop else ()
            self.engine = Engine(self.policy.model, self.params, self.config, None, spelling)
        requests = [
            Request(i, tuple(context), 1, self.max_tokens, Sampling(temperature=0.0), stop_texts=self.stop)
            for i, context in enumerate(contexts)
        ]
        texts: dict[int, str] = {}
        for completion in self.engine.generate(requests):
            tokens = completion.tokens
            kept = tokens[:-1] if completion.finish_reason == "eos" else tokens
            text = self.policy.text(contexts[completion.problem], kept)
            ends = [at for mark in self.stop if (at := text.find(mark)) >= 0]
            texts[completion.problem] = text[: min(ends)] if ends else text
        assert len(texts) == len(contexts)
        return [texts[i] for i in range(len(contexts))]
