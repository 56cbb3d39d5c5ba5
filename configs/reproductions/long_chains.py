"""How few long chains of thought make a policy think, which ones teach more, and what a short practice adds.

    python -m launch.reproduce long_chains --workdir runs/reproductions/long_chains

Policies of 0.06M weights answer chains of 2 to 5 operations at once. They read whole thoughts, with results that are
taken back, of 100, 400 or 1,600 other chains, in as many steps. Once more with those of chains that the policy seldom
answers (below 0.3, exact), in as many tokens as 400 of any have. The one of 1,600 practises (GRPO). Of a policy of one
seed that is not judged 78 % of the chains were hard in this sense.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs.reproductions import _imitation as imitation
from models.transformer import shifted
from scaling.reproduction import Measured, Reproduction, Workspace, least
from scaling.tasks.mixed import Mixed
from scaling.tasks.reasoned import EARLY, Reasoned
from scaling.tasks.task import Problem
from scaling.tasks.text import CharTokenizer
from scaling.train.objectives import PolicyGradient
from scaling.train.objectives.objective import read, target_logprobs
from search.posttrain import PostTraining, Rollouts
from search.posttrain.selection import hard, within_tokens

LENGTHS = (2, 3, 4, 5)
TASK = Mixed(
    tuple(Reasoned(modulus=5, operations=n, slips=20, direct=0, cut=0) for n in LENGTHS), "operations", LENGTHS,
    (1, 1, 1, 1),
)  # fmt: skip
TOKENS = CharTokenizer.of(*TASK.parts)
MODEL = imitation.small(TOKENS)
SEQ, SHORT = 80, 20  # tokens of a row with a thought, and of one without
SIZES, EQUAL, HARD = (100, 400, 1600), 400, 0.3
PROMPTS, GROUP = 16, 8
TRIGGERED, SELECTED, PRACTISED = 0.1, 0.02, 0.02  # least of interest, all of success


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="long_chains",
        methods=(47,),
        claim="A few long chains of thought make a policy think and lift its success by 10 points; those of hard "
        "problems lift it by 2 points more in as many tokens; a short practice adds 2 points",
        source="Xu et al. 2025, RedStar, arXiv:2501.11284",
        smallest_effect=1.0,
        unit="the least of: success gained by 1,600 chains, in units of 0.1; by hard ones above any, and by practice, "
        "in units of 0.02",
        minutes=8,
        not_covered="language models; several domains; more than 1,600 chains; searches other than results that are "
        "taken back",
        simulated=False,
        run=run,
    )


def right_answer(problem: Problem) -> str:
    part = TASK.parts[problem.instance.part]
    assert isinstance(part, Reasoned)
    return part.right_answer(problem.instance.problem)


def at_once(problems: Sequence[Problem]) -> imitation.Rows:
    """Answers without a thought."""
    return imitation.rows_of(
        TOKENS, SHORT, [(p.prompt, [(f"{EARLY}{right_answer(p)}{TASK.end}", True)]) for p in problems]
    )


def chains(count: int, seed: int) -> list[tuple[Problem, str]]:
    """Problems with a thought each, of those that fit."""
    rng = np.random.default_rng(seed)
    found = [(p, TASK.solution(p, rng)) for p in TASK.generate(3 + seed, count)]
    return [(p, text) for p, text in found if len(p.prompt + text) <= SEQ]


@jax.jit
def rates_of(params: Any, rows: imitation.Rows) -> jax.Array:
    """The probability of the answer of every row `[n]`."""
    inputs, targets, weights, _ = shifted(rows["tokens"], rows["weights"], None)
    return jax.numpy.exp(jax.numpy.sum(target_logprobs(read(MODEL, params, inputs), targets) * weights, 1))


def judged(writer: imitation.Writer, params: Any, count: int) -> dict[str, float]:
    """Of held-out problems: success, also of hard and long ones, and how often and how long the policy thinks."""
    asked = TASK.generate(1, count, "test")
    drawn = writer.write(params, [p.prompt for p in asked], 2, 1)
    right = np.array([[TASK.verify(p, text) for text in texts] for p, texts in zip(asked, drawn, strict=True)])
    level = np.array([TASK.level(p) for p in asked])
    thinks = [not text.startswith(EARLY) for texts in drawn for text in texts]
    by_level = {f"success, {n} operations": float(right[level == n].mean()) for n in sorted(set(level.astype(int)))}
    tokens = float(np.mean([len(text) for texts in drawn for text in texts]))
    return {"success": float(right.mean()), "thinks": float(np.mean(thinks)), "tokens": tokens} | by_level


def practise(params: Any, seed: int, steps: int, folder: Path) -> tuple[Any, float]:
    """(the parameters after GRPO, FLOPs)."""
    drawn = Rollouts(
        MODEL, params, TOKENS, TASK.generate(50, 1000), lambda problem, text: float(TASK.verify(problem, text)),
        prompts=PROMPTS, group=GROUP, seq_len=SEQ, seed=seed, ends=(int(TOKENS.encode(TASK.end)[0]),),
    )  # fmt: skip
    train = imitation.practised(PolicyGradient(group=GROUP), steps, PROMPTS, SEQ)
    run = PostTraining(MODEL, train, params, drawn, folder)
    return run.run().params, float(run.flops)


def one(work: Workspace, seed: int) -> dict:
    """All policies of one seed."""
    steps, tuned, practice, count, pool = (3, 2, 2, 12, 600) if work.quick else (400, 300, 15, 400, 4000)
    sizes, equal = ((20, 50), 50) if work.quick else (SIZES, EQUAL)
    base = imitation.Learner(MODEL, imitation.imitated(steps, SHORT, batch=64))
    tune = imitation.Learner(MODEL, imitation.imitated(tuned, SEQ))
    start = base.learn(at_once(TASK.generate(0, 4 * pool)), seed)
    worked = chains(pool, seed)
    lengths = np.array([len(p.prompt + text) for p, text in worked])
    rates = np.asarray(rates_of(start, at_once([p for p, _ in worked])), np.float64)
    sets = {f"any, {n}": np.arange(n) for n in sizes}
    sets["hard"] = within_tokens(hard(rates, HARD), lengths, int(lengths[:equal].sum()))
    writer = imitation.Writer(MODEL, start, TOKENS, SEQ)
    found: dict[str, Any] = {"before": judged(writer, start, count), "hard": float(np.mean(rates < HARD))}
    found["examples in the hard set"] = len(sets["hard"])
    for name, chosen in sets.items():
        rows = imitation.rows_of(TOKENS, SEQ, [(worked[i][0].prompt, [(worked[i][1], True)]) for i in chosen])
        after = tune.learn(rows, seed, start)
        found[f"{name} chains"] = judged(writer, after, count)
        if name == f"any, {sizes[-1]}":
            last, spent = practise(after, seed, practice, work.folder / f"practice{seed}")
            found["practised"] = judged(writer, last, count)
    return found | {"flops": base.flops + len(sets) * tune.flops + spent + writer.flops}


def run(work: Workspace) -> Measured:
    every = []
    for seed in range(2 if work.quick else 4):
        work.say(f"seed {seed}: answers, thinks, practises")
        every.append(work.keep(f"seed{seed}", partial(one, work, seed)))
    sizes, equal = ((20, 50), 50) if work.quick else (SIZES, EQUAL)

    def of(name: str) -> np.ndarray:
        return np.array([x[name]["success"] for x in every])

    most = of(f"any, {sizes[-1]} chains")
    parts = {
        "by chains": most - of("before"), "by hard ones above any": of("hard chains") - of(f"any, {equal} chains"),
        "by practice": of("practised") - most,
    }  # fmt: skip
    units = (TRIGGERED, SELECTED, PRACTISED)
    effect, interval = least([gain / unit for gain, unit in zip(parts.values(), units, strict=True)])
    line = {"x": list(sizes), "y": [float(of(f"any, {n} chains").mean()) for n in sizes]}
    details = {
        "curves": [{"x": "chains", "y": "success", "log": "x", "lines": {"any": line}}],
        "success gained": {name: gain.tolist() for name, gain in parts.items()}, "seeds": every,
    }  # fmt: skip
    return Measured(effect, interval, sum(x["flops"] for x in every), details)
