"""Threads: searches for a Countdown of three numbers, written by one thread or by several that one has called for.

A symbolic solver writes them, so that a policy can learn either way: a serial search tries one first move after
another, with all that may follow; a parent calls for every first move, a child tries what follows one of them, and the
parent answers with what it is told (APR, Pan et al. 2025, arXiv:2504.15466).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import require
from scaling.tasks.countdown import Countdown
from scaling.tasks.task import Problem

_CALL = "[0-9]{1,3}[-+*/][0-9]{1,3}"
_FOUND = re.compile(f"({_CALL})=([0-9]{{1,4}}):(?:{_CALL}=[0-9]{{1,4}},)*({_CALL})=([0-9]{{1,4}})!")


@dataclass(frozen=True)
class Threads:
    """Of `24:3,5,8>`: a serial search writes `5+3=8:8+8=16,8*8=64,8-8=0,8/8=1;5*3=15:...;5-3=2:8+2=10,8*2=16,...`, a
    move, its result and the moves after it, and ends with `!.` where one gives the target, with `-.` where none does.

    A parent writes the call `[5+3,5*3,...]`. A child reads the problem and `@5+3` and goes on `=8:8+8=16,...`, to `!.`
    or `;.`. The parent then reads, in the place of its call, `{5*3=15:15+...}`, what at most `told` children found, or
    `{-}`, and ends with one of it and `.`, or with `-.`.
    """

    task: Countdown = Countdown(numbers=3)
    children: int = 12
    told: int = 3

    alphabet = Countdown.alphabet + "!;@[]{}"
    ends = ".]"  # of a text that a thread writes

    def __post_init__(self) -> None:
        require(self.task.numbers == 3, "threads.task", f"has {self.task.numbers} numbers", "use three")
        require(self.children >= 1 and self.told >= 1, "threads.children", "are none", "use 1 or more, told 1 or more")

    def firsts(self, problem: Problem) -> dict[str, tuple[int, ...]]:
        """Every first move, such as `5+3`, with the two numbers after it, in the order of Countdown."""
        moves = self.task.moves(problem, self.task.start(problem))
        return {text.partition("=")[0]: state for text, state in moves}  # type: ignore[misc]

    def searched(self, problem: Problem, call: str) -> str:
        """What a child of this first move writes: its result, and moves after it up to one that gives the target."""
        state, target = self.firsts(problem)[call], problem.instance[1]
        result = _result(call, problem, state)
        texts = list(dict.fromkeys(text.partition(">")[0] for text, _ in self.task.moves(problem, state)))
        right = [i for i, text in enumerate(texts) if text.endswith(f"={target}")]
        tried = texts[: right[0] + 1] if right else texts
        return f"={result}:{','.join(tried)}{'!' if right else ';'}."

    def serial(self, problem: Problem) -> str:
        """A search by one thread."""
        text = ""
        for call in self.firsts(problem):
            text += call + self.searched(problem, call)[:-1]
            if text.endswith("!"):
                return f"{text}."
        return f"{text}-."

    def called(self, problem: Problem) -> str:
        """What a parent writes first."""
        return f"[{','.join(self.firsts(problem))}]"

    def calls(self, text: str) -> list[str]:
        """The distinct calls of a parent, at most `children`; none where it wrote no call."""
        listed = text[1:-1].split(",") if text.startswith("[") and text.endswith("]") else []
        return [one for one in dict.fromkeys(listed) if re.fullmatch(_CALL, one)][: self.children]

    def child(self, problem: Problem, call: str) -> str:
        """What a child reads."""
        return f"{problem.prompt}@{call}"

    def reply(self, calls: Sequence[str], texts: Sequence[str]) -> str:
        """What the parent is told of its children's texts."""
        both = [_FOUND.fullmatch((call + text)[:-1]) for call, text in zip(calls, texts, strict=True)
                if text.endswith("!.")]  # fmt: skip
        found = [f"{one[1]}={one[2]}:{one[3]}={one[4]}" for one in both if one is not None]
        return "{" + (",".join(found[: self.told]) or "-") + "}"

    def answered(self, reply: str) -> str:
        """What the parent ends with."""
        return f"{reply[1:-1].split(',')[0]}."

    def completion(self, problem: Problem, text: str) -> str:
        """The Countdown completion that a serial search or a parent's answer claims; "" where it claims none."""
        last = text[text.rfind(";") + 1 :]
        found = _FOUND.fullmatch(last[:-1] if last.endswith("!.") else f"{last[:-1]}!" if last.endswith(".") else "")
        if found is None:
            return ""
        call, result, then, end = found.groups()
        left = [str(number) for number in problem.instance[0]]
        for operand in re.split("[-+*/]", call):
            if operand not in left:
                return ""
            left.remove(operand)
        return f"{call}={result}>{result},{left[0]}|{then}={end}>{end}."

    def verify(self, problem: Problem, text: str) -> bool:
        """Whether what a serial search or a parent ends with is a solution."""
        return self.task.verify(problem, self.completion(problem, text))


def _result(call: str, problem: Problem, state: tuple[int, ...]) -> int:
    """What a first move gives: of the numbers after it, the one that was not there before."""
    rest = list(problem.instance[0])
    for operand in re.split("[-+*/]", call):
        rest.remove(int(operand))
    after = list(state)
    after.remove(rest[0])
    return int(after[0])
