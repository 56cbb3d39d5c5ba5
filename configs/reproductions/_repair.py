"""What four reproductions share: small policies that solve, repair, criticise and test programs of five lines.

A policy learns four forms of one task (scaling/tasks/repair.py), so that one training serves all of them: a program for
what an issue shows; the same with a broken program and what running it gave; a critique of a broken program, which says
of every line what it makes of the values that the issue shows before it, and whether these are those behind it, and
then the program anew; and what a program gives for an input that the issue does not show, worked out line by line.

Pilots settled the difficulty by accuracy alone, before anything was compared. Modulo 7 hardly a program was right after
500 to 1000 steps. Modulo 5, all forms at once, .46 were right after 500 steps and all after 800, but no critique told
anything; with 500 steps of critiques first and 500 of all forms .99 were right. In stages of 250 steps, the first two
of critiques, .05 are right after three, .43 after four and .47 after five, which is what is used, some 75 s of a core.
"""

from __future__ import annotations

import functools
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from configs.reproductions import _imitation as imitation
from models import transformer
from models.config import ModelConfig
from scaling import kept
from scaling.reproduction import Workspace
from scaling.tasks.repair import Issue, Program, Repair, after
from scaling.tasks.task import Problem
from scaling.tasks.text import CharTokenizer

TASK = Repair(modulus=5, lines=5)
RUN, JUDGE, TEST = "@", "!", "?"  # what a run gave follows, a verdict, an input
TOKENS = CharTokenizer(TASK.alphabet + RUN + JUDGE + TEST + "yn")
PROGRAM = 3 * TASK.lines  # characters of a program with its end
VERDICT = 3 * TASK.lines + 1  # of a critique with the mark behind it
TESTED = 3 * TASK.lines + 1  # of a test: operations and what they give in turn, with its end
SEQ = PROGRAM + 3 * (TASK.lines + 1) + VERDICT + PROGRAM  # of a program, an issue, a critique and a program
CRITIQUE = re.compile(rf"(?:[0-9]{{2}}[yn]){{{TASK.lines}}}")
STEPS, EXAMPLES, CRITIQUES = 250, 24_000, 2  # of a stage; stages in which critiques are learned


def solve(issue: Issue) -> str:
    """Asks for a program; `+1|*2|...` follows."""
    return f"{TASK.shows(issue)}>"


def repair(issue: Issue, program: Sequence[str]) -> str:
    """Asks for a program, given one and what it gave on the first input after every line."""
    gave = "".join(map(str, TASK.values(program, issue.inputs[0])[1:]))
    return f"{'|'.join(program)}{RUN}{gave};{TASK.shows(issue)}>"


def judge(issue: Issue, program: Sequence[str]) -> str:
    """Asks for a critique of every line, and for a program: `43y10n...>+1|*2|...` follows."""
    return f"{'|'.join(program)}{JUDGE}{TASK.shows(issue)}>"


def check(issue: Issue, given: int) -> str:
    """Asks for a test; operations and what an input is after each follow, `+14*21...`."""
    return f"{given}{TEST}{TASK.shows(issue)}>"


def critique(issue: Issue, program: Sequence[str]) -> str:
    """The right critique."""
    values = list(zip(*(TASK.values(issue.wanted, x) for x in issue.inputs), strict=True))
    found = []
    for line, (a, b), verdict in zip(program, values, TASK.verdicts(issue, program), strict=False):
        found.append(f"{after(a, line, TASK.modulus)}{after(b, line, TASK.modulus)}{verdict}")
    return "".join(found)


def unseen(issue: Issue) -> list[int]:
    """The inputs that the issue does not show."""
    return [x for x in range(TASK.modulus) if x not in issue.inputs]


def text_of(program: Program) -> str:
    return "|".join(program) + TASK.end


def lesson(problem: Problem, rng: np.random.Generator, critiques: bool) -> tuple[str, str]:
    """(a prompt, what is right), of a form drawn at random, or a critique alone.

    Programs to repair or to judge have errors in up to 60 % of their lines, half of them such as a run of the first
    input does not show.
    """
    issue, form = problem.instance, 1.0 if critiques else rng.random()
    if form < 0.3:
        return solve(issue), text_of(issue.wanted)
    if form < 0.45:
        given = unseen(issue)[int(rng.integers(TASK.modulus - 2))]
        values = TASK.values(issue.wanted, given)[1:]
        return check(issue, given), "".join(f"{a}{b}" for a, b in zip(issue.wanted, values, strict=True)) + TASK.end
    broken = TASK.injected(rng, issue.wanted, issue.inputs[0], rng.uniform(0, 0.6))
    if form < 0.7:
        return repair(issue, broken), text_of(issue.wanted)
    return judge(issue, broken), f"{critique(issue, broken)}>" + ("" if critiques else text_of(issue.wanted))


@functools.cache
def lessons(seed: int, count: int, critiques: bool) -> imitation.Rows:
    rng = np.random.default_rng([seed, critiques])
    pairs = [lesson(problem, rng, critiques) for problem in TASK.generate(seed, count)]
    return imitation.rows_of(TOKENS, SEQ - 1, [(prompt, [(text, True)]) for prompt, text in pairs])


def learner(width: int, quick: bool, steps: int = STEPS, rate: float = 5e-3) -> imitation.Learner:
    train = imitation.imitated(3 if quick else steps, SEQ - 1, rate, batch=64)
    return imitation.Learner(imitation.small(TOKENS, 16 if quick else width), train)


def policy(work: Workspace, width: int, stages: int, seed: int = 0) -> Any:
    """The parameters of a policy after so many stages, trained by whichever reproduction comes first.

    It learns critiques in the first two, all forms in any other, each time with a new optimizer.
    """
    file = work.shared / f"repairers{'_quick' * work.quick}" / f"{width}_{stages}_{seed}.npz"
    student = learner(width, work.quick)
    if not file.exists():
        start = policy(work, width, stages - 1, seed) if stages > 1 else None
        work.say(f"a policy of width {width} learns, stage {stages}")
        rows = lessons(stages, 500 if work.quick else EXAMPLES, stages <= CRITIQUES)
        whole = io.BytesIO()
        np.savez(whole, *jax.tree.leaves(jax.device_get(student.learn(rows, seed, start))))
        kept.write_atomically(file, whole.getvalue())
    return read(file, student.model)


def read(file: Any, model: ModelConfig) -> Any:
    shapes = jax.eval_shape(functools.partial(transformer.init, model), jax.random.key(0))
    with np.load(file, allow_pickle=False) as found:
        leaves = [found[f"arr_{i}"] for i in range(len(found.files))]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


class Drawn:
    """What a policy writes after prompts, each text drawn once: the i-th for a prompt is the same whoever asks.

    Ask for many at once with `fill`; `take` draws what is not there yet.
    """

    def __init__(self, model: ModelConfig, params: Any, seed: int = 0, writer: imitation.Writer | None = None):
        self.params, self.seed = params, seed
        self.writer = writer or imitation.Writer(model, params, TOKENS, SEQ)
        self._texts: dict[str, list[str]] = {}
        self._asked = 0  # batches so far

    @property
    def flops(self) -> float:
        return self.writer.flops

    def fill(self, asked: Mapping[str, int]) -> None:
        """So many texts for each prompt."""
        lacking: dict[int, list[str]] = {}
        for prompt, count in asked.items():
            more = count - len(self._texts.setdefault(prompt, []))
            if more > 0:
                lacking.setdefault(more, []).append(prompt)
        for more, prompts in sorted(lacking.items()):
            rows = self.writer.write(self.params, prompts, more, seed=1_000_000 * self.seed + self._asked)
            self._asked += 1
            for prompt, texts in zip(prompts, rows, strict=True):
                self._texts[prompt] += texts

    def take(self, prompt: str, count: int) -> list[str]:
        """The first so many texts for a prompt."""
        self.fill({prompt: count})
        return self._texts[prompt][:count]

    def programs(self, issues: Iterable[Issue], count: int) -> list[list[Program | None]]:
        """So many programs for each issue, None where one cannot be read."""
        asked = [solve(issue) for issue in issues]
        self.fill(dict.fromkeys(asked, count))
        return [[TASK.program(text) for text in self.take(prompt, count)] for prompt in asked]

    def each(self, prompts: Sequence[str]) -> list[str]:
        """A text for each prompt; one that is asked for several times gets as many texts."""
        self.fill(Counter(prompts))
        seen: Counter[str] = Counter()
        found = []
        for prompt in prompts:
            found.append(self._texts[prompt][seen[prompt]])
            seen[prompt] += 1
        return found


def judged(text: str) -> tuple[str, Program | None]:
    """(a letter for each line, "" where there is no critique, and the program behind it) of what follows `judge`."""
    said, _, rest = text.partition(">")
    read = CRITIQUE.fullmatch(said) is not None
    return (said[2::3], TASK.program(rest)) if read else ("", None)


def expected(text: str) -> int | None:
    """What a program has to give, of what follows `check`."""
    return int(text[-2]) if len(text) == TESTED and text[-2].isdecimal() and text.endswith(TASK.end) else None


def gives(program: Program, given: int) -> int:
    """What a program gives for an input."""
    return TASK.values(program, given)[-1]
