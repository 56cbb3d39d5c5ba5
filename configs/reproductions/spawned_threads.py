"""Countdown searched by threads that a parent calls for, against one thread that searches alone, taught and practised.

    python -m launch.reproduce spawned_threads --workdir runs/reproductions/spawned_threads

Two policies of one size imitate as many tokens of a symbolic solver's searches, serial ones or those of parents and
children (scaling/tasks/threads.py), and then practise with a reward for right answers, of the one thread or of the
family. The serial policy may write as many tokens as a family takes one after another, or as its longest thread has
room for, whichever is more.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from configs.reproductions import _imitation as imitation
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks.countdown import Countdown
from scaling.tasks.task import Problem
from scaling.tasks.text import CharTokenizer
from scaling.tasks.threads import Threads
from scaling.train.objectives import PolicyGradient

TASK = Countdown(numbers=3, largest=10, smallest_target=1, largest_target=99)
THREADS = Threads(TASK)
TOKENS = CharTokenizer(THREADS.alphabet)
MODEL = imitation.small(TOKENS, 64)
SEQ = {"serial": 160, "spawned": 88}
BATCH = {"serial": 20, "spawned": 36}  # texts; as many tokens
STEPS, EXAMPLES, PROBLEMS = 800, 5000, 500
ROUNDS, PRACTISED, GROUP, UPDATES, RATE = 3, 64, 4, 12, 3e-4
GRADIENT = PolicyGradient(group=1, advantage="given", old="current", normalize="token")
Thread = tuple[str, str]  # what a thread read, and wrote


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="spawned_threads",
        methods=(166,),
        claim="A policy that calls for child threads solves more Countdowns than a serial search of as many tokens "
        "one after another, and of as much context, after imitation and after practice",
        source="Pan et al. 2025, Learning adaptive parallel reasoning with language models, arXiv:2504.15466",
        smallest_effect=0.05,
        unit="problems solved by families, less by serial searches: after imitation or practice, whichever is less",
        minutes=5,
        not_covered="four numbers, and serial searches that are guided: the solver tries first moves in a fixed order "
        "and calls for all of them. Equal total tokens: a family writes several times those of a serial search "
        "(details). Threads are written by an engine as a batch; nested calls are not made",
        simulated=False,
        run=run,
    )


def taught(way: str, problems: Sequence[Problem], rng: np.random.Generator) -> list[Thread]:
    """A solver's texts: a serial search of each, or of a family the call, a child that finds, four, the answer."""
    found = []
    for problem in problems:
        if way == "serial":
            found.append((problem.prompt, THREADS.serial(problem)[: SEQ[way] + 1 - len(problem.prompt)]))
            continue
        calls = list(THREADS.firsts(problem))
        texts = [THREADS.searched(problem, call) for call in calls]
        finds = [i for i, text in enumerate(texts) if text.endswith("!.")]
        reply = THREADS.reply(calls, texts)
        found.append((problem.prompt, THREADS.called(problem)))
        chosen = (rng.choice(finds), *rng.integers(len(calls), size=4))
        found += [(THREADS.child(problem, calls[i]), texts[i]) for i in chosen]
        found.append((problem.prompt + reply, THREADS.answered(reply)))
    return found


class Family:
    """Every thread of one search, what it claims, and what it took."""

    def __init__(self, problem: Problem):
        self.problem, self.threads, self.final, self.sequential = problem, list[Thread](), "", 0

    @property
    def right(self) -> bool:
        return THREADS.verify(self.problem, self.final)

    @property
    def context(self) -> int:
        return max(len(read) + len(wrote) for read, wrote in self.threads)

    @property
    def tokens(self) -> int:
        return sum(len(wrote) for _, wrote in self.threads)


def searched(
    way: str, writer: imitation.Writer, params: Any, problems: Sequence[Problem], each: int, seed: int
) -> list[Family]:
    """So many families of every problem, one after another; a serial search is a family of one."""
    found = [Family(p) for p in problems for _ in range(each)]
    firsts = writer.write(params, [p.prompt for p in problems], each, seed)
    calls: list[list[str]] = []
    for family, text in zip(found, (text for row in firsts for text in row), strict=True):
        family.threads, family.final, family.sequential = [(family.problem.prompt, text)], text, len(text)
        calls.append(THREADS.calls(text) if way == "spawned" else [])
    if way == "serial":
        return found
    asked = [THREADS.child(family.problem, call) for family, row in zip(found, calls, strict=True) for call in row]
    texts = iter([row[0] for row in writer.write(params, asked, 1, seed + 1)] if asked else [])
    replies = []
    for family, row in zip(found, calls, strict=True):
        wrote = [next(texts) for _ in row]
        family.threads += [(THREADS.child(family.problem, call), text) for call, text in zip(row, wrote, strict=True)]
        replies.append(THREADS.reply(row, wrote))
        family.sequential += max(map(len, wrote), default=0) + len(replies[-1])
    ends = [f.problem.prompt + reply for f, reply in zip(found, replies, strict=True)]
    for family, read, row in zip(found, ends, writer.write(params, ends, 1, seed + 2), strict=True):
        family.threads.append((read, row[0]))
        family.final, family.sequential = row[0], family.sequential + len(row[0])
    return found


def practice(way: str, writer: imitation.Writer, params: Any, seed: int, quick: bool) -> tuple[Any, float]:
    """(the parameters after ROUNDS of drawing and updating, FLOPs of updating): every thread of a family has its
    advantage, the reward less the mean of the problem's."""
    updates, flops = 2 if quick else UPDATES, 0.0
    train = replace(imitation.practised(GRADIENT, updates, BATCH[way], SEQ[way]), learning_rate=RATE)
    learner = imitation.Learner(MODEL, train)
    for number in range(1 if quick else ROUNDS):
        problems = TASK.generate(100 + number, 4 if quick else PRACTISED)
        families = searched(way, writer, params, problems, GROUP, 10 * number + seed)
        reward = np.array([family.right for family in families], float).reshape(-1, GROUP)
        gain = (reward - reward.mean(1, keepdims=True)).reshape(-1)
        mixed = [i for i in range(len(families)) if gain[i] or quick]
        texts = [(thread, gain[i]) for i in mixed for thread in families[i].threads]
        if not texts:
            continue
        rows = imitation.rows_of(TOKENS, SEQ[way], [(read, [(wrote, True)]) for (read, wrote), _ in texts])
        rows = {name: x[:, None] for name, x in rows.items()}
        rows["advantages"] = rows["weights"] * np.array([a for _, a in texts], np.float32)[:, None, None]
        rows["rewards"] = np.zeros((len(texts), 1), np.float32)
        params, flops = learner.learn(rows, seed + number, params), flops + learner.flops
    return params, flops


def measured(way: str, writer: imitation.Writer, params: Any, count: int) -> dict:
    """Of every held-out problem: right, tokens until the end, of the longest thread, and of all threads."""
    each = 4 if way == "serial" else 1
    families = searched(way, writer, params, TASK.generate(1, count, "test"), each, 1000)
    table = [[float(f.right), f.sequential, f.context, f.tokens] for f in families]
    return {"rows": np.array(table).reshape(count, each, 4).tolist(), "such as": [f.threads for f in families[:1]]}


def one(work: Workspace, way: str) -> dict:
    """Both measures of a way to search."""
    train = imitation.imitated(4 if work.quick else STEPS, SEQ[way], batch=BATCH[way])
    base, count = imitation.Learner(MODEL, train), 12 if work.quick else PROBLEMS
    problems = TASK.generate(0, 60 if work.quick else EXAMPLES)
    texts = taught(way, problems, np.random.default_rng(0))
    start = base.learn(imitation.rows_of(TOKENS, SEQ[way], [(read, [(wrote, True)]) for read, wrote in texts]), 0)
    writer = imitation.Writer(MODEL, start, TOKENS, SEQ[way], THREADS.ends)
    work.say(f"the {way} policy has imitated")
    found = {"imitation": measured(way, writer, start, count)}
    after, flops = practice(way, writer, start, 0, work.quick)
    work.say("and practised")
    return found | {"practice": measured(way, writer, after, count), "flops": base.flops + flops + writer.flops}


def run(work: Workspace) -> Measured:
    found = {way: work.keep(way, partial(one, work, way)) for way in SEQ}
    gaps, details = [], dict[str, Any]()
    for when in ("imitation", "practice"):
        serial, spawned = (np.array(found[way][when]["rows"]) for way in ("serial", "spawned"))
        solved, sequential, context, total = spawned[:, 0].T
        prompt = serial[:, 0, 2] - serial[:, 0, 1]
        room = np.maximum(sequential.mean(), context.mean() - prompt)[:, None]  # tokens that a serial search may write
        within = serial[..., 0] * (serial[..., 1] <= room)
        several = within.max(1)
        gaps.append(solved - within.mean(1))
        details[when] = {
            "families solve": float(solved.mean()), "serial searches solve": float(within.mean()),
            "one of 4 serial searches solves": float(several.mean()),
            "serial searches with all the room there is": float(serial[..., 0].mean()),
            "gap": float(gaps[-1].mean()), "interval of the gap": bootstrap_interval(gaps[-1]),
            "tokens of a family, one after another": float(sequential.mean()),
            "of its longest thread, with what it read": float(context.mean()),
            "of all its threads": float(total.mean()), "tokens that a serial search may write": float(room.mean()),
        }  # fmt: skip
    rows = np.stack(gaps, 1)

    def least(rows: np.ndarray) -> float:
        return float(rows.mean(0).min())

    flops = sum(found[way]["flops"] for way in SEQ)
    return Measured(least(rows), bootstrap_interval(rows, least), float(flops), details)
