"""Made-up word problems in the shape of GSM8K (Cobbe et al. 2021): a story, a solution of two steps, "#### 7"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.errors import ConfigError, require
from scaling.tasks.task import Split, side

NAME = "word problems"
_WHO = ("Tom", "Mia", "Ben", "Ana")
_WHAT = ("apples", "books", "coins", "pens")
_MORE = ("buys", "finds", "gets")
_LESS = ("loses", "sells", "gives away")
_MOST_REPEATS = 20_000  # draws without a new problem, after which there are taken to be no more


@dataclass(frozen=True)
class WordProblem:
    """A question, which ends with a line feed; a solution of one line per step; and the answer, a whole number."""

    question: str
    solution: str
    answer: str


def word_problems(seed: int, count: int, split: Split = "test", largest: int = 20) -> list[WordProblem]:
    """`count` distinct problems with numbers up to `largest`; fewer are a prefix of more.

    A hash of the question decides the side, so that train and test are disjoint for any seeds and counts.

    Raises:
      ConfigError: there are not so many.
    """
    require(split in ("train", "test"), "split", f"is {split!r}", "use 'train' or 'test'")
    require(count >= 1, "count", f"is {count}", "give 1 or more")
    require(4 <= largest <= 10**6, "largest", f"is {largest}", "use 4 to 1,000,000")
    require(0 <= seed < 2**32, "seed", f"is {seed}", "give 0 to 2^32 - 1")
    rng = np.random.default_rng([seed, *NAME.encode()])
    found: dict[str, WordProblem] = {}
    misses = 0
    while len(found) < count:
        problem = _drawn(rng, largest)
        if side(NAME, problem.question) == split and problem.question not in found:
            found[problem.question], misses = problem, 0
            continue
        misses += 1
        problem_text = f"there are only some {len(found):,} of the {split} split with numbers up to {largest}"
        if misses > _MOST_REPEATS:
            raise ConfigError("count", problem_text, "ask for fewer, or raise largest")
    return list(found.values())


def reworded(problem: WordProblem, rng: np.random.Generator) -> str:
    """The same question with the same numbers about another person, in other words, ended by a line feed."""
    first, second = (line.split() for line in problem.solution.splitlines()[:2])
    name, what = problem.question.split(" ", 1)[0], problem.question.split(". ", 1)[0].rsplit(" ", 1)[1]
    who = str(rng.choice([one for one in _WHO if one != name]))
    changes = []
    for when, step in (("at noon", first), ("in the evening", second)):
        options = ("come in", "are received") if step[1] == "+" else ("go out", "are handed on")
        changes.append(f"{step[2]} {rng.choice(options)} {when}")
    start = f"In the morning {first[0]} {what} lie on the table of {who}; {changes[0]} and {changes[1]}."
    return f"{start} Find the number of {what} at night.\n"


def _drawn(rng: np.random.Generator, largest: int) -> WordProblem:
    """A problem of either side; no step ends below 0."""
    who, what = (options[int(rng.integers(len(options)))] for options in (_WHO, _WHAT))
    now = int(rng.integers(2, largest + 1))
    story, steps = [f"{who} has {now} {what}."], []
    for _ in range(2):
        gain = now < 2 or rng.random() < 0.5
        amount = int(rng.integers(1, (largest if gain else now) + 1))
        words = _MORE if gain else _LESS
        story.append(f"{who} {words[int(rng.integers(len(words)))]} {amount}.")
        after = now + amount if gain else now - amount
        steps.append(f"{now} {'+' if gain else '-'} {amount} = {after}")
        now = after
    question = f"{' '.join(story)} How many {what} has {who} now?\n"
    return WordProblem(question, "\n".join([*steps, f"#### {now}\n"]), str(now))
