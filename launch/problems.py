"""Write problems to solve as a file of prompts, with their answers: word problems, or those of one of our tasks.

    python -m launch.problems --count 300 --out problems.jsonl
    python -m launch.problems --task countdown:numbers=3 --count 200 --out countdown.jsonl

A line has `prompt`, `task` and `delimiter`, the text that ends a step of a solution; word problems, and tasks with one
right answer, also have `answer`. --solutions adds a `solution`, to train on (data.field and data.prompt_field).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launch import cli

WORDS = "words"
FLAGS = cli.new_flags()
cli.DEFINE_string("task", WORDS, "words, or one of our tasks, as in countdown:numbers=3", flag_values=FLAGS)
cli.DEFINE_integer("count", 300, "problems", flag_values=FLAGS)
cli.DEFINE_string("out", None, "file to write, .jsonl", flag_values=FLAGS, required=True)
cli.DEFINE_enum("split", "test", ["train", "test"], "problems of which half; no problem is in both", flag_values=FLAGS)
cli.DEFINE_integer("seed", 0, "of the problems", flag_values=FLAGS)
cli.DEFINE_bool("solutions", False, "also write a right solution of each", flag_values=FLAGS)
cli.DEFINE_integer("largest", 20, "number in word problems", flag_values=FLAGS)


def main(task: str, count: int, out: str, split: str, seed: int, solutions: bool, largest: int) -> int:
    from models.errors import require
    from scaling.kept import write_atomically

    path = Path(out)
    require(path.suffix == ".jsonl", "--out", f"{out} does not end in .jsonl", "give a file of JSON lines")
    rows = words(count, split, seed, largest) if task == WORDS else of_task(task, count, split, seed)
    lines = [json.dumps({k: v for k, v in row.items() if solutions or k != "solution"}) + "\n" for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(lines))
    print(f"{len(lines):,} problems: {path}")
    return 0


def words(count: int, split: Any, seed: int, largest: int) -> Iterator[dict[str, str]]:
    """Word problems as rows."""
    from scaling.tasks.word_problems import NAME, word_problems

    for problem in word_problems(seed, count, split, largest):
        yield {
            "prompt": problem.question, "answer": problem.answer, "task": NAME, "delimiter": "\n",
            "solution": problem.solution,
        }  # fmt: skip


def of_task(name: str, count: int, split: Any, seed: int) -> Iterator[dict[str, str]]:
    """Problems of one of our tasks as rows."""
    import numpy as np

    from scaling.tasks import task_by_name
    from scaling.tasks.computation import Computation

    task, rng = task_by_name(name), np.random.default_rng([seed, 1])
    for problem in task.generate(seed, count, split):
        answer = {"answer": task.right_answer(problem)} if isinstance(task, Computation) else {}
        row = {"prompt": problem.prompt, **answer, "task": name, "delimiter": task.delimiter}
        yield row | {"solution": task.solution(problem, rng)}


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
