"""A policy under evaluation: as `scaling.evaluate` reads it, and its greedy answers, many contexts in, one text each
out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.errors import require
from scaling import kept
from scaling.evaluate.evaluate import Subject
from scaling.evaluate.reading import document_reader, text_reader
from scaling.sweep.trial import override
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling
from search.policy import Policy

LEAST_CONTEXT = 127  # tokens of an engine's smallest size, less one


def subject(policy: Policy, chat: bool = False) -> Subject:
    """The policy as `scaling.evaluate` sees it: a trial reads documents as it was trained to, others read text."""
    if policy.context is not None:  # a Hugging Face folder
        return Subject(policy.model, policy.params, text_reader(policy.tokenizer, chat), policy.context)
    require(not chat, "--chat", f"{policy.source} is a trial, which has no chat template", "leave it out")
    data = kept.read(Path(policy.source) / "config.json", dict)["data"]
    packed = data.get("packing", "concatenate") == "concatenate"
    return Subject(policy.model, policy.params, document_reader(policy.tokenizer, packed))


def engine_config(policy: Policy, longest: int, max_tokens: int) -> EngineConfig:
    """Of an engine for contexts of up to `longest` tokens and answers of `max_tokens`; ConfigError where none fits."""
    max_len = 1 << max(LEAST_CONTEXT, longest + max_tokens).bit_length()  # few sizes, as each compiles
    config = EngineConfig(slots=16, max_len=max_len, ends=policy.ends)
    if policy.model.positions == "learned":
        config = override(config, {"max_len": min(config.max_len, policy.model.max_seq_len)})
    config.check(policy.model)
    return config


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
