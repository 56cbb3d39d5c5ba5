"""What two reproductions share: a small policy that edits scenes and judges renderings of them.

One policy of three layers imitates both forms of scaling/tasks/scenes.py, an edit and a judgement for each scene. What
it imitates errs, and differs in care: judgements look at two of five objects and misread 13 % of the cells; of edits
half of the numbers are random, where the rate of one text is anything from none to all. It errs more: 7 % of its edits
are right, and 57 % of its judgements are on the right side.

Two earlier policies were discarded, since 1 % and 99 % of their edits were right: in the first an object stood so many
cells beyond the one before it, and what the second imitated did not err.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from configs.reproductions import _imitation as imitation
from models import transformer
from models.config import ModelConfig
from scaling import kept
from scaling.reproduction import Workspace
from scaling.tasks import CharTokenizer, Problem
from scaling.tasks.scenes import Critic, Scenes, displaced

TASK = Scenes(objects=5, cells=7, edits=2, slack=1)
CRITIC = Critic(cells=TASK.cells, looked=2, slips=15)
TOKENS = CharTokenizer(TASK.alphabet + CRITIC.alphabet)
SEQ, STEPS, EXAMPLES = 40, 900, 20_000
MODEL = ModelConfig(vocab_size=TOKENS.vocab_size, d_model=64, n_layers=3, n_heads=4).resolved()
ELSEWHERE = (0.5, 0.3, 0.1, 0.1)  # share of renderings in which 0 to 3 objects are in other cells
Question = tuple[str, str]  # what was asked for, and what is seen


def learner(quick: bool) -> imitation.Learner:
    return imitation.Learner(MODEL, imitation.imitated(4 if quick else STEPS, SEQ, batch=64))


def asked(problem: Problem) -> str:
    """The rendering that a problem asks for."""
    return TASK.rendered(problem.instance.order, problem.instance.goal)


def questions(problems: Sequence[Problem], seed: int) -> list[Question]:
    """A rendering of each, right or not."""
    rng = np.random.default_rng([seed, 2])
    counts = rng.choice(len(ELSEWHERE), len(problems), p=ELSEWHERE).tolist()
    return [(asked(p), displaced(asked(p), n, TASK.cells, rng)) for p, n in zip(problems, counts, strict=True)]


def hasty(problem: Problem, rng: np.random.Generator) -> str:
    """Edits of the statements that differ, of which some numbers, other than those that were there, are random."""
    rate, (order, start, _) = rng.random(), problem.instance
    steps = TASK.solution(problem, rng).removesuffix(TASK.end).split(TASK.delimiter)
    for i, step in enumerate(steps):
        if rng.random() < rate:
            other = (start[order.index(step[0])] + rng.integers(1, TASK.cells)) % TASK.cells
            steps[i] = f"{step[0]}{other}"
    return TASK.delimiter.join(steps) + TASK.end


def texts(examples: int, seed: int = 0) -> list[tuple[str, list[tuple[str, bool]]]]:
    """What the policy learns from: an edit of each scene, and a judgement."""
    rng, problems = np.random.default_rng([seed, 1]), TASK.generate(seed, examples)
    edits = [(p.prompt, hasty(p, rng)) for p in problems]
    judged = [(CRITIC.prompt(*pair), CRITIC.judgement(*pair, rng)) for pair in questions(problems, seed)]
    return [(prompt, [(text, True)]) for prompt, text in edits + judged]


def policy(work: Workspace) -> Any:
    """Its parameters, trained by whichever reproduction comes first."""
    file = work.shared / "scenes" / f"policy{'_quick' * work.quick}.npz"
    if not file.exists():
        work.say("a policy imitates edits and judgements")
        rows = imitation.rows_of(TOKENS, SEQ, texts(200 if work.quick else EXAMPLES))
        whole = io.BytesIO()
        np.savez(whole, *jax.tree.leaves(jax.device_get(learner(work.quick).learn(rows, 0))))
        kept.write_atomically(file, whole.getvalue())
    shapes = jax.eval_shape(partial(transformer.init, MODEL), jax.random.key(0))
    with np.load(file, allow_pickle=False) as found:
        leaves = [found[f"arr_{i}"] for i in range(len(found.files))]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def scored(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Scores `[questions, n]` of judgements, NaN of those that cannot be read."""
    read = [[CRITIC.read(text) for text in row] for row in texts]
    return np.array([[np.nan if one is None else one.score for one in row] for row in read], float)
