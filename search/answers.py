"""Greedy answers of a policy, as `scaling.evaluate` takes them: many contexts in, one text each out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from models.quantize import quantize
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling
from search.policy import Policy


def greedy_answers(
    policy: Policy, config: EngineConfig, max_tokens: int, stop: Sequence[str] = ()
) -> Callable[[Sequence[tuple[int, ...]]], list[str]]:
    """A function from contexts (token ids) to what the policy goes on with, at temperature 0.

    An answer ends with the policy's own end of a text, with one of `stop`, or after `max_tokens`. The engine compiles
    once, when it is first asked.
    """
    engines: list[Engine] = []
    spelling = policy.spelling if stop else ()

    def answer(contexts: Sequence[tuple[int, ...]]) -> list[str]:
        if not engines:
            engines.append(
                Engine(policy.model, quantize(policy.params, policy.model, "float32"), config, None, spelling)
            )
        requests = [
            Request(i, tuple(context), 1, max_tokens, Sampling(temperature=0.0), stop_texts=tuple(stop))
            for i, context in enumerate(contexts)
        ]
        texts: dict[int, str] = {}
        for completion in engines[0].generate(requests):
            tokens = completion.tokens
            kept = tokens[:-1] if completion.finish_reason == "eos" else tokens
            text = policy.text(contexts[completion.problem], kept)
            ends = [at for mark in stop if (at := text.find(mark)) >= 0]
            texts[completion.problem] = text[: min(ends)] if ends else text
        assert len(texts) == len(contexts)
        return [texts[i] for i in range(len(contexts))]

    return answer
