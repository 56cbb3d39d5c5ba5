"""Tasks as text to train on: one token per character, and examples of problems with their solutions."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import ConfigError, require
from scaling.tasks.catalogue import task_by_name
from scaling.tasks.task import Problem, Task

GENERATORS = 1  # raise it when a task gives other text for the same knobs


@dataclass(frozen=True)
class CharTokenizer:
    """One id per character of an alphabet, from 1 on; id 0 ends a document. See scaling.data.tokenizer.Tokenizer."""

    alphabet: str

    end_of_document = 0

    def __post_init__(self) -> None:
        unique = sorted(set(self.alphabet))
        require(bool(unique), "alphabet", "is empty", "give the characters of a task (task.alphabet)")
        object.__setattr__(self, "alphabet", "".join(unique))

    @classmethod
    def of(cls, *tasks: Task) -> CharTokenizer:
        """For all characters of these tasks."""
        return cls("".join(task.alphabet for task in tasks))

    @property
    def vocab_size(self) -> int:
        return len(self.alphabet) + 1

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"characters, 0 ends a document: {self.alphabet}".encode()).hexdigest()

    @property
    def spelling(self) -> tuple[bytes, ...]:
        """What each id adds to a text: its character, and nothing for the end of a document."""
        return (b"", *(letter.encode("utf-8", "surrogatepass") for letter in self.alphabet))

    def encode(self, text: str) -> np.ndarray:
        """Token ids [characters] int32.

        Raises:
          ConfigError: a character is not in the alphabet.
        """
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        table = self._table
        ids = table[np.minimum(points, len(table) - 1)]
        if not ids.all():
            character = text[int(np.flatnonzero(ids == 0)[0])]
            problem = f"{character!r} is no character of {self.alphabet!r}"
            raise ConfigError("data.tokenizer", problem, "use text of the tasks that the tokenizer was made for")
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of token ids; ends of documents and ids beyond the alphabet (padding) are left out."""
        return "".join(self.alphabet[token - 1] for token in map(int, tokens) if 0 < token <= len(self.alphabet))

    @property
    def token_bytes(self) -> np.ndarray:
        return np.asarray([0, *(len(character.encode()) for character in self.alphabet)], np.int32)

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """The id of each code point up to the highest of the alphabet, 0 for the others [points + 1]."""
        table = np.zeros(max(map(ord, self.alphabet)) + 2, np.int32)
        table[[ord(character) for character in self.alphabet]] = np.arange(1, self.vocab_size)
        return table


@dataclass(frozen=True)
class TaskText:
    """Examples of a task to train on: problems of its train split, each with one right completion."""

    task: Task
    count: int = 100_000
    seed: int = 0

    @classmethod
    def of(cls, name: str) -> TaskText:
        """What a config names: as task_by_name, with `examples` and `seed` among the knobs.

        Raises:
          ConfigError: as task_by_name, or no positive number of examples.
        """
        kind, _, listed = name.partition(":")
        own: dict[str, int] = {}
        knobs = []
        for entry in listed.split(","):
            knob, _, value = entry.partition("=")
            if knob in ("examples", "seed"):
                require(value.isdecimal(), f"{kind}.{knob}", f"is {value!r}", "give a whole number")
                own[knob] = int(value)
            else:
                knobs.append(entry)
        task = task_by_name(f"{kind}:{','.join(knobs)}")
        count = own.get("examples", cls.count)
        require(count >= 2, f"{kind}.examples", f"is {count}", "give 2 or more")
        return cls(task, count, own.get("seed", cls.seed))

    @property
    def digest(self) -> str:
        """sha256 that changes with the text."""
        return hashlib.sha256(f"{GENERATORS} {self.task!r} {self.count} {self.seed}".encode()).hexdigest()

    def examples(self) -> Iterator[tuple[Problem, str]]:
        """Problems with a solution each; the same ones every time."""
        rng = np.random.default_rng([self.seed, 1, *self.task.name.encode()])
        for problem in self.task.generate(self.seed, self.count, "train"):
            yield problem, self.task.solution(problem, rng)


def solved_rows(
    tokenizer: CharTokenizer, task: Task, problems: Sequence[Problem], seq_len: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Each problem with a solution as a row: tokens [n, seq + 1] int32, weights [n, seq] float32, 1 on the solution.

    Raises:
      ConfigError: one does not fit.
    """
    rng = np.random.default_rng(seed)
    tokens = np.full((len(problems), seq_len + 1), tokenizer.end_of_document, np.int32)
    weights = np.zeros((len(problems), seq_len), np.float32)
    for i, problem in enumerate(problems):
        prompt, solution = tokenizer.encode(problem.prompt), tokenizer.encode(task.solution(problem, rng))
        whole = np.concatenate([prompt, solution])
        fix = f"give at least {len(whole) - 1}"
        require(len(whole) <= seq_len + 1, "seq_len", f"is {seq_len}, too short for {len(whole)} tokens", fix)
        tokens[i, : len(whole)] = whole
        weights[i, len(prompt) - 1 : len(whole) - 1] = 1
    return {"tokens": tokens, "weights": weights}
