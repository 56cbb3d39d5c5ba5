"""Tasks with exact verifiers, for policies of 1 to 20 million parameters. This file is the table of contents.

task.py          Problem, Task: what every task offers
environment.py   what answers within a completion: the tools of calculation.py, longhand.py (which can do without) and
                 edits.py
planted.py       a pattern that a text must hold somewhere; scenes.py programs edited until they render as asked
text.py          a tokenizer of characters, and training text
tree.py          the random policy of a task as tables, for exact tests of search
state_space.py   tasks that are walks to a goal: countdown.py, path_star.py (and random graphs), and
puzzle.py        those between two arrangements: hanoi.py, puzzles.py (checkers, river, blocks)
computation.py   tasks with one right answer: arithmetic.py, modular.py, dag.py, tag.py, words.py (copy, recall),
                 memory.py (lookup, repeat, permute), and misleading.py, corpora that teach what a test asks not to do
reasoned.py      modular.py with thoughts: whole, cut short or none, with results that are taken back
facts.py         questions about facts that no text states, with recollections that are taken back
programs.py      programs of a few operations, asked for by examples and judged on every input; repair.py: broken ones
sequences.py     labelled tokens that ask a mixer to recall, copy, find or follow a state; letters.py asks to count
                 letters and numerals.py to add, read one by one or in pieces; execution.py what a program prints,
                 programs.py the shortest program of a row, skills.py ten skills in mixtures of styles and noise,
                 biographies.py facts that no rule foretells, retrieved.py questions that documents answer, found
                 by a retriever that errs, tones.py letters as sound, images.py classes of patterns, streams.py
                 streams whose least loss is known; probe.py learns them, learning_curve.py from so many rows
mixed.py         one task over several difficulties: "modular:operations=4/8/16/32"
catalogue.py     tasks by name: task_by_name("countdown:numbers=4")
"""

from scaling.tasks.catalogue import TASKS, task_by_name
from scaling.tasks.task import Problem, Task
from scaling.tasks.text import CharTokenizer
from scaling.tasks.tree import PolicyTree, policy_tree, stack_trees

__all__ = ["TASKS", "CharTokenizer", "PolicyTree", "Problem", "Task", "policy_tree", "stack_trees", "task_by_name"]
