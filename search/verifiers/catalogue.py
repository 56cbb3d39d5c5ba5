"""Verifiers by name, with their fields: "likelihood", "numeric:answer=number:####", "reward:folder=models/prm".

What each says of a completion and what it needs of a prompt's own fields is in its docstring; a prompt that lacks it is
marked, and the others go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple, get_args

from models.errors import require
from scaling.tasks.task import Problem
from search.config import SearchConfig
from search.decoder import ValueHead
from search.engine.sampling import Sampling
from search.engine.text_stop import cut
from search.named import Named, by_name, read_named
from search.policy import Policy, load_policy
from search.searcher import HostScores
from search.strategies.answers import Reader, reader
from search.strategies.pruning import ConfidenceScorer
from search.verifiers.function import Function
from search.verifiers.generative import generative_verifier
from search.verifiers.program import Case, ProgramVerifier
from search.verifiers.reward_folder import read_reward, same_tokens
from search.verifiers.reward_model import RewardModel
from search.verifiers.sandbox import Allowance
from search.verifiers.scorer import LikelihoodScorer, ValueScorer

Score = Callable[[Mapping[str, Any], Sequence[str]], Sequence[float]]  # (a prompt's fields, completions) -> in [0, 1]
FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


class Row(NamedTuple):
    """What a search of one's own prompts is about: tokens of a prompt, and the fields of its row."""

    prompt: tuple[int, ...]
    fields: Mapping[str, Any]


class Judging(NamedTuple):
    """A verifier with its policy: what `Setting` takes, and a digest of the weights that it reads ("": none)."""

    scorer: Any
    head: ValueHead | None = None
    host_flops: float = 0.0
    digest: str = ""


def said(policy: Policy, search: SearchConfig, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """What a completion adds to the text of its prompt, up to the end that it wrote."""
    ended = bool(tokens) and tokens[-1] in search.ends
    text = policy.text(prompt, tokens[:-1] if ended else tokens)
    return cut(text, [end for end in search.ends if isinstance(end, str)])


class VerifierConfig(Named):
    """A verifier by name; subclasses are frozen dataclasses."""

    def judging(self, policy: Policy, search: SearchConfig, answer: str) -> Judging:
        """What scores completions of this policy. answer: how a search reads answers (`answers.reader`)."""
        raise NotImplementedError


class OfTexts(VerifierConfig):
    """A verifier of the host, which reads texts and the fields of their prompts."""

    def score(self, answer: str) -> Score:
        """Scores of completions of one prompt."""
        raise NotImplementedError

    def judging(self, policy: Policy, search: SearchConfig, answer: str) -> Judging:
        """`score`, of what the policy's tokens say."""
        score = self.score(answer)

        def scores(rows: Sequence[Any], texts: Sequence[tuple[int, ...]]) -> Any:
            row: Row = rows[0]  # a search asks about one problem at a time
            return score(row.fields, [said(policy, search, row.prompt, tokens) for tokens in texts])

        host: HostScores = scores
        return Judging(host)


@dataclass(frozen=True)
class Likelihood(VerifierConfig):
    """How likely the policy found what it wrote: the mean probability of a token. It costs nothing."""

    name = "likelihood"

    def judging(self, policy: Policy, search: SearchConfig, answer: str) -> Judging:
        """On the device."""
        return Judging(LikelihoodScorer())


@dataclass(frozen=True)
class TokenConfidence(VerifierConfig):
    """How sure the policy is of the next token: C / (1 + C), C the mean surprise of its likeliest tokens. It costs
    nothing (Fu et al. 2025)."""

    top: int = 5  # likeliest tokens

    name = "confidence"

    def judging(self, policy: Policy, search: SearchConfig, answer: str) -> Judging:
        """On the device."""
        return Judging(ConfidenceScorer(self.top))


@dataclass(frozen=True)
class RewardFolder(VerifierConfig):
    """A trained reward model: a Hugging Face classifier, or a trial with a reward_head.safetensors. One whose trunk is
    the policy itself costs nothing."""

    folder: str
    label: int = 1  # of a classifier with two labels, the one that says "right"

    name = "reward"

    def judging(self, policy: Policy, search: SearchConfig, answer: str) -> Judging:
        """On the device, of the policy's own tokens."""
        reward = read_reward(self.folder, self.label)
        same = same_tokens(policy.spelling, reward.spelling)
        problem, fix = f"{self.folder} has another tokenizer than {policy.source}", "use a model of the same tokenizer"
        require(same, "reward.folder", problem, fix)
        if reward.trunk == policy.digest:
            return Judging(ValueScorer(), reward.head, digest=reward.digest)
        longest = search.prompt_len + search.max_tokens
        model = RewardModel(reward.model, reward.params, reward.head, policy.model.vocab_size, longest)
        return Judging(model, digest=reward.digest)


@dataclass(frozen=True)
class GenerativeJudge(VerifierConfig):
    """A language model that reads prompt, completion and a question, and votes with its tokens for yes and no."""

    checkpoint: str  # the judge: a trial's directory or a Hugging Face folder, of the policy's tokenizer
    question: str = "\nIs this right?"  # what it reads after the completion
    yes: tuple[str, ...] = (" Yes", "Yes")  # texts of one token that say yes; those of several are passed over
    no: tuple[str, ...] = (" No", "No")
    votes: int = 8  # judgements of each completion
    most_tokens: int = 1  # of a judgement
    temperature: float = 1.0

    name = "generative"

    def judging(self, policy: Policy, search: SearchConfig, answer: str) -> Judging:
        """On the device."""
        judge = load_policy(self.checkpoint)
        problem = f"{self.checkpoint} has another tokenizer than {policy.source}"
        fix = "use a judge of the same tokenizer"
        require(same_tokens(policy.spelling, judge.spelling), "generative.checkpoint", problem, fix)
        verdicts = [sorted({t[0] for t in map(judge.continuation, texts) if len(t) == 1}) for texts in
                    (self.yes, self.no)]  # fmt: skip
        for name, tokens in zip(("yes", "no"), verdicts):
            problem = f"{getattr(self, name)} are no single tokens of {self.checkpoint}"
            require(bool(tokens), f"generative.{name}", problem, "give texts of one token")
        made = generative_verifier(
            judge.model, judge.params, policy.model.vocab_size, search, judge.continuation(self.question), *verdicts,
            votes=self.votes, most_tokens=self.most_tokens, drawn=Sampling(temperature=self.temperature),
        )  # fmt: skip
        return Judging(made, digest=judge.digest)


@dataclass(frozen=True)
class ExactMatch(OfTexts):
    """1 where a completion answers exactly what its prompt's field says, else 0: what a perfect verifier would do."""

    field: str = "answer"  # of the prompt
    answer: str | None = None  # how an answer is read, such as after:####; None: as the search says

    name = "exact"

    def score(self, answer: str) -> Score:
        """By the reader's own idea of equal answers."""
        read = reader(self.answer or answer, "exact.answer")
        return lambda fields, texts: [float(read.right(text, str(_field(fields, self.field)))) for text in texts]


@dataclass(frozen=True)
class NumericAnswer(OfTexts):
    """1 where a completion's number is that of its prompt's field, else 0."""

    field: str = "answer"  # of the prompt: a number, or a text that holds it
    answer: str = "number"  # which number is the answer: number, number:####, after:..., boxed
    tolerance: float = 0.0  # relative

    name = "numeric"

    def score(self, answer: str) -> Score:
        """By value."""
        read = reader(self.answer, "numeric.answer")
        require(self.tolerance >= 0, "numeric.tolerance", f"is {self.tolerance}", "give 0 or more")

        def scores(fields: Mapping[str, Any], texts: Sequence[str]) -> list[float]:
            wanted = str(_field(fields, self.field))
            right = _number(read, wanted) if _number(read, wanted) is not None else _number(Reader("number"), wanted)
            if right is None:
                raise ValueError(f"the prompt's {self.field!r} holds no number")
            return [float(self._near(_number(read, text), right)) for text in texts]

        return scores

    def _near(self, number: Decimal | None, right: Decimal) -> bool:
        return number is not None and abs(number - right) <= Decimal(self.tolerance) * abs(right)


@dataclass(frozen=True)
class ProgramTests(OfTexts):
    """The share of its prompt's tests that the program in a completion passes, each in a sandbox of its own.

    The prompt's field is a list of {"given": text on standard input, "expected": text on standard output}.
    """

    field: str = "tests"  # of the prompt
    source: Literal["fenced", "completion", "continued"] = "fenced"  # the last ```python block, or all where there is
    # none; the completion as it is; or the prompt's text and the completion as one program
    all_or_nothing: bool = False  # a program that fails a test scores 0
    seconds: float = 5.0  # of one test
    memory: int = 512  # MiB

    name = "program"

    def score(self, answer: str) -> Score:
        """See `ProgramVerifier`."""
        limits = Allowance(self.seconds, self.memory * 2**20)
        verifier = ProgramVerifier(self._cases, limits=limits, all_or_nothing=self.all_or_nothing)

        def scores(fields: Mapping[str, Any], texts: Sequence[str]) -> Any:
            problem = Problem(str(fields.get("prompt", "")), "", fields)
            return verifier.score([problem] * len(texts), [self._program(problem.prompt, text) for text in texts])

        return scores

    def _cases(self, problem: Problem) -> list[Case]:
        tests = _field(problem.instance, self.field)
        whole = isinstance(tests, list) and all(isinstance(test, dict) and "expected" in test for test in tests)
        if not whole or not tests:
            raise ValueError(f'the prompt\'s {self.field!r} is no list of {{"given": ..., "expected": ...}}')
        return [Case(str(test.get("given", "")), str(test["expected"])) for test in tests]

    def _program(self, prompt: str, text: str) -> str:
        if self.source == "continued":
            return prompt + text
        blocks = FENCE.findall(text) if self.source == "fenced" else []
        return blocks[-1] if blocks else text


@dataclass(frozen=True)
class UserFunction(OfTexts):
    """A function of your own, `def score(prompt: dict, completions: list[str]) -> list[float]`, in a process of its
    own: one that raises, hangs or dies on a prompt marks that prompt."""

    file: str  # Python
    function: str = "score"
    seconds: float = 10.0  # that one call may take

    name = "function"

    def score(self, answer: str) -> Score:
        """See `Function`."""
        require(self.seconds > 0, "function.seconds", f"is {self.seconds}", "give a positive number")
        return Function(self.file, self.function, self.seconds)


def _field(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"the prompt has no field {name!r}")
    return fields[name]


def _number(read: Reader, text: str) -> Decimal | None:
    """The number that a text answers, None where what it answers is none."""
    answer = read.read(text)
    inner = None if answer is None else Reader("number").read(answer)
    return None if inner is None else Decimal(inner)


AnyVerifier = (
    Likelihood | TokenConfidence | RewardFolder | GenerativeJudge | ExactMatch | NumericAnswer | ProgramTests
    | UserFunction
)  # fmt: skip
VERIFIERS: dict[str, type[VerifierConfig]] = by_name(get_args(AnyVerifier))


def read_verifier(text: str) -> VerifierConfig:
    """The verifier that a text names, as `search.named.read_named` reads it; ConfigError as there."""
    return read_named(text, VERIFIERS, "verifier")

