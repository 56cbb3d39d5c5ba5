"""What two reproductions share: a small policy that dawdles over chains of arithmetic, its practice, and its budgets.

One policy of 0.06M weights imitates chains of two operations modulo 5 (scaling/tasks/reasoned.py), in which a step is
written once, twice or three times; a quarter of the thoughts end early, and some are none. Half a minute on one core.
"""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import transformer
from models.config import ModelConfig
from scaling import kept
from scaling.reproduction import Workspace
from scaling.tasks.reasoned import Reasoned
from scaling.tasks.task import Problem
from scaling.tasks.text import CharTokenizer
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.objectives import Completions, PolicyGradient
from scaling.train.state import TrainState
from scaling.train.step import init_state, train_step
from search.posttrain import PostTraining, RolloutConfig, Rollouts
from search.posttrain.progress import Progress, segments

TASK, SEQ = Reasoned(modulus=5, operations=2, slips=0, direct=15, cut=25), 47
TOKENS = CharTokenizer.of(TASK)
MODEL = ModelConfig(vocab_size=TOKENS.vocab_size, d_model=48, n_layers=2, n_heads=4).resolved()
END = int(TOKENS.encode(TASK.end)[0])
PROMPTS, GROUP, MOST = 16, 8, 3  # times that a step is written, at most
BUDGETS = tuple(range(3, 40, 3))  # tokens of a completion
ANSWER = 3  # of which the answer, its mark and the end take so many
FORCED = Progress(samples=1, tokens=ANSWER - 1)
IMITATED = TrainConfig(
    steps=500, batch_size=64, seq_len=SEQ, learning_rate=5e-3, weight_decay=0.0, objective=Completions(),
    optimizer="muon",
)


def dawdled(problem: Problem, rng: np.random.Generator) -> str:
    """A right completion in which steps come again."""
    *steps, answer = TASK.solution(problem, rng).split(TASK.delimiter)
    return "".join((step + TASK.delimiter) * int(rng.integers(1, MOST + 1)) for step in steps) + answer


def start(work: Workspace, steps: int) -> Any:
    """The policy after so many steps of imitation, trained by whichever reproduction comes first."""
    file = work.shared / "dawdling" / f"{steps}.npz"
    if not file.exists():
        work.say("a policy imitates")
        whole = io.BytesIO()
        np.savez(whole, *jax.tree.leaves(imitated(steps)))
        kept.write_atomically(file, whole.getvalue())
    shapes = jax.eval_shape(partial(transformer.init, MODEL), jax.random.key(0))
    with np.load(file, allow_pickle=False) as found:
        leaves = [found[f"arr_{i}"] for i in range(len(found.files))]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def imitated(steps: int) -> Any:
    """The parameters after so many steps of imitation of 1,500 chains."""
    rng, problems = np.random.default_rng(0), TASK.generate(0, 1500)
    size = len(problems)
    rows = {"tokens": np.zeros((size, SEQ + 1), np.int32), "weights": np.zeros((size, SEQ), np.float32)}
    for i, problem in enumerate(problems):
        whole = TOKENS.encode(problem.prompt + dawdled(problem, rng))
        rows["tokens"][i, : len(whole)] = whole
        rows["weights"][i, len(problem.prompt) - 1 : len(whole) - 1] = 1
    state = jax.jit(partial(init_state, MODEL, IMITATED))(np.uint32(0), hyperparameters(IMITATED))

    def step(state: TrainState, key: jax.Array) -> tuple[TrainState, None]:
        chosen = jax.random.randint(key, (IMITATED.batch_size,), 0, len(problems))
        batch = jax.tree.map(lambda x: jnp.asarray(x)[chosen], rows)
        return train_step(MODEL, IMITATED, jnp.inf, state, batch, hyperparameters(IMITATED))[0], None

    keys = jax.random.split(jax.random.key(0), steps)
    return jax.device_get(jax.jit(lambda state, keys: jax.lax.scan(step, state, keys)[0])(state, keys).params)


def start_flops(steps: int) -> float:
    return float(IMITATED.flops(MODEL, IMITATED.tokens_per_step * steps, {}))


def rollouts(params: Any, **more: Any) -> Rollouts:
    """What such a policy practises with: other problems, and a reward of 1 for a right answer."""
    return Rollouts(
        MODEL, params, TOKENS, TASK.generate(7, 1000), lambda problem, text: float(TASK.verify(problem, text)),
        prompts=PROMPTS, group=GROUP, seq_len=SEQ, ends=(END,), **more,
    )  # fmt: skip


def practise(
    work: Workspace, name: str, seed: int, drawn: Rollouts, objective: PolicyGradient, steps: int, params: Any,
    anchor_every: int | None = None,
) -> tuple[Any, list[dict]]:  # fmt: skip
    """(the parameters after so many updates, its rows)."""
    drawn.seed, folder = seed, Path(work.folder) / f"{name}{seed}"
    train = TrainConfig(
        steps=steps, batch_size=PROMPTS, seq_len=SEQ, learning_rate=1e-3, schedule="constant", warmup_steps=5,
        weight_decay=0.0, objective=objective, init_from="the policy that dawdles", log_every=10, checkpoint_every=30,
        seed=seed,
    )  # fmt: skip
    state = PostTraining(MODEL, train, params, drawn, folder, RolloutConfig(anchor_every=anchor_every)).run()
    return state.params, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def judged(plain: Rollouts, params: Any, problems: int, samples: int = 4) -> dict[str, Any]:
    """Success, tokens and success by budget of thoughts on held-out problems, drawn at temperature 1.

    Whoever writes more than a budget is cut behind the last step that leaves room for an answer, and answers at once.
    """
    found = plain.drawn(TASK.generate(1, problems, "test"), params, samples, 0)
    right = np.array([TASK.verify(one.problem, one.text) for one in found.episodes], float)
    length = np.array([len(one.tokens) for one in found.episodes])
    texts = [[one.text[:n] for n in range(1, len(one.tokens) + 1)] for one in found.episodes]
    ends = [segments(one, TASK.delimiter) for one in texts]
    curve, flops = [], float(found.flops)
    for budget in BUDGETS:
        cut = np.flatnonzero(length > budget)
        places = [max((n for n in ends[i] if n <= budget - ANSWER), default=0) for i in cut]
        asked = [(found.episodes[i], n) for i, n in zip(cut.tolist(), places, strict=True)]
        forced, more = plain.forced(asked, FORCED, budget) if asked else ([], 0)
        here = right.copy()
        here[cut] = forced
        curve.append(float(here.mean()))
        flops += more
    return {"success": float(right.mean()), "tokens": float(length.mean()), "by budget": curve, "flops": flops}


def regret(curve: list[float]) -> float:
    """The mean over budgets of the share that is not right."""
    return 1 - float(np.mean(curve))
